//! `lunasa-mpi-tests CASE [ARGS]`: the collective test cases; every rank of an MPI job runs this.
//!
//! A case that returns an error ends the whole job with it. A case that panics is left to Lunasa's own panic hook while an
//! instance lives, because that is one of the things under test.

mod cases;

use mpi::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

/// A test that all ranks run together, with the arguments that follow its name.
type Case = fn(&SimpleCommunicator, &[String]) -> Result<(), Box<dyn Error>>;

/// The cases that the tests in `tests/` run with every number of ranks, on every bed: a new case is one line here.
const CASES: &[(&str, Case)] = &[
    ("calls", cases::calls::multiple),
    ("directory", cases::directory::run),
    ("endpoint", cases::endpoint::run),
    ("failing_start", cases::failing_start::run),
    ("finish", cases::finish::run),
    ("forged", cases::forged::run),
    ("fork", cases::fork::run),
    (FUNNELED, cases::calls::funneled),
    ("hello", cases::hello::run),
    ("idle", cases::idle::run),
    ("instances", cases::instances::run),
    ("numa", cases::numa::run),
    ("pins", cases::pins::run),
    ("pools", cases::pools::run),
    ("requests", cases::requests::run),
    ("routes", cases::routes::run),
    ("stale", cases::stale::run),
    ("threads", cases::threads::run),
    ("user", cases::user::run),
    ("views", cases::views::run),
];

/// Cases that end badly, or are started badly: the tests of `endings` start each and judge how it ends.
const ENDINGS: &[(&str, Case)] = &[("panic", cases::endings::panic), ("split", cases::endings::split)];

/// Cases that need a device: the tests of `verbs` run them in the virtual machine.
const DEVICE: &[(&str, Case)] = &[
    ("verbs", cases::verbs::registration),
    ("verbs_beyond", cases::verbs::beyond),
    ("verbs_choice", cases::rdma::choice),
    ("verbs_cut", cases::rdma::cut),
    ("verbs_domain", cases::verbs::domain),
    ("verbs_killed", cases::rdma::killed),
    ("verbs_large", cases::verbs::large),
    ("verbs_lazy", cases::verbs::lazy),
    ("verbs_loss", cases::rdma::loss),
    ("verbs_many", cases::rdma::many),
    ("verbs_refusals", cases::rdma::refusals),
    ("verbs_sizes", cases::rdma::sizes),
    ("verbs_start", cases::verbs::start),
];

/// The case whose pages a browser opens: the test of `browser` starts it.
const PAGES: &[(&str, Case)] = &[("pages", cases::pages::run)];

/// The case for which MPI is initialised without `MPI_THREAD_MULTIPLE`.
const FUNNELED: &str = "funneled";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("--help", &[][..]),
    };
    match name {
        "--list" => CASES.iter().for_each(|(name, _)| println!("{name}")),
        "--library" => println!("{}", mpi::environment::library_version().unwrap_or_default()),
        _ => match CASES.iter().chain(ENDINGS).chain(DEVICE).chain(PAGES).find(|(known, _)| *known == name) {
            Some((_, case)) => run(name, *case, rest),
            None => {
                let names: Vec<&str> =
                    CASES.iter().chain(ENDINGS).chain(DEVICE).chain(PAGES).map(|(name, _)| *name).collect();
                eprintln!(
                    "lunasa-mpi-tests: no case {name:?}; usage: lunasa-mpi-tests CASE [ARGS] | --list | --library"
                );
                eprintln!("cases: {}", names.join(", "));
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

/// Runs `case` between MPI's start and end; an error of this rank ends the job.
fn run(name: &str, case: Case, arguments: &[String]) {
    let threads = if name == FUNNELED { Threading::Funneled } else { Threading::Multiple };
    let Some((universe, _)) = mpi::initialize_with_threading(threads) else {
        eprintln!("{name}: MPI was initialised before");
        std::process::exit(1);
    };
    let world = universe.world();
    // A panic while no instance lives is not Lunasa's to end the job for.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| case(&world, arguments)));
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            eprintln!("{name}: rank {} of {}: {error}", world.rank(), world.size());
            world.abort(1);
        }
        Err(_) => world.abort(101),
    }
}
