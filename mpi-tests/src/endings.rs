//! Jobs that end badly, or are started badly, on any bed: each as a test that judges how the job ends.

use crate::launch::{Bed, Job, Outcome, can_run};
use libtest_mimic::{Failed, Trial};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long after the panic the job may still be there.
const SOON: Duration = Duration::from_secs(2);

/// A rank that panics ends the job soon, with its message, wherever the others are.
pub fn panics(bed: Bed, ranks: usize) -> Vec<Trial> {
    let trial = |place: &'static str| {
        Trial::test(format!("a_rank_panics_while_others_{place}::{bed},ranks={ranks}"), move || {
            if can_run(bed) { panic_in(bed, ranks, place) } else { Ok(()) }
        })
    };
    ["finish", "get", "barrier"].map(trial).into()
}

fn panic_in(bed: Bed, ranks: usize, place: &str) -> Result<(), Failed> {
    let start = SystemTime::now();
    let outcome = Job::on(bed, ranks).args(["panic", place]).run().expect_failure();
    let end = (start + outcome.elapsed).duration_since(UNIX_EPOCH)?.as_secs_f64();
    let last = ranks - 1;
    for words in [format!("rank {last} has had enough"), format!("lunasa: rank {last} panicked; ending the job")] {
        if !outcome.stderr.contains(&words) {
            return Err(format!("{words:?} was not said:\n{}", outcome.report()).into());
        }
    }
    let said = outcome.stdout.lines().find_map(|line| line.strip_prefix("panics at "));
    let panic: f64 = said.ok_or_else(|| format!("no word of a panic:\n{}", outcome.report()))?.parse()?;
    let after = end - panic;
    println!("{bed}, others in {place}: the job ended {after:.2} s after the panic");
    if after < SOON.as_secs_f64() {
        Ok(())
    } else {
        Err(format!("the job ended {after:.1} s after the panic:\n{}", outcome.report()).into())
    }
}

/// The program without a launcher, in an environment that says it was started as one of `4`.
pub fn split_by_environment() -> Vec<Trial> {
    let trial = |variable: &'static str| {
        Trial::test(format!("a_single_rank_that_should_be_one_of_four::{variable}"), move || {
            if can_run(Bed::OpenMpi) {
                said_so(&Job::alone().args(["split"]).env(variable, "4").run().expect_ok(), 1, variable)?;
            }
            Ok(())
        })
    };
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"].map(trial).into()
}

/// This build, which is MPICH's, under the launcher of Open MPI.
pub fn split_by_the_wrong_launcher() -> Vec<Trial> {
    vec![Trial::test("a_program_of_mpich_under_the_launcher_of_open_mpi", || {
        if can_run(Bed::Mpich) {
            said_so(&Job::open_mpi(3).args(["split"]).run().expect_ok(), 3, "OMPI_COMM_WORLD_SIZE=3")?;
        }
        Ok(())
    })]
}

/// Each of the single jobs found out what it is.
fn said_so(outcome: &Outcome, jobs: usize, words: &str) -> Result<(), Failed> {
    let lines = outcome.stdout.lines().filter(|line| line.starts_with("ok split: launch: ") && line.contains(words));
    if lines.count() == jobs { Ok(()) } else { Err(outcome.report().into()) }
}
