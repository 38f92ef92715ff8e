//! The built demo, run as a user runs it.

use lunasa_mpi_tests::demo;
use lunasa_mpi_tests::launch::{Bed, Job, built, can_run};
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
