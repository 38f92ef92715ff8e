//! `lunasa bench`: measurements that anybody can make, without MPI and without special hardware.

mod contender;
mod replay;

use std::process::ExitCode;

/// What `lunasa bench` takes.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Play recorded traces of allocation with each memory manager, and with malloc
    #[command(
        long_about = "Play recorded traces of allocation (lunasa.trace.record) with each memory manager, and with malloc \
        and free of the same sizes, which write 64 bytes as an object's headers do. Threads of a trace are threads here; \
        rounds are interleaved and the median is shown. Ratios are to malloc and free. Mapped memory is looked at where \
        most is alive."
    )]
    Replay(replay::Options),
}

/// Runs it.
pub fn run(bench: &Bench) -> ExitCode {
    let Bench::Replay(options) = bench;
    match replay::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lunasa bench replay: {error}");
            ExitCode::FAILURE
        }
    }
}
