//! Every case on one host, with MPICH.

use lunasa_mpi_tests::{endings, launch::Bed, matrix};

fn main() -> std::process::ExitCode {
    let others = endings::panics(Bed::Mpich, 4).into_iter().chain(endings::split_by_the_wrong_launcher());
    matrix::run(&[2, 4].map(|ranks| (Bed::Mpich, ranks)), others)
}
