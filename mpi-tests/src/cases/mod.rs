//! The cases, one file each.

pub mod hello;
pub mod smoke;
