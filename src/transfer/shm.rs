//! The `shm` route: peers on this host. Their blocks are mapped once, and copied from and to.
//!
//! A peer's table of regions is mapped too. Before a copy the region's generation and the object's tag are looked at, and
//! after it once more: what changed meanwhile is an error, and what was read is not used. A mapping keeps the memory
//! readable even when the peer has released the block or died.
//!
//! A copy takes no lock: the list of mapped blocks is replaced, never changed, and whoever uses it keeps it.

use std::os::fd::RawFd;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::view::{Keep, View};
use super::{Direction, Local, Outcome, check_alive};
use crate::bootstrap::Directory;
use crate::error::{Error, HandleFault, Result};
use crate::manager::tcmalloc;
use crate::memory::{self, PeerMapping};
use crate::object::{HEAD, Head, Part, RemoteHandle, Section};
use crate::registrar::{Backing, PeerRegions, RegionId};

/// The peers of this host.
#[derive(Debug)]
pub(crate) struct Shm {
    run: u64,
    directory: Arc<Directory>,
    /// By place on the host; opened when first needed.
    peers: Box<[OnceLock<Result<Arc<Peer>>>]>,
}

/// A peer: its table of regions, and those of its blocks that were needed.
#[derive(Debug)]
pub(crate) struct Peer {
    run: u64,
    rank: u32,
    pid: u32,
    regions: PeerRegions,
    blocks: ArcSwap<Blocks>,
    /// Held while a block is mapped.
    mapping: Mutex<()>,
}

type Blocks = Vec<Mapped>;

#[derive(Debug, Clone)]
struct Mapped {
    block: u32,
    /// The region by which it was found: when that is gone, the mapping is not kept.
    region: RegionId,
    memory: Arc<PeerMapping>,
}

/// A region of a peer's, mapped here as long as this value lives.
struct Range {
    id: RegionId,
    /// Its address at the peer.
    base: u64,
    len: u64,
    /// Its address here.
    at: *mut u8,
    blocks: Guard<Arc<Blocks>>,
    /// Which of the blocks it lies in.
    index: usize,
}

impl Shm {
    pub(super) fn new(run: u64, directory: Arc<Directory>) -> Self {
        let peers = (0..directory.ranks_here()).map(|_| OnceLock::new()).collect();
        Self { run, directory, peers }
    }

    /// Whether a peer's table is mapped.
    pub(super) fn is_open(&self, rank: u32) -> bool {
        let peer = self.directory.entry(rank).and_then(|entry| self.peers.get(entry.place as usize)?.get());
        peer.is_some_and(Result::is_ok)
    }

