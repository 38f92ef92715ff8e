//! Side-by-side benchmarks of Lunasa: `lunasa-bench NAME [ARGS]`, run by every rank of an MPI job, or (those of one
//! process) by itself.
//!
//! Each prints a table and adds its rows to `target/bench/NAME.json`; `benches/run` starts them with their ranks.

mod alloc;
mod backing;
mod bootstrap;
mod measure;
mod register;
mod report;
mod transfer;
mod verbs;

use std::process::ExitCode;

use mpi::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

/// What goes wrong in a benchmark ends it.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A benchmark, which gets the arguments behind its name.
#[derive(Clone, Copy)]
enum Bench {
    /// All ranks run it together.
    Ranks(fn(&SimpleCommunicator, &[String]) -> Outcome),
    /// One process runs it, without MPI.
    Alone(fn(&[String]) -> Outcome),
    /// A part of another, which starts it.
    Part(fn(&[String]) -> Outcome),
}

const BENCHES: &[(&str, Bench)] = &[
    ("transfer", Bench::Ranks(transfer::run)),
    ("bootstrap", Bench::Ranks(bootstrap::run)),
    ("alloc", Bench::Alone(alloc::run)),
    ("register", Bench::Alone(register::run)),
    ("backing", Bench::Alone(backing::run)),
    ("verbs", Bench::Ranks(verbs::run)),
    ("alloc-pair", Bench::Part(alloc::pairs)),
    ("alloc-memory", Bench::Part(alloc::shape)),
    ("verbs-registration", Bench::Part(verbs::registration)),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let found = arguments
        .split_first()
        .and_then(|(name, rest)| BENCHES.iter().find(|(known, _)| known == name).map(|(_, bench)| (*bench, rest)));
    let Some((bench, rest)) = found else {
        let whole = BENCHES.iter().filter(|(_, bench)| !matches!(bench, Bench::Part(_)));
        let names: Vec<&str> = whole.map(|(name, _)| *name).collect();
        eprintln!("usage: lunasa-bench NAME [ARGS]; benchmarks: {}", names.join(", "));
        return ExitCode::from(2);
    };
    match bench {
        Bench::Ranks(bench) => with_ranks(bench, rest),
        Bench::Alone(bench) | Bench::Part(bench) => match bench(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("lunasa-bench: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn with_ranks(bench: fn(&SimpleCommunicator, &[String]) -> Outcome, rest: &[String]) -> ExitCode {
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Multiple) else {
        eprintln!("lunasa-bench: MPI was initialised before");
        return ExitCode::FAILURE;
    };
    let world = universe.world();
    if let Err(error) = bench(&world, rest) {
        eprintln!("lunasa-bench: rank {} of {}: {error}", world.rank(), world.size());
        world.abort(1);
    }
    ExitCode::SUCCESS
}
