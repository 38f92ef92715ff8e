//! The launcher itself: what it passes on, and that nothing outlives a job.
#![allow(clippy::unwrap_used)]

use lunasa_mpi_tests::launch::{Bed, Job, can_run};
use std::path::Path;
use std::time::Duration;

/// The id of a running process whose command line has `word` in it.
fn running(word: &str) -> Option<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|id| {
        let line = std::fs::read(Path::new("/proc").join(id).join("cmdline")).unwrap_or_default();
        id.parse::<u32>().is_ok() && line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    })
}

/// A time to sleep that no other process on this machine sleeps for, as a mark.
fn naptime(salt: u32) -> String {
    format!("6{salt}.{}", std::process::id())
}

fn timeout_ends_every_rank(bed: Bed, salt: u32) {
    let nap = naptime(salt);
    // The ranks are deaf to polite signals, and in sessions of their own.
    let script = format!("trap '' TERM HUP INT; setsid sleep {nap} & sleep {nap}; sleep {nap}");
    let job = Job::on(bed, 2).program("/bin/sh").args(["-c", &script]).timeout(Duration::from_secs(2));
    let outcome = job.run();
    assert!(outcome.timed_out && outcome.elapsed >= Duration::from_secs(2), "{}", outcome.report());
    assert!(outcome.elapsed < Duration::from_secs(8), "{}", outcome.report());
    assert_eq!(running(&nap), None, "a rank outlived its job");
}

#[test]
fn a_job_whose_time_is_over_leaves_no_rank_on_one_host() {
    if can_run(Bed::OpenMpi) {
        timeout_ends_every_rank(Bed::OpenMpi, 1);
    }
}

#[test]
fn a_job_whose_time_is_over_leaves_no_rank_on_several_hosts() {
    if can_run(Bed::Hosts(2)) {
        timeout_ends_every_rank(Bed::Hosts(2), 3);
    }
}

#[test]
fn a_process_that_outlives_its_job_is_killed_and_counted() {
    if can_run(Bed::OpenMpi) {
        let nap = naptime(2);
        let script = format!("setsid sleep {nap} >/dev/null 2>&1 & exit 0");
        let outcome = Job::open_mpi(1).program("/bin/sh").args(["-c", &script]).run();
        assert_eq!((outcome.stragglers, outcome.timed_out), (1, false), "{}", outcome.report());
        assert_eq!(running(&nap), None);
    }
}

#[test]
fn a_lunasa_variable_of_the_caller_does_not_reach_the_ranks() {
    if can_run(Bed::OpenMpi) {
        let me = std::env::current_exe().unwrap();
        // This test again, as the caller of a job, with a LUNASA_ variable in its environment.
        let inner = std::process::Command::new(me)
            .args(["--exact", "a_rank_sees_the_jobs_variables_only"])
            .env("LUNASA_FROM_CALLER", "must not arrive")
            .output()
            .unwrap();
        assert!(inner.status.success(), "{}", String::from_utf8_lossy(&inner.stdout));
    }
}

#[test]
fn a_rank_sees_the_jobs_variables_only() {
    if can_run(Bed::OpenMpi) {
        let job = Job::open_mpi(1).env("LUNASA_OF_THE_JOB", "yes").program("/usr/bin/env");
        let stdout = job.run().expect_ok().stdout;
        assert!(stdout.lines().any(|line| line == "LUNASA_OF_THE_JOB=yes"), "{stdout}");
        assert!(!stdout.contains("LUNASA_FROM_CALLER"), "{stdout}");
    }
}

#[test]
fn a_rank_that_fails_fails_the_job_with_its_words() {
    if can_run(Bed::OpenMpi) {
        let outcome = Job::open_mpi(2).args(["no-such-case"]).run().expect_failure();
        assert!(outcome.stderr.contains("no case \"no-such-case\""), "{}", outcome.report());
    }
}
