//! `lunasa doctor` on a host as it is: alone, and on the ranks of a job. With a device `verbs` runs it.

use lunasa_mpi_tests::launch::{Bed, Job, Outcome, built, can_run};

fn doctor(job: Job, args: &[&str]) -> Outcome {
    job.program(built("lunasa")).args(["doctor"]).args(args).run()
}

/// The doctor found something that will fail, and said so by its words and its status.
fn expect_failure(outcome: &Outcome, words: &[&str]) {
    assert!(!outcome.timed_out && !outcome.status.success(), "{}", outcome.report());
    let missing = words.iter().find(|words| !outcome.stdout.contains(**words));
    assert_eq!(missing, None, "{}", outcome.report());
}

#[test]
fn alone_it_needs_no_launcher_and_finds_what_will_fail() {
    let well = doctor(Job::alone(), &["--set", "lunasa.registrar=host"]).expect_ok();
    assert!(
        well.stdout.contains("with registrar host") && well.stdout.contains("doctor: ok ranks=1"),
        "{}",
        well.report()
    );
    let ill = doctor(Job::alone(), &["--set", "lunasa.registrar=verbs", "--set", "lunasa.verbs.device=no-such-device"]);
    expect_failure(&ill, &["doctor: FAILS ranks=1"]);
}

#[test]
fn a_job_has_one_table() {
    if !can_run(Bed::OpenMpi) {
        return;
    }
    let well = doctor(Job::open_mpi(4), &["--set", "lunasa.registrar=host"]).expect_ok();
    let rows = |what: &str| well.stdout.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    let launcher = rows("│ launcher ");
    assert!(launcher.len() == 1 && launcher[0].contains("0-3") && launcher[0].contains("4 ranks"), "{}", well.report());
    assert!(
        well.stdout.contains("from the next rank by shm") && well.stdout.contains("doctor: ok ranks=4"),
        "{}",
        well.report()
    );
    let json = doctor(Job::open_mpi(2), &["--json", "--set", "lunasa.registrar=host"]).expect_ok();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON and nothing else");
    assert_eq!((json["ok"].as_bool(), json["ranks"].as_array().map(Vec::len)), (Some(true), Some(2)));
}

#[test]
fn what_will_fail_on_all_ranks_together_is_found() {
    if !can_run(Bed::OpenMpi) {
        return;
    }
    let settings =
        ["--set", "lunasa.registrar=host", "--set", "lunasa.host.lock=true", "--set", "lunasa.pin_budget='100 MiB'"];
    let ill = doctor(Job::open_mpi(2), &settings);
    expect_failure(
        &ill,
        &["the first blocks of all ranks take 128 MiB", "lunasa.pin_budget = \"100 MiB\"", "doctor: FAILS ranks=2"],
    );
}
