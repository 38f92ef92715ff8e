//! The `shm` route: peers on this host. Their blocks are mapped once, and copied from and to.
//!
//! A peer's table of regions is mapped too. Before a copy the region's generation and the object's tag are looked at, and
//! after it once more: what changed meanwhile is an error, and what was read is not used. The mapping keeps the memory
//! readable even when the peer has released the block or died.

use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::view::{Keep, View};
use super::{Direction, Local, Outcome};
use crate::bootstrap::Directory;
use crate::error::{Error, HandleFault, Result};
use crate::manager::tcmalloc;
use crate::memory::{self, PeerMapping};
use crate::object::{HEAD, Head, Part, RemoteHandle, Section};
use crate::registrar::{PeerRegions, RegionId};

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
    blocks: RwLock<Vec<Mapped>>,
}

#[derive(Debug, Clone)]
struct Mapped {
    block: u32,
    /// The region by which it was found: when that is gone, the mapping is not kept.
    region: RegionId,
    memory: Arc<PeerMapping>,
}

/// A part of an object, mapped here.
struct Place {
    memory: Arc<PeerMapping>,
    at: *mut u8,
    len: usize,
}

impl Shm {
    pub(super) fn new(run: u64, directory: Arc<Directory>) -> Self {
        let peers = (0..directory.ranks_here()).map(|_| OnceLock::new()).collect();
        Self { run, directory, peers }
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
        let peer = match self.peer(handle.rank()) {
            Ok(peer) => peer,
            Err(error) => return Ok(Outcome::Unreachable(error.to_string())),
        };
        let Some(_head) = peer.head(handle)? else {
            return Ok(Outcome::Unreachable("the object's memory cannot be mapped".to_owned()));
        };
        let mut places = [None, None];
        for (place, part) in places.iter_mut().zip(&parts).filter(|(_, part)| part.len > 0) {
            match peer.place(part)? {
                Some(found) => *place = Some(found),
                None => return Ok(Outcome::Unreachable("the object's memory cannot be mapped".to_owned())),
            }
        }
        let mut at = local.at;
        for Place { at: remote, len, memory: _ } in places.iter().flatten() {
            // SAFETY: the place is mapped for its length, and the lengths add up to `local.len`.
            unsafe {
                match direction {
                    Direction::Get => memory::copy(*remote, at, *len),
                    Direction::Put => memory::copy(at, *remote, *len),
                }
                at = at.add(*len);
            }
        }
        if !peer.has(handle) {
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
        let head = peer.head(handle)?.ok_or_else(unmapped)?;
        let mut keep = head.memory;
        let mut section = |section, len: usize| -> Result<(*mut u8, usize)> {
            let parts = handle.section(section).locate(0, len as u64)?;
            let Some(part) = parts.iter().find(|part| part.len > 0) else { return Ok((head.at, 0)) };
            let place = peer.place(part)?.ok_or_else(unmapped)?;
            keep = place.memory;
            Ok((place.at, place.len))
        };
        let meta = section(Section::Meta, handle.meta_len())?;
        let data = section(Section::Data, handle.data_len())?;
        Ok(View::new(*handle, meta, data, Keep::Peer(peer.clone(), keep)))
    }
}

impl Peer {
    fn open(run: u64, rank: u32, pid: u32, fd: RawFd) -> Result<Self> {
        let regions = PeerRegions::open(pid, fd, run, rank)?;
        Ok(Self { run, rank, pid, regions, blocks: RwLock::default() })
    }

    /// Where a part is mapped here; `None` when it cannot be.
    fn place(&self, part: &Part) -> Result<Option<Place>> {
        let gone = || HandleFault::Stale("the region it points into is not registered any more".to_owned());
        let region = self.regions.get(part.id).ok_or_else(gone)?;
        let outside = || {
            let (address, len) = (part.address, part.len);
            HandleFault::OutOfBounds(format!(
                "{len} bytes at {address:#x} are not within the region of {} bytes",
                region.len
            ))
        };
        let offset = part.address.checked_sub(region.base as u64).ok_or_else(outside)?;
        if offset > region.len as u64 || part.len > region.len as u64 - offset {
            return Err(outside().into());
        }
        let Some(backing) = region.backing else { return Ok(None) };
        let memory = self.block(part.id, backing.block, backing.fd, backing.len)?;
        let start = backing.offset + offset as usize;
        if start > memory.len() || part.len as usize > memory.len() - start {
            return Err(outside().into());
        }
        // SAFETY: within the mapping, as just checked.
        let at = unsafe { memory.base().as_ptr().add(start) };
        Ok(Some(Place { memory, at, len: part.len as usize }))
    }

    fn block(&self, region: RegionId, block: u32, fd: RawFd, len: usize) -> Result<Arc<PeerMapping>> {
        let find =
            |blocks: &[Mapped]| blocks.iter().find(|known| known.block == block).map(|known| known.memory.clone());
        if let Some(memory) = find(&self.blocks.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(memory);
        }
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = find(&blocks) {
            return Ok(memory);
        }
        blocks.retain(|known| self.regions.still(known.region));
        let memory =
            Arc::new(PeerMapping::open(self.pid, fd, &tcmalloc::block_name(self.run, self.rank, block), len, true)?);
        blocks.push(Mapped { block, region, memory: memory.clone() });
        Ok(memory)
    }

    /// The object's head, if the object is alive and as the handle says; `None` when it cannot be mapped.
    fn head(&self, handle: &RemoteHandle) -> Result<Option<Place>> {
        let Some(place) = self.place(&handle.head())? else { return Ok(None) };
        if !place.at.addr().is_multiple_of(HEAD) {
            return Err(HandleFault::Malformed("the object's address is not aligned".to_owned()).into());
        }
        // SAFETY: 64 mapped bytes, aligned; any bits are valid for its atomics.
        let head = unsafe { &*place.at.cast::<Head>() };
        // An object without references is kept only for transfers that began before it was dropped.
        if head.is_vacant() || head.tag() != handle.tag() || head.references() == 0 {
            return Err(HandleFault::Stale("the object was dropped by its owner".to_owned()).into());
        }
        if head.shape() != handle.shape() || !head.fits(handle.shape()) {
            return Err(HandleFault::Stale("the object was resized or given another type since".to_owned()).into());
        }
        Ok(Some(place))
    }

    /// Whether the object is still there.
    pub(super) fn has(&self, handle: &RemoteHandle) -> bool {
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        matches!(self.head(handle), Ok(Some(_)))
    }
}
