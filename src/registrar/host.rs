//! The registrar for machines without a device: keys that Lunasa issues, and pages locked if wanted.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{RegionKeys, Registrar};
use crate::error::{Error, Result};
use crate::memory;

/// Issues keys itself; peers' requests are checked against them by Lunasa on the owner's side.
#[derive(Debug)]
pub struct HostRegistrar {
    lock: bool,
    next: AtomicU32,
}

impl HostRegistrar {
    /// With `lock`, registered pages are locked in memory (`mlock`), as a device would have them.
    pub fn new(lock: bool) -> Self {
        // Keys start anywhere, so that one of another run does not fit by chance.
        Self { lock, next: AtomicU32::new(rand::random()) }
    }
}

// SAFETY: memory is only locked and unlocked, never written, and nothing is kept of it.
unsafe impl Registrar for HostRegistrar {
    fn name(&self) -> &str {
        "host"
    }

    fn pins(&self) -> bool {
        self.lock
    }

    unsafe fn register(&self, base: NonNull<u8>, len: usize) -> Result<RegionKeys> {
        if self.lock {
            memory::lock(base, len).map_err(|error| Error::Registration(error.to_string()))?;
        }
        let key = self.next.fetch_add(0x9e37_79b1, Ordering::Relaxed);
        Ok(RegionKeys { local: key, remote: key, cookie: 0 })
    }

    unsafe fn deregister(&self, base: NonNull<u8>, len: usize, _: RegionKeys) -> Result<()> {
        if self.lock {
            memory::unlock(base, len).map_err(|error| Error::Registration(error.to_string()))?;
        }
        Ok(())
    }
}
