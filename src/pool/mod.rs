//! Pools: a memory manager and a time of registration put together.
//!
//! The **eager** pool's memory is registered before it is handed out: whole blocks with `tcmalloc`, piece by piece with
//! `malloc`. The **lazy** pool's is registered when a handle is first asked for, and until its object is dropped.

#[cfg(test)]
mod tests;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::manager::{Manager, tcmalloc};
use crate::memory;
use crate::registrar::{Region, RegionId, Regions};
use crate::snapshot::{BlockInfo, PoolInfo};

/// When memory is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Before it is handed out.
    Eager,
    /// When a handle is first asked for.
    Lazy,
}

/// Locks for registering objects lazily: one for all objects whose address falls on it.
const STRIPES: usize = 16;

/// A memory manager and a time of registration.
#[derive(Debug)]
pub(crate) struct Pool {
    pub time: Registration,
    manager: Manager,
    pub regions: Arc<Regions>,
    closed: AtomicBool,
    registering: [Mutex<()>; STRIPES],
    live: AtomicU64,
    allocations: AtomicU64,
    bytes: AtomicU64,
}

impl Pool {
    pub(crate) fn new(time: Registration, manager: Manager, regions: Arc<Regions>) -> Self {
        Self {
            time,
            manager,
            regions,
            closed: AtomicBool::new(false),
            registering: Default::default(),
            live: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.time {
            Registration::Eager => "eager",
            Registration::Lazy => "lazy",
        }
    }

    /// A piece of `len` bytes for an object, and its serial number; with a region of its own if this pool registers
    /// piece by piece.
    pub(crate) fn allocate(&self, len: usize) -> Result<(NonNull<u8>, u64, Option<Region>)> {
        self.check_open("objects")?;
        let piece = self.manager.allocate(len)?;
        let mut region = None;
        if self.time == Registration::Eager && matches!(self.manager, Manager::Malloc(_)) {
            // SAFETY: the piece stays mapped until it is released, which deregisters first.
            match unsafe { self.regions.register(piece, len, None) } {
                Ok(registered) => region = Some(registered),
                Err(error) => {
                    // SAFETY: handed out above, and not used.
                    unsafe { self.manager.release(piece) };
                    return Err(error);
                }
            }
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        let serial = self.allocations.fetch_add(1, Ordering::Relaxed) + 1;
        Ok((piece, serial, region))
    }

    /// Takes a piece back, after ending the region of its own if it has one.
    ///
    /// # Safety
    /// The piece came from `allocate` of this pool with this length, and nobody uses it any more.
    pub(crate) unsafe fn release(&self, piece: NonNull<u8>, len: usize, region: Option<RegionId>) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(len as u64, Ordering::Relaxed);
        if let Some(region) = region
            && let Err(error) = self.regions.deregister(region)
        {
            tracing::error!("{error}; the {len} bytes at {piece:?} are not used again");
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.manager.release(piece) };
    }

    /// The region that memory of this pool is in by itself, without one of its own.
    ///
    /// # Safety
    /// The address is in a piece of this pool that stays handed out during the call.
    pub(crate) unsafe fn block_region(&self, address: usize) -> Option<Region> {
        // SAFETY: the caller's promise.
        unsafe { tcmalloc::block_of(address) }.and_then(|(region, _)| region)
    }

    /// Registers memory of a live object by itself, unless `current` already says it is. Racing threads register once.
    ///
    /// `current` holds the packed [`RegionId`], 0 for none.
    ///
    /// # Safety
    /// The memory stays mapped until the region in `current` was deregistered.
    pub(crate) unsafe fn register_once(&self, base: NonNull<u8>, len: usize, current: &AtomicU64) -> Result<Region> {
        self.check_open("registrations")?;
        let known = |word| RegionId::unpack(word).and_then(|id| self.regions.get(id));
        let _one_at_a_time =
            self.registering[(base.as_ptr().addr() >> 6) % STRIPES].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = known(current.load(Ordering::Acquire)) {
            self.regions.count_avoided();
            return Ok(region);
        }
        // SAFETY: the piece that the memory is in, or the program's memory, stays; see the caller's promise.
        let backing = unsafe { tcmalloc::block_of(base.as_ptr().addr()) }.map(|(_, backing)| backing);
        // SAFETY: the caller's promise.
        let region = unsafe { self.regions.register(base, len, backing) }?;
        current.store(region.id.pack(), Ordering::Release);
        Ok(region)
    }

    /// From now on nothing is handed out.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// # Errors
    /// [`Error::Closed`] after finish, and in a forked child.
    pub(crate) fn check_open(&self, what: &str) -> Result<()> {
        memory::not_in_forked_child()?;
        if self.is_closed() { Err(Error::Closed(format!("no more {what} after finish"))) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Objects alive.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Calls `visit` with every piece handed out, until it returns false. None can go meanwhile.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(NonNull<u8>) -> bool) {
        self.manager.walk(visit);
    }

    /// The region of the first block, when this pool has blocks that are registered.
    pub(crate) fn first_region(&self) -> Option<Region> {
        match &self.manager {
            Manager::Tcmalloc(manager) => manager.first_region(),
            Manager::Malloc(_) => None,
        }
    }

    pub(crate) fn info(&self) -> (PoolInfo, Vec<BlockInfo>) {
        let holdings = self.manager.holdings();
        let pool = PoolInfo {
            name: self.name().to_owned(),
            manager: self.manager.name().to_owned(),
            live_objects: self.live(),
            allocations: self.allocations.load(Ordering::Relaxed),
            allocated_bytes: self.bytes.load(Ordering::Relaxed),
            managed_bytes: holdings.managed,
            used_bytes: holdings.used,
            free_bytes: holdings.managed.saturating_sub(holdings.used),
            classes: holdings.classes,
        };
        let blocks = holdings.blocks.into_iter().map(|block| BlockInfo { pool: self.name().to_owned(), ..block });
        (pool, blocks.collect())
    }
}
