//! Network memory for MPI applications.

pub mod error;
pub mod snapshot;
pub mod status;
