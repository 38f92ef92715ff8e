//! The command line of Lunasa.

mod bench;
mod demo;
mod settings;

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
}

fn main() -> ExitCode {
    // Lunasa's own warnings, on the terminal; LUNASA_LOG=debug shows more.
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    let filter = filter.with_env_var("LUNASA_LOG").from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Bench(bench) => bench::run(&bench),
    }
}
