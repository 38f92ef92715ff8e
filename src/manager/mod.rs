//! Memory managers: they hand out pieces of memory, aligned to 64 bytes.
//!
//! - `tcmalloc`: from large blocks, cut into spans of equal pieces; the blocks can be registered at once.
//! - `malloc`: the C library's; the honest baseline.

mod malloc;
pub(crate) mod tcmalloc;
#[cfg(test)]
mod tests;

use std::ptr::NonNull;

use crate::error::Result;
use crate::snapshot::{BlockInfo, ClassInfo};

pub(crate) use malloc::Malloc;
pub(crate) use tcmalloc::{BlockSource, Tcmalloc};

/// Alignment of every piece, and the unit of its size.
pub(crate) const ALIGN: usize = 64;

/// What a manager holds, in bytes and pieces.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// Bytes mapped from the system.
    pub managed: u64,
    /// Bytes handed out, with rounding.
    pub used: u64,
    /// Size classes in use.
    pub classes: Vec<ClassInfo>,
    /// Blocks; the pool's name is filled in by the pool.
    pub blocks: Vec<BlockInfo>,
}

/// One of the memory managers.
#[derive(Debug)]
pub(crate) enum Manager {
    Tcmalloc(Tcmalloc),
    Malloc(Malloc),
}

impl Manager {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tcmalloc(_) => "tcmalloc",
            Self::Malloc(_) => "malloc",
        }
    }

    /// A piece of at least `len` bytes, with unspecified contents.
    pub(crate) fn allocate(&self, len: usize) -> Result<NonNull<u8>> {
        match self {
            Self::Tcmalloc(manager) => manager.allocate(len),
            Self::Malloc(manager) => manager.allocate(len),
        }
    }

    /// Takes a piece back.
    ///
    /// # Safety
    /// The piece came from `allocate` of this manager, was not released since, and nobody uses it any more.
    pub(crate) unsafe fn release(&self, piece: NonNull<u8>) {
        match self {
            // SAFETY: the caller's promise.
            Self::Tcmalloc(manager) => unsafe { manager.release(piece) },
            // SAFETY: the caller's promise.
            Self::Malloc(manager) => unsafe { manager.release(piece) },
        }
    }

    /// Calls `visit` with every piece that is handed out, until it returns false. No piece can go meanwhile.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(NonNull<u8>) -> bool) {
        match self {
            Self::Tcmalloc(manager) => manager.walk(visit),
            Self::Malloc(manager) => manager.walk(visit),
        }
    }

    pub(crate) fn holdings(&self) -> Holdings {
        match self {
            Self::Tcmalloc(manager) => manager.holdings(),
            Self::Malloc(manager) => manager.holdings(),
        }
    }
}
