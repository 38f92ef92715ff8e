//! The table of registered ranges, in memory that the peers on this host can read.
//!
//! A region is a slot of the table and a generation. The generation is odd while the region is registered and even when
//! it is not, and never comes again; so a handle, which carries both, is checked in one load, by the owner and by every
//! peer that has the table mapped. The slots lie in a memfd of their own: sparse, so that only those in use cost memory.

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use super::slot::{Backing, PeerRegion, Slot};
use super::{RegionKeys, Registrar};
use crate::error::{Error, Result};
use crate::memory::{PeerMapping, Shared};
use crate::snapshot::RegistrationInfo;

/// Most regions of one rank at one time. The table is sparse: slots that were never used cost nothing.
const SLOTS: usize = 1 << 20;

/// Names a region: its slot and the generation of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct RegionId {
    pub slot: u32,
    pub generation: u32,
}

impl RegionId {
    /// In one word; never zero for a region, as its generation is odd.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.generation)
    }

    pub(crate) fn unpack(word: u64) -> Option<Self> {
        (word != 0).then_some(Self { slot: (word >> 32) as u32, generation: word as u32 })
    }
}

/// A registered range of memory and its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub(crate) id: RegionId,
    pub(crate) base: NonNull<u8>,
    pub(crate) len: usize,
    pub(crate) keys: RegionKeys,
}

// SAFETY: a description of memory; using the memory has its own rules.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Its first address.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its keys.
    #[inline]
    pub fn keys(&self) -> RegionKeys {
        self.keys
    }

    /// How often its slot changed hands: odd while it is registered.
    pub fn generation(&self) -> u32 {
        self.id.generation
    }
}

const _: () = assert!(size_of::<Slot>() == 64);

/// Bytes of the shared table's mapping.
const TABLE: usize = SLOTS * size_of::<Slot>();

#[derive(Debug, Default)]
struct Books {
    free: Vec<u32>,
    /// Slots ever used.
    used: u32,
    /// What is registered, by slot.
    regions: Vec<Option<Region>>,
    info: RegistrationInfo,
}

/// Everything this rank has registered.
#[derive(Debug)]
pub(crate) struct Regions {
    registrar: Arc<dyn Registrar>,
    run: u64,
    rank: u32,
    table: Shared,
    books: Mutex<Books>,
    /// Held for reading while a region's memory is looked at on a peer's behalf, for writing while one goes.
    in_use: RwLock<()>,
}

/// The name of a rank's table, which proves to peers that they opened the right one.
pub(crate) fn table_name(run: u64, rank: u32) -> String {
    format!("lunasa-{run:016x}-{rank}-regions")
}

impl Regions {
    pub(crate) fn new(registrar: Arc<dyn Registrar>, run: u64, rank: u32) -> Result<Self> {
        let table = Shared::create(&table_name(run, rank), TABLE)?;
        let (books, in_use) = (Mutex::default(), RwLock::new(()));
        Ok(Self { registrar, run, rank, table, books, in_use })
    }

    /// The run that these regions belong to.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// The rank that these regions belong to.
    pub(crate) fn rank(&self) -> u32 {
        self.rank
    }

    pub(crate) fn registrar(&self) -> &dyn Registrar {
        &*self.registrar
    }

    /// The descriptor by which peers open the table.
    pub(crate) fn fd(&self) -> RawFd {
        self.table.fd()
    }

