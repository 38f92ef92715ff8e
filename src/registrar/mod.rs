//! What registers memory: pins it, tells the device of it, gets keys; and the table of what is registered now.
//!
//! - [`HostRegistrar`]: no device; Lunasa issues the keys and checks them itself, and may lock the pages.
//! - [`VerbsRegistrar`]: a real RDMA device, one memory region for each registration.
//! - [`CallbackRegistrar`]: the program's own pin and unpin functions (the original's `RegisterPinUnpin`).
//! - `budget`: what the ranks of a host may keep registered together.
//! - `cost`: what a registration costs here, measured.
//! - `limits`: what limits further registrations.
//! - `Regions`: every registered range with its keys and a generation, in memory that peers on this host can read.

mod budget;
mod callback;
pub(crate) mod cost;
mod host;
mod limits;
mod regions;
mod slot;
mod verbs;

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;

pub(crate) use budget::Budget;
pub use callback::CallbackRegistrar;
pub use host::HostRegistrar;
pub use regions::Region;
pub(crate) use regions::{PeerRegions, RegionId, Regions};
pub(crate) use slot::Backing;
pub(crate) use verbs::Network;
pub use verbs::VerbsRegistrar;

use crate::error::Result;

/// The keys that a registration gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegionKeys {
    /// What a local work request names the memory by (`lkey`).
    pub local: u32,
    /// What a remote one names it by (`rkey`).
    pub remote: u32,
    /// Whatever the registrar needs to find the registration again.
    pub cookie: u64,
}

/// What a registrar allows at most; `None` where it has no limit, or does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegistrarLimits {
    /// Bytes of one registration.
    pub region_bytes: Option<u64>,
    /// Registrations at once.
    pub regions: Option<u64>,
}

/// Registers and deregisters memory.
///
/// # Safety
/// An implementation must not write to the memory it registers, and after `deregister` returned `Ok` nothing may use the
/// memory on behalf of that registration.
pub unsafe trait Registrar: Any + Send + Sync + fmt::Debug {
    /// Its name, for people: `host`, `verbs`, the program's own.
    fn name(&self) -> &str;

    /// Whether what it registers stays pinned in memory, and so counts against `lunasa.pin_budget`.
    fn pins(&self) -> bool {
        true
    }

    /// What it allows at most.
    fn limits(&self) -> RegistrarLimits {
        RegistrarLimits::default()
    }

    /// Registers `len` bytes from `base`.
    ///
    /// # Errors
    /// The system's or the device's refusal, with the limit that was hit and what to change.
    ///
    /// # Safety
    /// The range is mapped, and stays so until it was deregistered.
    unsafe fn register(&self, base: NonNull<u8>, len: usize) -> Result<RegionKeys>;

    /// Ends a registration.
    ///
    /// # Errors
    /// The memory may then still be in use by the device; Lunasa keeps it mapped.
    ///
    /// # Safety
    /// The three are those of one call to [`Registrar::register`] that was not ended before.
    unsafe fn deregister(&self, base: NonNull<u8>, len: usize, keys: RegionKeys) -> Result<()>;
}
