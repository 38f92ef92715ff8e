//! The cases, one file each.

mod support;

pub mod hello;
pub mod requests;
pub mod routes;
pub mod threads;
