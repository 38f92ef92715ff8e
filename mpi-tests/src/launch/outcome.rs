//! What came of a job, and the two judgements about it.

use std::process::ExitStatus;
use std::time::Duration;

/// How many lines of each stream a failed expectation shows.
const SHOWN: usize = 60;

/// How a job ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command, as one might type it.
    pub command: String,
    /// The launcher's exit status.
    pub status: ExitStatus,
    /// What all ranks wrote to their standard output.
    pub stdout: String,
    /// What all ranks, and the launcher, wrote to standard error.
    pub stderr: String,
    /// From the start of the launcher to its end.
    pub elapsed: Duration,
    /// The job's time was over, and it was killed.
    pub timed_out: bool,
    /// Processes that outlived the launcher and had to be killed.
    pub stragglers: usize,
}

impl Outcome {
    /// The job ended by itself, with status 0, and left no process behind.
    ///
    /// # Panics
    /// When it did not, with the command, its status and the end of both streams.
    #[track_caller]
    pub fn expect_ok(self) -> Self {
        if self.timed_out || self.stragglers > 0 || !self.status.success() {
            panic!("expected this job to succeed:\n{}", self.report());
        }
        self
    }

    /// The job ended by itself, with a status other than 0: it failed, and did not hang.
    ///
    /// # Panics
    /// When it did not, with the command, its status and the end of both streams.
    #[track_caller]
    pub fn expect_failure(self) -> Self {
        if self.timed_out || self.stragglers > 0 || self.status.success() {
            panic!("expected this job to fail by itself:\n{}", self.report());
        }
        self
    }

    /// The command, how it ended, and the last 60 lines of each stream.
    pub fn report(&self) -> String {
        let how = match (self.timed_out, self.stragglers) {
            (true, _) => "killed when its time was over; ".to_owned(),
            (false, 0) => String::new(),
            (false, left) => format!("{left} processes outlived it; "),
        };
        let Self { command, status, elapsed, .. } = self;
        let (stdout, stderr) = (tail(&self.stdout), tail(&self.stderr));
        format!("$ {command}\n{how}{status} after {elapsed:.1?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn outcome(code: i32) -> Outcome {
        Outcome {
            command: "mpirun -n 2 prog".into(),
            status: ExitStatus::from_raw(code << 8),
            stdout: (0..100).map(|i| format!("line {i}\n")).collect(),
            stderr: "why".into(),
            elapsed: Duration::from_secs(1),
            timed_out: false,
            stragglers: 0,
        }
    }

    fn panics(judge: impl FnOnce() -> Outcome + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(judge).is_err()
    }

    #[test]
    fn only_status_zero_is_ok_and_only_another_is_a_failure() {
        assert_eq!(outcome(0).expect_ok().stderr, "why");
        assert_eq!(outcome(3).expect_failure().status.code(), Some(3));
        assert!(panics(|| outcome(3).expect_ok()));
        assert!(panics(|| outcome(0).expect_failure()));
    }

    #[test]
    fn a_job_that_was_killed_or_left_processes_is_neither() {
        for broken in [Outcome { timed_out: true, ..outcome(3) }, Outcome { stragglers: 1, ..outcome(3) }] {
            assert!(panics(|| broken.expect_failure()));
        }
        for broken in [Outcome { timed_out: true, ..outcome(0) }, Outcome { stragglers: 1, ..outcome(0) }] {
            assert!(panics(|| broken.expect_ok()));
        }
    }

    #[test]
    fn the_report_shows_the_command_the_status_and_the_last_60_lines() {
        let report = outcome(3).report();
        assert!(report.contains("mpirun -n 2 prog") && report.contains("exit status: 3") && report.contains("why"));
        assert!(report.contains("line 40\n") && report.contains("line 99\n") && !report.contains("line 39\n"));
    }
}
