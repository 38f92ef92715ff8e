//! The program's own pin and unpin functions as a registrar.

use std::fmt;
use std::ptr::NonNull;

use super::{RegionKeys, Registrar};
use crate::error::{Error, Result};

type Pin = Box<dyn Fn(NonNull<u8>, usize) -> Result<RegionKeys, String> + Send + Sync>;
type Unpin = Box<dyn Fn(NonNull<u8>, usize, RegionKeys) -> Result<(), String> + Send + Sync>;

/// Calls the program to register memory, for programs that bring a network library of their own.
pub struct CallbackRegistrar {
    name: String,
    pin: Pin,
    unpin: Unpin,
}

impl CallbackRegistrar {
    /// `pin` registers a range and gives its keys, `unpin` ends that registration; either may refuse, in words.
    ///
    /// # Safety
    /// The functions keep the contract of [`Registrar`]: they don't write to the memory, and once `unpin` returned
    /// `Ok` nothing uses it on their behalf.
    pub unsafe fn new(
        name: impl Into<String>,
        pin: impl Fn(NonNull<u8>, usize) -> Result<RegionKeys, String> + Send + Sync + 'static,
        unpin: impl Fn(NonNull<u8>, usize, RegionKeys) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), pin: Box::new(pin), unpin: Box::new(unpin) }
    }

    fn refused(&self, what: &str, len: usize, why: &str) -> Error {
        Error::Registration(format!("the program's {what} function ({}) refused {len} bytes: {why}", self.name))
    }
}

impl fmt::Debug for CallbackRegistrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackRegistrar({})", self.name)
    }
}

// SAFETY: the contract is passed on by `CallbackRegistrar::new`.
unsafe impl Registrar for CallbackRegistrar {
    fn name(&self) -> &str {
        &self.name
    }

    unsafe fn register(&self, base: NonNull<u8>, len: usize) -> Result<RegionKeys> {
        (self.pin)(base, len).map_err(|why| self.refused("pin", len, &why))
    }

    unsafe fn deregister(&self, base: NonNull<u8>, len: usize, keys: RegionKeys) -> Result<()> {
        (self.unpin)(base, len, keys).map_err(|why| self.refused("unpin", len, &why))
    }
}
