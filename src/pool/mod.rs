//! Pools: a memory manager and a time of registration put together.
//!
//! The **eager** pool's memory is registered before it is handed out: whole blocks with `tcmalloc`, piece by piece with
//! `malloc`. The **lazy** pool's is registered when a handle is first asked for, and until its object is dropped.

mod debug;
mod pools;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::manager::Manager;
use crate::manager::tcmalloc::{self, Cache, NO_MANAGER};
use crate::memory;
use crate::registrar::{Region, RegionId, Regions};
use crate::snapshot::{BlockInfo, LateWrites, PoolInfo};
use debug::Aids;

pub(crate) use debug::{CallSite, Past, Settings as DebugSettings};
pub(crate) use pools::Pools;

/// When memory is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Before it is handed out.
    Eager,
    /// When a handle is first asked for.
    Lazy,
}

/// `eager` or `lazy`.
impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
        })
    }
}

/// Locks for registering objects lazily: one for all objects whose address falls on it.
const STRIPES: usize = 16;

/// A memory manager and a time of registration.
#[derive(Debug)]
pub(crate) struct Pool {
    name: String,
    pub time: Registration,
    manager: Manager,
    pub regions: Arc<Regions>,
    /// Whether pieces are registered one by one, as they are handed out.
    piecewise: bool,
    closed: AtomicBool,
    /// Number of the manager whose thread caches serve this pool directly; [`NO_MANAGER`] when none may.
    quick: AtomicUsize,
    registering: [Mutex<()>; STRIPES],
    /// None by default; with any, nothing takes the quick way.
    aids: Option<Box<Aids>>,
    /// Where objects come from when this pool is refused the registration of more memory.
    instead: Option<Instead>,
}

/// Another pool that helps out.
#[derive(Debug)]
struct Instead {
    pool: Arc<Pool>,
    /// Objects that it gave.
    given: AtomicU64,
}

/// A piece of a pool for an object.
#[derive(Debug)]
pub(crate) struct Allocated<'a> {
    /// The pool that it is of, and goes back to.
    pub pool: &'a Pool,
    pub piece: NonNull<u8>,
    /// The object's serial number.
    pub serial: u64,
    /// The region of its own, if the pool registers piece by piece.
    pub region: Option<Region>,
}

impl Pool {
    pub(crate) fn new(time: Registration, manager: Manager, regions: Arc<Regions>) -> Self {
        let quick = match &manager {
            Manager::Tcmalloc(manager) => manager.number(),
            Manager::Malloc(_) => NO_MANAGER,
        };
        let piecewise = time == Registration::Eager && matches!(manager, Manager::Malloc(_));
        let (closed, quick) = (AtomicBool::new(false), AtomicUsize::new(quick));
        let name = time.to_string();
        Self {
            name,
            time,
            piecewise,
            manager,
            regions,
            closed,
            quick,
            registering: Default::default(),
            aids: None,
            instead: None,
        }
    }

    /// With what helps to find faults, if any of it is on. To be called before the first object is made.
    pub(crate) fn with_aids(mut self, settings: DebugSettings) -> Self {
        if settings.any() {
            let stays = matches!(self.manager, Manager::Tcmalloc(_));
            *self.quick.get_mut() = NO_MANAGER;
            self.aids = Some(Box::new(Aids::new(settings, self.name().into(), self.time == Registration::Lazy, stays)));
        }
        self
    }

    /// With a pool that gives objects when this one is refused the registration of more memory.
    pub(crate) fn or_else(self, pool: Arc<Pool>) -> Self {
        Self { instead: Some(Instead { pool, given: AtomicU64::new(0) }), ..self }
    }

    /// One of several pools for the same time: its name says which node it is on.
    pub(crate) fn of_node(time: Registration, manager: Manager, regions: Arc<Regions>) -> Self {
        let pool = Self::new(time, manager, regions);
        let name = pool.node().map_or_else(|| time.to_string(), |node| format!("{time}.{node}"));
        Self { name, ..pool }
    }

    /// `eager` or `lazy`; with one pool per node `eager.0` and so on.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The NUMA node that its blocks are asked to be on, when it is one.
    pub(crate) fn node(&self) -> Option<u32> {
        self.manager.node()
    }

    /// Whether its manager can place memory on a NUMA node.
    pub(crate) fn places_memory(&self) -> bool {
        matches!(self.manager, Manager::Tcmalloc(_))
    }

