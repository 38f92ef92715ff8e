//! Network memory for MPI applications.

pub mod error;
pub mod memory;
pub mod snapshot;
pub mod topology;
