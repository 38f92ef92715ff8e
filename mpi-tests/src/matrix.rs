//! Every case of `lunasa-mpi-tests` on given beds with given numbers of ranks, each as a test of its own.

use crate::launch::{Bed, Job, built, can_run};
use libtest_mimic::{Arguments, Trial};
use std::process::{Command, ExitCode};

/// The `main` of a test program: runs every case on each bed with its number of ranks, and then `others`. A case succeeds
/// when the job does and its rank 0 has printed `ok CASE`.
pub fn run(beds: &[(Bed, usize)], others: impl IntoIterator<Item = Trial>) -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = cases().into_iter().flat_map(|case| beds.iter().map(move |&(bed, ranks)| trial(&case, bed, ranks)));
    libtest_mimic::run(&arguments, trials.chain(others).collect()).exit_code()
}

/// The names of all cases, from the table in `src/main.rs`.
fn cases() -> Vec<String> {
    let program = built("lunasa-mpi-tests");
    let output = Command::new(&program).arg("--list").output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    assert!(output.status.success(), "{} --list: {}", program.display(), output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn trial(case: &str, bed: Bed, ranks: usize) -> Trial {
    let case = case.to_owned();
    Trial::test(format!("{case}::{bed},ranks={ranks}"), move || {
        if can_run(bed) {
            let outcome = Job::on(bed, ranks).args([&case]).run().expect_ok();
            let ok = format!("ok {case}");
            if !outcome.stdout.lines().any(|line| line == ok || line.starts_with(&format!("{ok} "))) {
                return Err(format!("no line {ok:?} from rank 0:\n{}", outcome.report()).into());
            }
        }
        Ok(())
    })
}
