//! Every case on one host, with Open MPI.

use lunasa_mpi_tests::{launch::Bed, matrix};

fn main() -> std::process::ExitCode {
    matrix::run(&[1, 2, 3, 4, 8].map(|ranks| (Bed::OpenMpi, ranks)))
}
