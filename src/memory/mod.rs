//! Mapping blocks: huge pages, NUMA binding and its proof, pre-touch, limits, and mapping a peer's block.
//!
//! A block is a memfd mapped shared, so that a fork causes no copy-on-write behind a device's back and a peer on the same
//! host can map it too. What kind of pages it got, where they are and what did not go as asked is in its [`BlockReport`].

mod block;
mod copy;
#[cfg(test)]
pub(crate) mod faults;
mod fork;
mod limits;
mod mapping;
mod pages;
mod peer;
mod pin;
mod placement;
mod shared;
mod touch;

pub use crate::config::HugePages;
pub use block::{Block, BlockReport, BlockRequest};
pub(crate) use copy::copy;
pub(crate) use fork::{at_fork_in_child, not_in_forked_child};
pub use fork::{in_forked_child, install_fork_guard};
pub(crate) use limits::bytes;
pub use pages::PageKind;
pub use peer::PeerMapping;
pub(crate) use pin::Pins;
pub use pin::{lock, unlock};
pub use placement::Place;
pub(crate) use shared::Shared;

#[cfg(test)]
mod tests;
