//! Blocks of a manager: where they come from, and which one an address lies in.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::classes::PAGE;
use super::map::Map;
use super::span::Span;
use crate::error::Result;
use crate::memory::{self, BlockRequest, HugePages, Place};
use crate::registrar::{Backing, Region, Regions};
use crate::topology::Topology;

/// Blocks begin and end at multiples of this, so that no two share an entry of the map below.
pub(crate) const GRANULE: usize = 1 << GRANULE_BITS;
const GRANULE_BITS: u32 = 21;

/// Makes blocks for those pools of one rank whose blocks are placed alike.
#[derive(Debug, Clone)]
pub(crate) struct BlockSource {
    pub run: u64,
    pub rank: u32,
    pub topology: Topology,
    pub place: Place,
    pub huge_pages: HugePages,
    pub touch_threads: usize,
    pub regions: Arc<Regions>,
    /// The next block's number, for all sources of the rank.
    pub next: Arc<AtomicU32>,
}

/// The name of a block's memfd, which proves to peers that they opened the right one.
pub(crate) fn block_name(run: u64, rank: u32, number: u32) -> String {
    format!("lunasa-{run:016x}-{rank}-block-{number}")
}

/// A block and its registration.
#[derive(Debug)]
pub(crate) struct Block {
    /// Unmapped by `Drop`, unless its registration could not be ended.
    memory: ManuallyDrop<memory::Block>,
    number: u32,
    region: Option<Region>,
    regions: Arc<Regions>,
    /// The span of each page; see the heap for which entries are kept.
    pages: Box<[AtomicPtr<Span>]>,
}

impl BlockSource {
    /// Maps a block of at least `len` bytes and registers it if wanted.
    pub(crate) fn make(&self, len: usize, register: bool) -> Result<Arc<Block>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let memory = memory::Block::map(&BlockRequest {
            name: &block_name(self.run, self.rank, number),
            len: len.next_multiple_of(GRANULE),
            place: self.place,
            huge_pages: self.huge_pages,
            touch_threads: self.touch_threads,
            topology: &self.topology,
        })?;
        let pages = (0..memory.len() / PAGE).map(|_| AtomicPtr::default()).collect();
        let (memory, regions) = (ManuallyDrop::new(memory), self.regions.clone());
        let mut block = Block { memory, number, region: None, regions, pages };
        if register {
            let (base, len, backing) = (block.base(), block.len(), block.backing(block.base().as_ptr().addr()));
            // SAFETY: mapped above; unmapped only after the deregistration in `Drop`.
            block.region = Some(unsafe { self.regions.register(base, len, Some(backing)) }?);
        }
        let block = Arc::new(block);
        map_block(&block, Arc::as_ptr(&block));
        Ok(block)
    }
}

impl Block {
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.memory.base()
    }

    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn report(&self) -> &memory::BlockReport {
        self.memory.report()
    }

    #[inline]
    pub(crate) fn region(&self) -> Option<Region> {
        self.region
    }

    /// Notes a span at its first and last page.
    pub(super) fn set_ends(&self, first: usize, pages: usize, span: NonNull<Span>) {
        self.pages[first].store(span.as_ptr(), Ordering::Release);
        self.pages[first + pages - 1].store(span.as_ptr(), Ordering::Release);
    }

    /// Notes a span at all its pages.
    pub(super) fn set_all(&self, first: usize, pages: usize, span: NonNull<Span>) {
        self.pages[first..first + pages].iter().for_each(|page| page.store(span.as_ptr(), Ordering::Release));
    }

    /// The span noted at a page.
    pub(super) fn span_of_page(&self, page: usize) -> Option<NonNull<Span>> {
        NonNull::new(self.pages.get(page)?.load(Ordering::Acquire))
    }

    /// The span noted at the page of an address of this block.
    pub(super) fn span_at(&self, address: usize) -> Option<NonNull<Span>> {
        self.span_of_page((address - self.base().as_ptr().addr()) / PAGE)
    }

    /// How a peer maps memory of this block, from an address in it.
    pub(crate) fn backing(&self, address: usize) -> Backing {
        let offset = address - self.base().as_ptr().addr();
        Backing { fd: self.memory.fd(), block: self.number, len: self.len(), offset }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        map_block(self, std::ptr::null());
        if let Some(region) = self.region.take()
            && let Err(error) = self.regions.deregister(region.id)
        {
            tracing::error!("{error}; the block's memory stays mapped");
            return;
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}

const LEAF: usize = 1 << 14;
const ROOT: usize = (1 << (48 - GRANULE_BITS)) / LEAF;
/// From addresses to blocks: 48 bits of address, 2 MiB a step, for all managers of the process.
static BLOCKS: Map<Block, ROOT, LEAF> = Map([const { AtomicPtr::new(std::ptr::null_mut()) }; ROOT]);

fn map_block(block: &Block, entry: *const Block) {
    let first = block.base().as_ptr().addr();
    for address in (first..first + block.len()).step_by(GRANULE) {
        BLOCKS.set(address >> GRANULE_BITS, entry);
    }
}

/// The block that an address lies in, of whatever manager; null when in none.
///
/// The block may be used as long as the caller knows something in it to be handed out.
#[inline]
pub(crate) fn block_at(address: usize) -> *const Block {
    BLOCKS.get(address >> GRANULE_BITS)
}