    pub(crate) fn manager_name(&self) -> &'static str {
        self.manager.name()
    }

    /// This thread's cache of this pool, if it is the one that the thread used last: what the fast paths of [`Pool::allocate`]
    /// and [`Pool::release`] take from and put into. Only for pieces without a region of their own. None in a forked child.
    #[inline(always)]
    pub(crate) fn cache_used_last(&self) -> Option<&Cache> {
        tcmalloc::cache_used_last(self.quick.load(Ordering::Relaxed))
    }

    /// A piece of `len` bytes for an object made at `site`, and its serial number; with a region of its own if this pool
    /// registers piece by piece.
    pub(crate) fn allocate(&self, len: usize, site: CallSite) -> Result<(NonNull<u8>, u64, Option<Region>)> {
        self.check_open("objects")?;
        let (piece, serial) = match self.manager.allocate(len) {
            Err(refused) => self.allocate_from_quarantine(len).ok_or(refused)?,
            Ok(made) => made,
        };
        let region = if self.piecewise { Some(self.register_piece(piece, len)?) } else { None };
        if let Some(aids) = &self.aids {
            // SAFETY: handed out just now with this length; blocks stay mapped as long as there are aids.
            unsafe { aids.hand_out(piece, len, serial, site) };
        }
        Ok((piece, serial, region))
    }

    /// When there is no memory any more: the quarantine ends early, until there is some.
    #[cold]
    fn allocate_from_quarantine(&self, len: usize) -> Option<(NonNull<u8>, u64)> {
        let aids = self.aids.as_ref()?;
        loop {
            // SAFETY: what waits is mapped; the manager gets it back once, with the length it had.
            unsafe {
                let (piece, len) = aids.give_up_one()?;
                self.manager.release(piece, len);
            }
            if let Ok(made) = self.manager.allocate(len) {
                return Some(made);
            }
        }
    }

    /// As [`Pool::allocate`]; from the pool that helps out when there is one and the registration of more memory is refused.
    pub(crate) fn allocate_for(&self, len: usize, site: CallSite) -> Result<Allocated<'_>> {
        let allocated = |pool, (piece, serial, region)| Allocated { pool, piece, serial, region };
        match self.allocate(len, site) {
            Ok(found) => Ok(allocated(self, found)),
            Err(refusal) => {
                let instead = self.instead_of(refusal)?;
                Ok(allocated(instead, instead.allocate(len, site)?))
            }
        }
    }

    /// The pool that helps out when this was refused; says so the first time.
    ///
    /// # Errors
    /// The refusal itself when it is about something else, or there is no such pool.
    pub(crate) fn instead_of(&self, refusal: Error) -> Result<&Pool> {
        match (&self.instead, refusal) {
            (Some(Instead { pool, given }), refusal @ Error::Registration(_)) => {
                if given.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        "rank {}: LDOs come from the {} pool, and are registered when a handle is asked for, as more memory \
                         for the {} pool is refused (lunasa.eager.when_refused = \"lazy\"): {refusal}",
                        self.regions.rank(),
                        pool.name(),
                        self.name()
                    );
                }
                Ok(pool)
            }
            (_, refusal) => Err(refusal),
        }
    }

    #[cold]
    fn register_piece(&self, piece: NonNull<u8>, len: usize) -> Result<Region> {
        // SAFETY: the piece stays mapped until it is released, which deregisters first.
        unsafe { self.regions.register(piece, len, None) }.inspect_err(|_| {
            // SAFETY: handed out just now with this length, and not used.
            unsafe { self.manager.release(piece, len) };
        })
    }

    /// Takes a piece back, after ending the region of its own if it has one. Its object was what `past` says.
    ///
    /// # Safety
    /// The piece came from `allocate` of this pool with this length, nobody uses it any more, and its first word is zero.
    pub(crate) unsafe fn release(
        &self,
        piece: NonNull<u8>,
        len: usize,
        region: Option<RegionId>,
        past: impl FnOnce() -> Past,
    ) {
        if let Some(region) = region
            && let Err(error) = self.regions.deregister(region)
        {
            tracing::error!("{error}; the {len} bytes at {piece:?} are not used again");
            return;
        }
        let returned = match &self.aids {
            // SAFETY: the caller's promise; blocks stay mapped as long as there are aids.
            Some(aids) => unsafe { aids.take_back(piece, len, past()) },
            None => Some((piece, len)),
        };
        if let Some((piece, len)) = returned {
            // SAFETY: the caller's promise, now or when this piece came to wait.
            unsafe { self.manager.release(piece, len) };
        }
    }

    /// The region that memory of this pool is in by itself, without one of its own.
    ///
    /// # Safety
    /// The address is in a piece of this pool that stays handed out during the call.
    #[inline]
    pub(crate) unsafe fn block_region(&self, address: usize) -> Option<Region> {
        // SAFETY: the caller's promise.
        unsafe { tcmalloc::region_of(address) }
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
            return Ok(region);
        }
        // SAFETY: the piece that the memory is in, or the program's memory, stays; see the caller's promise.
        let backing = unsafe { tcmalloc::backing_of(base.as_ptr().addr()) };
        // SAFETY: the caller's promise.
        let region = unsafe { self.regions.register(base, len, backing) }?;
        current.store(region.id.pack(), Ordering::Release);
        Ok(region)
    }

    /// From now on nothing is handed out.
    pub(crate) fn close(&self) {
        self.quick.store(NO_MANAGER, Ordering::SeqCst);
        self.closed.store(true, Ordering::SeqCst);
        if let Some(aids) = &self.aids {
            aids.close();
            // SAFETY: what waits is mapped; the manager gets it back once, with the length it had.
            while let Some((piece, len)) = unsafe { aids.give_up_one() } {
                // SAFETY: as above.
                unsafe { self.manager.release(piece, len) };
            }
        }
        self.manager.close();
    }

    /// # Errors
    /// [`Error::Closed`] after finish, and in a forked child.
    pub(crate) fn check_open(&self, what: &str) -> Result<()> {
        memory::not_in_forked_child()?;
        if self.is_closed() { Err(Error::Closed(format!("no more {what} after finish"))) } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed() && !memory::in_forked_child()
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Objects alive.
    pub(crate) fn live(&self) -> u64 {
        self.manager.counts().live().saturating_sub(self.waiting().0)
    }

    /// Objects in quarantine and their bytes: to the manager they are handed out.
    fn waiting(&self) -> (u64, u64) {
        self.aids.as_ref().map_or((0, 0), |aids| aids.waiting())
    }

    /// Where the object at this address was allocated, when that is recorded.
    pub(crate) fn call_site(&self, address: usize) -> Option<CallSite> {
        self.aids.as_ref()?.call_site(address)
    }

    /// Writes into freed memory that were found.
    pub(crate) fn late_writes(&self) -> LateWrites {
        self.aids.as_ref().map_or_else(LateWrites::default, |aids| aids.late_writes())
    }

    /// Looks for writes into freed memory that is still free.
    pub(crate) fn sweep(&self) {
        if let Some(aids) = &self.aids {
            // SAFETY: blocks stay mapped as long as there are aids, and what is not in blocks leaves their books first.
            unsafe { aids.sweep() };
        }
    }

    /// As [`Manager::walk`].
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(NonNull<u8>) -> bool) {
        self.manager.walk(visit);
    }

    /// As [`Manager::spans_in_use`].
    pub(crate) fn spans_in_use(&self) -> Vec<(usize, usize)> {
        self.manager.spans_in_use()
    }

    /// Objects alive, and the bytes that they asked for.
    pub(crate) fn live_and_bytes(&self) -> (u64, u64) {
        let counts = self.manager.counts();
        (counts.live(), counts.bytes)
    }

    /// Whether a piece begins here that was handed out, or lies in a cache.
    pub(crate) fn is_piece(&self, piece: NonNull<u8>) -> bool {
        self.manager.is_piece(piece)
    }

    /// Makes sure that `bytes` can be handed out without growing.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<()> {
        self.manager.reserve(bytes)
    }

    /// As [`Manager::check`]; pieces in quarantine are in that place and in no other. And nobody wrote into freed memory.
    pub(crate) fn check(&self, is_live: &dyn Fn(NonNull<u8>) -> bool) -> Result<(), String> {
        let waiting = self.aids.as_ref().map_or_else(HashSet::new, |aids| aids.waiting_pieces());
        let mut pieces = waiting.iter().filter_map(|&at| NonNull::new(std::ptr::with_exposed_provenance_mut(at)));
        if let Some(free) = pieces.find(|&piece| !self.manager.is_piece(piece)) {
            return Err(format!("{free:?} is in quarantine, but not handed out"));
        }
        // One that is both is a fault: the manager sees it as none.
        self.manager.check(&|piece| is_live(piece) != waiting.contains(&piece.as_ptr().addr()))?;
        self.sweep();
        let late = self.late_writes();
        late.first.first().map_or(Ok(()), |write| Err(format!("{} late writes, the first: {write}", late.count)))
    }

    /// Objects that were handed out registered without a registration of their own, and the bytes that they asked for.
    pub(crate) fn avoided(&self) -> (u64, u64) {
        let counts = self.manager.counts();
        if self.time == Registration::Eager && !self.piecewise { (counts.allocations, counts.total) } else { (0, 0) }
    }

    /// The region of the first block, when this pool has blocks that are registered.
    pub(crate) fn first_region(&self) -> Option<Region> {
        match &self.manager {
            Manager::Tcmalloc(manager) => manager.first_region(),
            Manager::Malloc(_) => None,
        }
    }

    pub(crate) fn info(&self) -> (PoolInfo, Vec<BlockInfo>) {
        let (holdings, counts, waiting) = (self.manager.holdings(), self.manager.counts(), self.waiting());
        let pool = PoolInfo {
            name: self.name().to_owned(),
            manager: self.manager_name().to_owned(),
            node: self.node(),
            live_objects: counts.live().saturating_sub(waiting.0),
            allocations: counts.allocations,
            allocated_bytes: counts.bytes.saturating_sub(waiting.1),
            quarantined_objects: waiting.0,
            quarantined_bytes: waiting.1,
            managed_bytes: holdings.managed,
            used_bytes: holdings.used,
            free_bytes: holdings.managed.saturating_sub(holdings.used),
            cached_bytes: holdings.cached,
            high_water_bytes: holdings.most_managed,
            most_live_objects: holdings.most_objects,
            most_allocated_bytes: holdings.most_bytes,
            bookkeeping_bytes: holdings.bookkeeping,
            passed_on: self.instead.as_ref().map_or(0, |instead| instead.given.load(Ordering::Relaxed)),
            classes: holdings.classes,
        };
        let blocks = holdings.blocks.into_iter().map(|block| BlockInfo { pool: self.name().to_owned(), ..block });
        (pool, blocks.collect())
    }
}
