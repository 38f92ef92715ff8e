//! Memory managers: they hand out pieces of memory, aligned to 64 bytes.
//!
//! - `tcmalloc`: from large blocks, cut into spans of equal pieces; the blocks can be registered at once.
//! - `malloc`: the C library's; the honest baseline.

mod malloc;
mod marks;
pub(crate) mod tcmalloc;
#[cfg(test)]
mod tests;

use std::ptr::NonNull;

use crate::error::Result;
use crate::snapshot::{BlockInfo, ClassInfo};

pub(crate) use malloc::Malloc;
use marks::Marks;
pub(crate) use tcmalloc::{BlockSource, Counts, Tcmalloc};

/// Alignment of every piece, and the unit of its size.
pub(crate) const ALIGN: usize = 64;

/// What a manager holds, in bytes and pieces.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// Bytes mapped from the system.
    pub managed: u64,
    /// The most bytes that ever were mapped.
    pub most_managed: u64,
    /// The most objects that ever were alive, as far as it was told.
    pub most_objects: u64,
    /// The most bytes that these asked for at once.
    pub most_bytes: u64,
    /// Bytes handed out, with rounding.
    pub used: u64,
    /// Bytes kept in caches for reuse.
    pub cached: u64,
    /// Bytes of the manager's own books.
    pub bookkeeping: u64,
    /// Size classes in use.
    pub classes: Vec<ClassInfo>,
    /// Blocks; the pool's name is filled in by the pool.
    pub blocks: Vec<BlockInfo>,
}

/// One of the memory managers.
#[derive(Debug)]
pub(crate) enum Manager {
    Tcmalloc(Tcmalloc),
    Malloc(Box<Malloc>),
}

impl Manager {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tcmalloc(_) => "tcmalloc",
            Self::Malloc(_) => "malloc",
        }
    }

    /// The NUMA node that its blocks are asked to be on, when it is one.
    pub(crate) fn node(&self) -> Option<u32> {
        match self {
            Self::Tcmalloc(manager) => manager.node(),
            Self::Malloc(_) => None,
        }
    }

    /// A piece of at least `len` bytes, with unspecified contents, and the serial number of the object it is for.
    pub(crate) fn allocate(&self, len: usize) -> Result<(NonNull<u8>, u64)> {
        match self {
            Self::Tcmalloc(manager) => manager.allocate(len),
            Self::Malloc(manager) => manager.allocate(len),
        }
    }

    /// Takes back a piece that was allocated with `len`.
    ///
    /// # Safety
    /// The piece came from `allocate` of this manager with this length, was not released since, and nobody uses it any more.
    pub(crate) unsafe fn release(&self, piece: NonNull<u8>, len: usize) {
        match self {
            // SAFETY: the caller's promise.
            Self::Tcmalloc(manager) => unsafe { manager.release(piece, len) },
            // SAFETY: the caller's promise.
            Self::Malloc(manager) => unsafe { manager.release(piece, len) },
        }
    }

    /// Calls `visit` with every piece that may hold an object, until it returns false; those that hold none begin with a
    /// zero word, or are no pieces any more. Their memory stays readable meanwhile.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(NonNull<u8>) -> bool) {
        match self {
            Self::Tcmalloc(manager) => manager.walk(visit),
            Self::Malloc(manager) => manager.walk(visit),
        }
    }

    /// The parts of its blocks that are not wholly free: address and bytes. None where it has no blocks.
    pub(crate) fn spans_in_use(&self) -> Vec<(usize, usize)> {
        match self {
            Self::Tcmalloc(manager) => manager.spans_in_use(),
            Self::Malloc(_) => Vec::new(),
        }
    }

    /// Whether a piece begins here that was handed out, or lies in a cache.
    pub(crate) fn is_piece(&self, piece: NonNull<u8>) -> bool {
        match self {
            Self::Tcmalloc(manager) => manager.is_piece(piece),
            Self::Malloc(manager) => manager.is_piece(piece),
        }
    }

    /// Makes sure that `bytes` can be handed out without growing.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<()> {
        match self {
            Self::Tcmalloc(manager) => manager.reserve(bytes),
            Self::Malloc(_) => Ok(()),
        }
    }

    /// Ends what the manager does by itself.
    pub(crate) fn close(&self) {
        if let Self::Tcmalloc(manager) = self {
            manager.close();
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        match self {
            Self::Tcmalloc(manager) => manager.counts(),
            Self::Malloc(manager) => manager.counts(),
        }
    }

    pub(crate) fn holdings(&self) -> Holdings {
        match self {
            Self::Tcmalloc(manager) => manager.holdings(),
            Self::Malloc(manager) => manager.holdings(),
        }
    }

    /// Proves that each byte is in exactly one place; see [`Tcmalloc::check`].
    pub(crate) fn check(&self, is_live: &dyn Fn(NonNull<u8>) -> bool) -> Result<(), String> {
        match self {
            Self::Tcmalloc(manager) => manager.check(is_live),
            Self::Malloc(manager) => manager.check(is_live),
        }
    }
}
