//! Network memory for MPI applications.

pub mod config;
pub mod error;
pub mod snapshot;
