//! Network memory for MPI applications.