    fn slot(&self, slot: u32) -> &Slot {
        slot_of(self.table.base(), slot as usize % SLOTS)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a range.
    ///
    /// # Safety
    /// The range is mapped and stays so until the region was deregistered.
    pub(crate) unsafe fn register(&self, base: NonNull<u8>, len: usize, backing: Option<Backing>) -> Result<Region> {
        let start = Instant::now();
        // SAFETY: the caller's promise.
        let keys = unsafe { self.registrar.register(base, len) }?;
        let spent = start.elapsed();
        let mut books = self.books();
        let slot = match books.free.pop() {
            Some(slot) => slot,
            None if (books.used as usize) < SLOTS => {
                books.used += 1;
                books.regions.push(None);
                books.used - 1
            }
            None => {
                drop(books);
                // SAFETY: registered just now, with these.
                unsafe { self.registrar.deregister(base, len, keys) }?;
                return Err(Error::Registration(format!(
                    "{SLOTS} regions are registered at once, the most there can be; allocate eagerly, or drop objects that \
                     were registered one by one"
                )));
            }
        };
        let shown = PeerRegion { base: base.as_ptr().addr(), len, backing };
        let generation = self.slot(slot).open(&shown, keys.remote);
        let region = Region { id: RegionId { slot, generation }, base, len, keys };
        books.regions[slot as usize] = Some(region);
        books.info.done += 1;
        books.info.spent_s += spent.as_secs_f64();
        books.info.regions += 1;
        books.info.bytes += len as u64;
        Ok(region)
    }

    /// Ends a region: first its generation, so that peers turn away, then the registration. False when it had ended.
    ///
    /// # Errors
    /// The registrar's refusal; the memory must then stay mapped.
    pub(crate) fn deregister(&self, id: RegionId) -> Result<bool> {
        let region = {
            let mut books = self.books();
            let entry = books.regions.get_mut(id.slot as usize);
            let Some(region) = entry.and_then(|entry| entry.take_if(|region| region.id == id)) else {
                return Ok(false);
            };
            books.info.regions -= 1;
            books.info.bytes -= region.len as u64;
            region
        };
        self.slot(id.slot).close(id.generation, &self.in_use);
        let start = Instant::now();
        // SAFETY: taken out of the books, so registered with these and not ended before.
        unsafe { self.registrar.deregister(region.base, region.len, region.keys) }?;
        let spent = start.elapsed();
        let mut books = self.books();
        books.info.spent_s += spent.as_secs_f64();
        books.free.push(id.slot);
        Ok(true)
    }

    /// Ends every region, and says what could not be.
    pub(crate) fn deregister_all(&self) -> Result<()> {
        let ids: Vec<RegionId> = self.books().regions.iter().flatten().map(|region| region.id).collect();
        ids.into_iter().map(|id| self.deregister(id).map(drop)).fold(Ok(()), Result::and)
    }

    /// The region of this id, if it is registered.
    pub(crate) fn get(&self, id: RegionId) -> Option<Region> {
        self.books().regions.get(id.slot as usize).copied().flatten().filter(|region| region.id == id)
    }

    /// Runs `look` if the region is registered with this remote key and holds the range; it stays registered meanwhile.
    pub(crate) fn with<R>(&self, (id, key): (RegionId, u32), at: u64, len: u64, look: impl FnOnce() -> R) -> Option<R> {
        if id.slot as usize >= SLOTS {
            return None;
        }
        self.slot(id.slot).with((id.generation, key), &self.in_use, |base, region_len| {
            let offset = at.checked_sub(base as u64)?;
            (offset <= region_len as u64 && len <= region_len as u64 - offset).then(look)
        })
    }

    /// What was registered; what was avoided and what that cost, others know.
    pub(crate) fn info(&self) -> RegistrationInfo {
        self.books().info.clone()
    }
}

fn slot_of<'a>(table: NonNull<u8>, slot: usize) -> &'a Slot {
    debug_assert!(slot < SLOTS);
    // SAFETY: the table is mapped for SLOTS slots as long as its owner lives, page-aligned; every field is atomic, and
    // any bits are a valid value.
    unsafe { &*table.as_ptr().cast::<Slot>().add(slot) }
}

/// A peer's table, mapped read-only.
#[derive(Debug)]
pub(crate) struct PeerRegions(PeerMapping);

impl PeerRegions {
    /// Opens the table of a rank on this host.
    pub(crate) fn open(pid: u32, fd: RawFd, run: u64, rank: u32) -> Result<Self> {
        PeerMapping::open(pid, fd, &table_name(run, rank), TABLE, false).map(Self)
    }

    /// What the region is, if it is registered with this remote key.
    #[inline]
    pub(crate) fn get(&self, id: RegionId, key: u32) -> Option<PeerRegion> {
        self.slot(id)?.read(id.generation, key)
    }

    /// Whether it is registered, after whatever was read before.
    pub(crate) fn still(&self, id: RegionId) -> bool {
        self.slot(id).is_some_and(|slot| slot.is(id.generation))
    }

