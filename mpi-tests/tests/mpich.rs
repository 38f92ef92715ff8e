//! Every case on one host, with MPICH.

use lunasa_mpi_tests::{launch::Bed, matrix};

fn main() -> std::process::ExitCode {
    matrix::run(&[2, 4].map(|ranks| (Bed::Mpich, ranks)))
}
