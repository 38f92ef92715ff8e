//! The cases, one file each.

pub mod hello;