    fn slot(&self, id: RegionId) -> Option<&Slot> {
        ((id.slot as usize) < SLOTS).then(|| slot_of(self.0.base(), id.slot as usize))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::registrar::{CallbackRegistrar, HostRegistrar};

    fn memory() -> NonNull<u8> {
        NonNull::new(Box::leak(vec![0u64; 1024].into_boxed_slice()).as_mut_ptr().cast()).unwrap()
    }

    #[test]
    fn a_region_that_is_gone_is_never_found_again() {
        let regions = Regions::new(Arc::new(HostRegistrar::new(false)), 1, 0).unwrap();
        let base = memory();
        let at = base.as_ptr().addr() as u64;
        // SAFETY: leaked memory stays mapped.
        let first = unsafe { regions.register(base, 8192, None) }.unwrap();
        assert_eq!(regions.with((first.id, first.keys.remote), at, 8192, || 1), Some(1));
        assert_eq!(regions.with((first.id, first.keys.remote ^ 1), at, 8192, || 1), None, "another key");
        assert_eq!(regions.with((first.id, first.keys.remote), at + 1, 8192, || 1), None);
        assert_eq!(regions.with((first.id, first.keys.remote), at - 1, 1, || 1), None);
        assert_eq!(regions.with((first.id, first.keys.remote), at, u64::MAX, || 1), None);
        regions.deregister(first.id).unwrap();
        assert_eq!(regions.with((first.id, first.keys.remote), at, 1, || 1), None);
        assert_eq!(regions.deregister(first.id), Ok(false));
        // SAFETY: as above.
        let second = unsafe { regions.register(base, 8192, None) }.unwrap();
        assert_eq!(second.id.slot, first.id.slot);
        assert_ne!(second.id, first.id);
        assert_eq!(regions.with((first.id, first.keys.remote), at, 1, || 1), None);
        assert_eq!(regions.info().done, 2);
        assert_eq!(regions.info().regions, 1);
    }

    #[test]
    fn peers_see_regions_come_and_go() {
        let regions = Regions::new(Arc::new(HostRegistrar::new(false)), 77, 3).unwrap();
        assert!(PeerRegions::open(std::process::id(), regions.fd(), 78, 3).is_err(), "another run's name");
        let peer = PeerRegions::open(std::process::id(), regions.fd(), 77, 3).unwrap();
        // SAFETY: leaked memory stays mapped.
        let region = unsafe { regions.register(memory(), 4096, None) }.unwrap();
        assert_eq!(peer.get(region.id, region.keys.remote).unwrap().len, 4096);
        assert!(peer.get(region.id, region.keys.remote).unwrap().backing.is_none());
        regions.deregister(region.id).unwrap();
        assert!(peer.get(region.id, region.keys.remote).is_none());
        assert!(!peer.still(region.id));
        assert!(peer.get(RegionId { slot: u32::MAX, generation: 1 }, 0).is_none());
    }

    #[test]
    fn the_programs_own_functions_are_called_once_each() {
        let calls = Arc::new(AtomicU32::new(0));
        let (pins, unpins) = (calls.clone(), calls.clone());
        let pin = move |_, _| {
            pins.fetch_add(1, Ordering::Relaxed);
            Ok(RegionKeys { local: 1, remote: 2, cookie: 3 })
        };
        let unpin = move |_, _, keys: RegionKeys| {
            assert_eq!(keys.cookie, 3);
            unpins.fetch_add(100, Ordering::Relaxed);
            Ok(())
        };
        // SAFETY: neither touches the memory.
        let registrar = unsafe { CallbackRegistrar::new("mine", pin, unpin) };
        let regions = Regions::new(Arc::new(registrar), 1, 0).unwrap();
        // SAFETY: leaked memory stays mapped.
        let region = unsafe { regions.register(memory(), 64, None) }.unwrap();
        assert_eq!(region.keys().remote, 2);
        regions.deregister(region.id).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 101);
    }

    #[test]
    fn a_refused_registration_says_who_refused() {
        // SAFETY: neither touches the memory.
        let registrar =
            unsafe { CallbackRegistrar::new("mine", |_, _| Err("no more pins".to_owned()), |_, _, _| Ok(())) };
        let regions = Regions::new(Arc::new(registrar), 1, 0).unwrap();
        // SAFETY: leaked memory stays mapped.
        let error = unsafe { regions.register(memory(), 64, None) }.unwrap_err();
        assert_eq!(error.to_string(), "registration: the program's pin function (mine) refused 64 bytes: no more pins");
        assert_eq!(regions.info(), RegistrationInfo::default());
    }
}
