//! Real RDMA devices through libibverbs: finding and opening one, its port and GID, protection domains, memory regions,
//! and the ends of connections.
//!
//! Each thing keeps what it was made from alive: a [`QueuePair`] its [`CompletionQueue`], that and a [`MemoryRegion`] their
//! [`Domain`], that its [`Context`]. So nothing is
//! closed under something that still uses it. A forked child closes nothing: the device's file is its parent's too.

mod context;
mod device;
mod domain;
mod port;
mod queue;

pub(crate) use context::{Context, Wanted};
pub(crate) use device::{distance, node_of};
pub(crate) use domain::{Domain, MemoryRegion};
pub(crate) use port::Port;
pub(crate) use queue::{Address, BATCH, Completion, CompletionQueue, Kind, Patience, QueuePair, Status, WorkRequest};