    fn peer(&self, rank: u32) -> Result<&Arc<Peer>> {
        let unknown = || Error::Transfer { peer: rank, reason: "it is not on this host".to_owned() };
        let entry = self.directory.entry(rank).ok_or_else(unknown)?;
        let peer = self.peers.get(entry.place as usize).ok_or_else(unknown)?;
        peer.get_or_init(|| Peer::open(self.run, rank, entry.pid, entry.regions_fd).map(Arc::new))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// # Safety
    /// As for [`super::Transfers::transfer`].
    pub(super) unsafe fn copy(
        &self,
        direction: Direction,
        handle: &RemoteHandle,
        offset: u64,
        local: Local,
    ) -> Result<Outcome> {
        let parts = handle.locate(offset, local.len as u64)?;
        let unmapped = || Ok(Outcome::Unreachable("the object's memory cannot be mapped".to_owned()));
        let peer = match self.peer(handle.rank()) {
            Ok(peer) => peer,
            Err(error) => return Ok(Outcome::Unreachable(error.to_string())),
        };
        // The head is in the region of the first part.
        let Some(piece) = peer.range(&parts[0])? else { return unmapped() };
        let head = piece.head(handle)?;
        check_alive(head, handle)?;
        let user = if parts[1].len > 0 {
            let Some(range) = peer.range(&parts[1])? else { return unmapped() };
            Some((range.place(&parts[1])?, range))
        } else {
            None
        };
        let remote = [piece.place(&parts[0])?, user.as_ref().map_or(std::ptr::null_mut(), |(at, _)| *at)];
        let mut at = local.at;
        for (remote, part) in remote.into_iter().zip(&parts).filter(|(_, part)| part.len > 0) {
            let len = part.len as usize;
            // SAFETY: the place is mapped for its length, and the lengths add up to `local.len`.
            unsafe {
                match direction {
                    Direction::Get => memory::copy(remote, at, len),
                    Direction::Put => memory::copy(at, remote, len),
                }
                at = at.add(len);
            }
        }
        fence(Ordering::Acquire);
        let regions_are_there =
            peer.regions.still(piece.id) && user.is_none_or(|(_, range)| peer.regions.still(range.id));
        if !regions_are_there || check_alive(head, handle).is_err() {
            return Err(HandleFault::Stale("the object was dropped by its owner during the transfer".to_owned()).into());
        }
        Ok(Outcome::Done)
    }

    pub(super) fn view(&self, handle: &RemoteHandle) -> Result<View> {
        let peer = self.peer(handle.rank())?;
        let unmapped = || {
            let reason =
                "the object's memory cannot be mapped by peers (malloc or the program's own): fetch it".to_owned();
            Error::Transfer { peer: handle.rank(), reason }
        };
        let piece = peer.range(&handle.head())?.ok_or_else(unmapped)?;
        let head = piece.head(handle)?;
        check_alive(head, handle)?;
        let mut keep = vec![piece.memory()];
        let mut section = |section, len: usize| -> Result<(*mut u8, usize)> {
            let parts = handle.section(section).locate(0, len as u64)?;
            let Some(part) = parts.iter().find(|part| part.len > 0) else { return Ok((piece.at, 0)) };
            let range = peer.range(part)?.ok_or_else(unmapped)?;
            keep.push(range.memory());
            Ok((range.place(part)?, len))
        };
        let meta = section(Section::Meta, handle.meta_len())?;
        let data = section(Section::Data, handle.data_len())?;
        Ok(View::new(*handle, meta, data, Keep::Peer(peer.clone(), keep)))
    }
}

impl Peer {
    fn open(run: u64, rank: u32, pid: u32, fd: RawFd) -> Result<Self> {
        let regions = PeerRegions::open(pid, fd, run, rank)?;
        Ok(Self { run, rank, pid, regions, blocks: ArcSwap::default(), mapping: Mutex::default() })
    }

    /// Where a region is mapped here; `None` when it cannot be.
    // Always inlined, as `RemoteHandle::locate` is.
    #[inline(always)]
    fn range(&self, part: &Part) -> Result<Option<Range>> {
        let id = part.id;
        let gone = || HandleFault::Stale("the region it points into is not registered, or not with its key".to_owned());
        let region = self.regions.get(id, part.key).ok_or_else(gone)?;
        let Some(backing) = region.backing else { return Ok(None) };
        let mut blocks = self.blocks.load();
        let mut found = position(&blocks, backing.block);
        if found.is_none() {
            blocks = Guard::from_inner(self.map(id, &backing)?);
            found = position(&blocks, backing.block);
        }
        let index = found.ok_or_else(gone)?;
        let memory = &blocks[index].memory;
        if backing.offset > memory.len() || region.len > memory.len() - backing.offset {
            let (len, block) = (region.len, memory.len());
            return Err(HandleFault::OutOfBounds(format!(
                "a region of {len} bytes is not within its block of {block} bytes"
            ))
            .into());
        }
        // SAFETY: within the mapping, as just checked.
        let at = unsafe { memory.base().as_ptr().add(backing.offset) };
        let (base, len) = (region.base as u64, region.len as u64);
        Ok(Some(Range { id, base, len, at, blocks, index }))
    }

    /// Maps one more block, and lets go of those whose region is gone; the new list.
    fn map(&self, id: RegionId, backing: &Backing) -> Result<Arc<Blocks>> {
        let _one_at_a_time = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.blocks.load_full();
        if position(&known, backing.block).is_some() {
            return Ok(known);
        }
        let name = tcmalloc::block_name(self.run, self.rank, backing.block);
        let memory = Arc::new(PeerMapping::open(self.pid, backing.fd, &name, backing.len, true)?);
        let mut blocks: Blocks = known.iter().filter(|known| self.regions.still(known.region)).cloned().collect();
        blocks.push(Mapped { block: backing.block, region: id, memory });
        let blocks = Arc::new(blocks);
        self.blocks.store(blocks.clone());
        Ok(blocks)
    }

