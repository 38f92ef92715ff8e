//! Launches the programs that test Lunasa on several ranks, on the beds of `mpi-tests/lab`, and judges how they end.

pub mod browser;
pub mod demo;
pub mod endings;
pub mod launch;
pub mod matrix;
