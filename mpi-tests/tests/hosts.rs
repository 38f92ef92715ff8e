//! Every case on several hosts, with Open MPI.

use lunasa_mpi_tests::{endings, launch::Bed, matrix};

fn main() -> std::process::ExitCode {
    matrix::run(&[2, 3].map(|hosts| (Bed::Hosts(hosts), 4)), endings::panics(Bed::Hosts(2), 4))
}
