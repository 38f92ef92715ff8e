//! One slot of the table of regions: written by its owner, read without a lock by every peer that has the table mapped.
//!
//! Models of it are in `models/`: whoever reads gets a whole region of the generation asked for, or nothing.

use std::os::fd::RawFd;

use crate::sync::{AtomicI32, AtomicU32, AtomicU64, Ordering, PoisonError, RwLock, fence};

/// Where a region's memory can be mapped from by a peer on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backing {
    pub fd: RawFd,
    /// Number in the memfd's name, which proves it to be the block meant.
    pub block: u32,
    /// Length of the whole memfd.
    pub len: usize,
    /// Where the region begins in it.
    pub offset: usize,
}

/// A region as the table shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerRegion {
    pub base: usize,
    pub len: usize,
    pub backing: Option<Backing>,
}

/// One slot as it lies in shared memory: 64 bytes.
#[repr(C, align(64))]
#[derive(Default)]
pub(super) struct Slot {
    /// Odd while the slot's region is registered.
    generation: AtomicU32,
    /// -1 when peers cannot map it.
    fd: AtomicI32,
    base: AtomicU64,
    len: AtomicU64,
    block: AtomicU32,
    /// The remote key, which a handle must carry.
    key: AtomicU32,
    block_len: AtomicU64,
    offset: AtomicU64,
}

impl Slot {
    /// Shows a region in a slot that has none; its generation. One thread at a time.
    pub(super) fn open(&self, region: &PeerRegion, key: u32) -> u32 {
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        // Whoever reads a word of this region sees, after a fence, that the one before is gone.
        fence(Ordering::Release);
        let backing = region.backing;
        self.fd.store(backing.map_or(-1, |b| b.fd), Ordering::Relaxed);
        self.block.store(backing.map_or(0, |b| b.block), Ordering::Relaxed);
        self.block_len.store(backing.map_or(0, |b| b.len as u64), Ordering::Relaxed);
        self.offset.store(backing.map_or(0, |b| b.offset as u64), Ordering::Relaxed);
        self.key.store(key, Ordering::Relaxed);
        self.base.store(region.base as u64, Ordering::Relaxed);
        self.len.store(region.len as u64, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
        generation
    }

    /// Shows no region from now on, and waits for those who look at the one of this generation by [`Slot::with`].
    pub(super) fn close(&self, generation: u32, in_use: &RwLock<()>) {
        self.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
        // Whoever looks at the region on a peer's behalf has finished once this lock was ours.
        drop(in_use.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Runs `look` if the slot is of that generation and key, with base and length; it does not close meanwhile.
    pub(super) fn with<R>(
        &self,
        (generation, key): (u32, u32),
        in_use: &RwLock<()>,
        look: impl FnOnce(usize, usize) -> Option<R>,
    ) -> Option<R> {
        let _in_use = in_use.read().unwrap_or_else(PoisonError::into_inner);
        let (base, len) = self.range(generation, key)?;
        look(base, len)
    }

    /// Base and length, if the slot is of that generation and key; to be believed if it still [`is`](Slot::is) afterwards, or
    /// cannot close.
    #[inline]
    fn range(&self, generation: u32, key: u32) -> Option<(usize, usize)> {
        if self.generation.load(Ordering::Acquire) != generation || generation.is_multiple_of(2) {
            return None;
        }
        let range = (self.base.load(Ordering::Relaxed) as usize, self.len.load(Ordering::Relaxed) as usize);
        (self.key.load(Ordering::Relaxed) == key).then_some(range)
    }

    /// The region, if the slot is of that generation and key, and still was after it was read.
    #[inline]
    pub(super) fn read(&self, generation: u32, key: u32) -> Option<PeerRegion> {
        let (base, len) = self.range(generation, key)?;
        let fd = self.fd.load(Ordering::Relaxed);
        let backing = (fd >= 0).then(|| Backing {
            fd,
            block: self.block.load(Ordering::Relaxed),
            len: self.block_len.load(Ordering::Relaxed) as usize,
            offset: self.offset.load(Ordering::Relaxed) as usize,
        });
        self.is(generation).then_some(PeerRegion { base, len, backing })
    }

    /// Whether it is of that generation, after whatever was read before.
    #[inline]
    pub(super) fn is(&self, generation: u32) -> bool {
        fence(Ordering::Acquire);
        self.generation.load(Ordering::Relaxed) == generation
    }
}
