//! The case `numa` on machines with several NUMA nodes, which `mpi-tests/lab/rdma-vm` boots; on this one `one_host` runs it.

use lunasa_mpi_tests::launch::{Bed, Job, built, can_run, root, skip};
use std::time::Duration;

/// The machine could not be made here.
const NO_MACHINE: i32 = 125;

/// Runs the case on as many ranks as there are processors.
fn on_a_machine(options: &[&str], ranks: usize, case: &[&str]) {
    if !can_run(Bed::OpenMpi) {
        return;
    }
    let lab = root().join("mpi-tests/lab/rdma-vm");
    if !lab.exists() {
        return skip("a machine with several NUMA nodes", "there is no mpi-tests/lab/rdma-vm");
    }
    let (ranks, program) = (ranks.to_string(), built("lunasa-mpi-tests"));
    let job = Job::alone().program(lab).args(["run", "--rdma", "none", "--smp", &ranks]).args(options);
    let job = job.args(["--", "mpirun", "-n", &ranks]).args([program.as_os_str()]).args(case);
    let outcome = job.timeout(Duration::from_secs(400)).run();
    if outcome.status.code() == Some(NO_MACHINE) && !outcome.stdout.contains("ok numa") {
        return skip("a machine with several NUMA nodes", &outcome.stderr);
    }
    let outcome = outcome.expect_ok();
    assert!(outcome.stdout.lines().any(|line| line == format!("ok numa ranks={ranks}")), "{}", outcome.report());
}

#[test]
fn two_nodes() {
    on_a_machine(&["--numa", "2"], 2, &["numa"]);
}

#[test]
fn four_nodes_and_one_of_them_full() {
    on_a_machine(&["--numa", "4"], 4, &["numa", "fill"]);
}

#[test]
fn a_node_without_processors() {
    on_a_machine(&["--numa", "3", "--cpuless", "1"], 2, &["numa"]);
}

#[test]
fn huge_pages_on_each_node() {
    on_a_machine(&["--numa", "2", "--hugepages", "128"], 2, &["numa"]);
}
