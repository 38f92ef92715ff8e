//! The command line of Lunasa.

mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
    }
}
