//! Jobs under Slurm: `srun` over two nodes, and the site script as it is.
#![allow(clippy::unwrap_used)]

use lunasa_mpi_tests::demo;
use lunasa_mpi_tests::launch::{Bed, Job, Outcome, built, can_run, root};
use std::time::{Duration, SystemTime};

/// What the batch job that `outcome` submitted wrote into the directory of submission; the file is removed.
fn batch_output(outcome: &Outcome) -> String {
    let id = outcome.stdout.lines().find_map(|line| line.strip_prefix("Submitted batch job "));
    let id = id.unwrap_or_else(|| panic!("sbatch names no job:\n{}", outcome.report()));
    let path = root().join(format!("lunasa-demo-{id}.out"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    std::fs::remove_file(path).unwrap();
    text
}

fn demo_on(nodes: usize) {
    let start = SystemTime::now();
    // The lab's nodes share this machine's cores.
    let job = Job::sbatch("slurm/demo.sbatch", nodes).env("OMPI_MCA_mpi_yield_when_idle", "1");
    let outcome = job.timeout(Duration::from_secs(180)).run();
    let printed = batch_output(&outcome);
    demo::expect_ok(&outcome, &printed, 4 * nodes);
    outcome.expect_ok();
    demo::expect_files(start);
}

#[test]
fn srun_makes_one_world_of_two_nodes() {
    if can_run(Bed::Slurm(2)) {
        let job = Job::slurm(2, 4).args(["hello"]).env("OMPI_MCA_mpi_yield_when_idle", "1");
        let outcome = job.run().expect_ok();
        assert!(outcome.stdout.contains("ok hello ranks=4"), "{}", outcome.report());
    }
}

#[test]
fn the_doctor_has_one_table_for_two_nodes() {
    if can_run(Bed::Slurm(2)) {
        let job = Job::slurm(2, 4).program(built("lunasa")).args(["doctor", "--set", "lunasa.registrar=host"]);
        let outcome = job.env("OMPI_MCA_mpi_yield_when_idle", "1").run().expect_ok();
        let words = ["┆ 0-3   ┆ ok ┆ 4 ranks", "from the next rank by mpi", "doctor: ok ranks=4"];
        assert!(words.iter().all(|words| outcome.stdout.contains(words)), "{}", outcome.report());
    }
}

#[test]
fn the_demos_batch_script_runs_on_one_node_and_on_two() {
    if can_run(Bed::Slurm(2)) {
        // One after another: they write to the same place.
        [1, 2].into_iter().for_each(demo_on);
    }
}
