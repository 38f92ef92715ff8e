//! The built demo, run as a user runs it.

use lunasa::trace::Trace;
use lunasa_mpi_tests::demo;
use lunasa_mpi_tests::launch::{Bed, Job, built, can_run, root};
use std::time::{Duration, SystemTime};

fn demo(ranks: usize) {
    if can_run(Bed::OpenMpi) {
        let start = SystemTime::now();
        let job = Job::open_mpi(ranks).program(built("lunasa")).args(["demo"]).timeout(Duration::from_secs(120));
        let outcome = job.run().expect_ok();
        demo::expect_ok(&outcome, &outcome.stdout, ranks);
        demo::expect_files(start);
    }
}

#[test]
fn the_demo_is_right_on_1_4_and_8_ranks() {
    // One after another: they write to the same place.
    [1, 4, 8].into_iter().for_each(demo);
}

#[test]
fn each_rank_of_a_recorded_demo_leaves_a_whole_trace_of_its_own() {
    if !can_run(Bed::OpenMpi) {
        return;
    }
    let directory = root().join("target/test/traces");
    std::fs::create_dir_all(&directory).expect("a directory for the traces");
    let name = directory.join("demo-%r.trace");
    // The environment of rank 0 counts, for all.
    let job = Job::open_mpi(4).program(built("lunasa")).args(["demo", "--steps", "20"]);
    job.env("LUNASA_TRACE_RECORD", &name).timeout(Duration::from_secs(120)).run().expect_ok();
    for rank in 0..4 {
        let file = directory.join(format!("demo-{rank}.trace"));
        let trace = Trace::read(&file).expect("a trace of each rank");
        assert!(trace.is_whole() && trace.rank() == rank && trace.objects() > 0, "{}", file.display());
        std::fs::remove_file(&file).expect("it is ours");
    }
}
