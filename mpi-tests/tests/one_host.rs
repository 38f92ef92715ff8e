//! Every case on one host, with Open MPI.

use lunasa_mpi_tests::{endings, launch::Bed, matrix};

fn main() -> std::process::ExitCode {
    let others = endings::panics(Bed::OpenMpi, 4).into_iter().chain(endings::split_by_environment());
    matrix::run(&[1, 2, 3, 4, 8].map(|ranks| (Bed::OpenMpi, ranks)), others)
}
