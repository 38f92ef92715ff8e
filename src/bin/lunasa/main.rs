//! The command line of Lunasa.

mod bench;
mod client;
mod comm;
mod demo;
mod doctor;
mod hook;
mod settings;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Network memory for MPI applications.
#[derive(Debug, Parser)]
#[command(name = "lunasa", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The heat equation in a cube, on every rank of the job: an example, and a first check of an installation
    #[command(
        long_about = "The heat equation in a cube, on every rank of the job: an example of how a simulation embeds \
        Lunasa, and a first check of an installation. Start it as an MPI program: mpirun -n 4 lunasa demo"
    )]
    Demo(demo::Options),
    /// Measurements that need neither MPI nor special hardware
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Whether Lunasa can run here, and what to do where it cannot; alone, or on every rank of a job
    #[command(
        long_about = "Whether Lunasa can run here: device, port, GID, limits, huge pages, pin budget, shared memory, what a \
        registration costs; then a real start. Alone, or on every rank of a job with one table for all: mpirun -n 4 lunasa \
        doctor. The exit status is not zero when something will fail."
    )]
    Doctor(doctor::Options),
    /// All ranks of your running jobs in one table, and who of them does not answer
    Status(status::Options),
    /// Ask a hook of a running program, and print its answer
    Hook(hook::Options),
}

fn main() -> ExitCode {
    // Lunasa's own warnings, on the terminal; LUNASA_LOG=debug shows more.
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    let filter = filter.with_env_var("LUNASA_LOG").from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Bench(bench) => bench::run(&bench),
        Command::Doctor(options) => doctor::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Hook(options) => hook::run(&options),
    }
}

/// Runs what waits for endpoints, on this thread.
fn in_event_loop<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| format!("setting up the event loop failed: {error}"))?.block_on(work)
}

/// Says why a command could not do what was asked.
fn failed(command: &str, error: &str) -> ExitCode {
    eprintln!("lunasa {command}: {error}");
    ExitCode::from(2)
}