    /// Whether the object is still there.
    pub(super) fn has(&self, handle: &RemoteHandle) -> bool {
        fence(Ordering::Acquire);
        let Ok(Some(piece)) = self.range(&handle.head()) else { return false };
        piece.head(handle).is_ok_and(|head| check_alive(head, handle).is_ok())
    }
}

fn position(blocks: &Blocks, block: u32) -> Option<usize> {
    blocks.iter().position(|known| known.block == block)
}

impl Range {
    /// Where a part is here.
    #[inline]
    fn place(&self, part: &Part) -> Result<*mut u8> {
        let offset = part.address.wrapping_sub(self.base);
        if offset > self.len || part.len > self.len - offset {
            let (address, len) = (part.address, part.len);
            let why = format!("{len} bytes at {address:#x} are not within the region of {} bytes", self.len);
            return Err(HandleFault::OutOfBounds(why).into());
        }
        // SAFETY: within the region, which is mapped.
        Ok(unsafe { self.at.add(offset as usize) })
    }

    /// The head of the handle's object, whatever is there now.
    fn head(&self, handle: &RemoteHandle) -> Result<&Head> {
        let at = self.place(&handle.head())?;
        if !at.addr().is_multiple_of(HEAD) {
            return Err(HandleFault::Malformed("the object's address is not aligned".to_owned()).into());
        }
        // SAFETY: 64 bytes, mapped as long as `self`, aligned; any bits are valid for its atomics.
        Ok(unsafe { &*at.cast::<Head>() })
    }

    /// What keeps it mapped beyond this value.
    fn memory(&self) -> Arc<PeerMapping> {
        self.blocks[self.index].memory.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::Shared;
    use crate::registrar::{HostRegistrar, Region, Regions};

    const LEN: usize = 8192;

    fn whole(region: &Region) -> Part {
        Part { id: region.id, key: region.keys.remote, address: region.base().addr() as u64, len: region.len as u64 }
    }

    fn block(regions: &Regions, number: u32) -> (Shared, Region) {
        let shared = Shared::create(&tcmalloc::block_name(regions.run(), regions.rank(), number), LEN).unwrap();
        let backing = Backing { fd: shared.fd(), block: number, len: LEN, offset: 4096 };
        let base = shared.base().map_addr(|at| at.saturating_add(4096));
        // SAFETY: mapped until the test's end, or deregistered before.
        let region = unsafe { regions.register(base, 4096, Some(backing)) }.unwrap();
        (shared, region)
    }

    #[test]
    fn a_region_in_use_stays_mapped_and_others_that_are_gone_do_not() {
        let regions = Regions::new(Arc::new(HostRegistrar::new(false)), 5, 3).unwrap();
        let peer = Peer::open(5, 3, std::process::id(), regions.fd()).unwrap();
        let (memory, first) = block(&regions, 0);
        // SAFETY: our own memory.
        unsafe { first.base().write_volatile(17) };
        let range = peer.range(&whole(&first)).unwrap().unwrap();
        let part = |offset: u64, len| Part { id: first.id, key: 0, address: first.base().addr() as u64 + offset, len };
        assert_eq!(range.place(&part(0, 4096)), Ok(range.at));
        for (offset, len) in [(0, 4097), (4097, 0), (u64::MAX, 1), (1, u64::MAX)] {
            let address = (first.base().addr() as u64).wrapping_add(offset);
            let outside = Part { address, ..part(0, len) };
            assert!(matches!(range.place(&outside), Err(Error::Handle(HandleFault::OutOfBounds(_)))));
        }
        regions.deregister(first.id).unwrap();
        drop(memory);
        assert!(matches!(peer.range(&whole(&first)), Err(Error::Handle(HandleFault::Stale(_)))));
        let (_memory, second) = block(&regions, 1);
        drop(peer.range(&whole(&second)).unwrap().unwrap());
        let mapped: Vec<u32> = peer.blocks.load().iter().map(|mapped| mapped.block).collect();
        assert_eq!(mapped, [1], "only what is still registered");
        // SAFETY: the range keeps its mapping.
        assert_eq!(unsafe { range.at.read_volatile() }, 17);
    }

    #[test]
    fn threads_that_need_the_same_block_map_it_once() {
        let regions = Regions::new(Arc::new(HostRegistrar::new(false)), 6, 0).unwrap();
        let peer = Peer::open(6, 0, std::process::id(), regions.fd()).unwrap();
        let (_memory, region) = block(&regions, 0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(peer.range(&whole(&region)).unwrap().is_some()));
            }
        });
        assert_eq!(peer.blocks.load().len(), 1);
    }
}
