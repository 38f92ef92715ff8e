//! The cases, one file each.

mod support;

pub mod calls;
pub mod directory;
pub mod endings;
pub mod endpoint;
pub mod failing_start;
pub mod finish;
pub mod forged;
pub mod fork;
pub mod hello;
pub mod idle;
pub mod instances;
pub mod numa;
pub mod pages;
pub mod pins;
pub mod pools;
pub mod rdma;
pub mod requests;
pub mod routes;
pub mod stale;
pub mod threads;
pub mod user;
pub mod verbs;
pub mod views;
