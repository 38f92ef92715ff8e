//! Side-by-side benchmarks of Lunasa: `lunasa-bench NAME [ARGS]`, run by every rank of an MPI job.
//!
//! Each prints a table and adds its rows to `target/bench/NAME.json`; `benches/run` starts them with their ranks.

mod bootstrap;
mod measure;
mod report;
mod transfer;

use std::process::ExitCode;

use mpi::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

/// What goes wrong in a benchmark ends it.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A benchmark that all ranks run together, with the arguments behind its name.
type Bench = fn(&SimpleCommunicator, &[String]) -> Outcome;

const BENCHES: &[(&str, Bench)] = &[("transfer", transfer::run), ("bootstrap", bootstrap::run)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let found = arguments
        .split_first()
        .and_then(|(name, rest)| BENCHES.iter().find(|(known, _)| known == name).map(|(_, bench)| (*bench, rest)));
    let Some((bench, rest)) = found else {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: lunasa-bench NAME [ARGS]; benchmarks: {}", names.join(", "));
        return ExitCode::from(2);
    };
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
