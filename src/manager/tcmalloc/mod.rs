//! The `tcmalloc` memory manager: large blocks, registered at once, cut into spans and pieces.
//!
//! A size up to 256 KiB is rounded up to its size class and taken from a span of equal pieces; a larger one is a span of
//! its own. When no block has room, a new one is mapped: of `min_system_alloc` bytes the first time, then twice as much
//! each time up to a cap, or of what one very large piece needs. All books lie outside the blocks.

mod blocks;
mod classes;
mod spans;

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Holdings;
use crate::error::Result;
use crate::registrar::{Backing, Region};
use crate::snapshot::{BlockInfo, ClassInfo};

pub(crate) use blocks::{BlockSource, block_name};
use classes::{COUNT, LARGEST, PAGE, class_of, pages_of_class, size_of_class};
use spans::{SpanId, Spans, Use};

/// One instance; any number may live in a process.
#[derive(Debug)]
pub(crate) struct Tcmalloc {
    source: Arc<BlockSource>,
    /// Whether blocks are registered when they are mapped.
    register: bool,
    largest_block: usize,
    central: Mutex<Central>,
}

#[derive(Debug)]
struct Central {
    spans: Spans,
    /// Per class, the spans that have a free piece.
    partial: Vec<Vec<SpanId>>,
    next_block: usize,
    used: u64,
}

impl Tcmalloc {
    /// With its first block, so that a program that cannot have it learns so at the start.
    pub(crate) fn new(source: Arc<BlockSource>, register: bool, min_block: usize, max_block: usize) -> Result<Self> {
        let central =
            Central { spans: Spans::default(), partial: vec![Vec::new(); COUNT], next_block: min_block, used: 0 };
        let manager = Self { source, register, largest_block: max_block, central: Mutex::new(central) };
        manager.grow(&mut manager.central(), 0)?;
        Ok(manager)
    }

    fn central(&self) -> MutexGuard<'_, Central> {
        self.central.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, central: &mut Central, least: usize) -> Result<()> {
        let block = self.source.make(central.next_block.max(least), self.register)?;
        central.next_block = (central.next_block * 2).min(self.largest_block).max(central.next_block);
        central.spans.add_block(block);
        Ok(())
    }

    fn take_span(&self, central: &mut Central, pages: usize, class: Option<usize>) -> Result<SpanId> {
        if let Some(id) = central.spans.take(pages, class) {
            return Ok(id);
        }
        self.grow(central, pages * PAGE)?;
        central.spans.take(pages, class).ok_or_else(|| {
            crate::Error::Memory(format!(
                "a new block has no room for {pages} pages of {PAGE} bytes; this is a fault of Lunasa"
            ))
        })
    }

    pub(crate) fn allocate(&self, len: usize) -> Result<NonNull<u8>> {
        let mut central = self.central();
        let central = &mut *central;
        if len > LARGEST {
            let pages = len.div_ceil(PAGE);
            let id = self.take_span(central, pages, None)?;
            central.used += (pages * PAGE) as u64;
            return Ok(central.spans.base(id));
        }
        let class = class_of(len);
        let id = match central.partial[class].last() {
            Some(&id) => id,
            None => {
                let id = self.take_span(central, pages_of_class(class), Some(class))?;
                central.partial[class].push(id);
                id
            }
        };
        let base = central.spans.base(id);
        let Use::Pieces(pieces) = &mut central.spans.spans[id as usize].usage else {
            return Err(crate::Error::Memory(format!("span {id} is not of class {class}; this is a fault of Lunasa")));
        };
        let index = pieces.take().ok_or_else(|| {
            crate::Error::Memory(format!("span {id} of class {class} has no free piece; this is a fault of Lunasa"))
        })?;
        if pieces.free == 0 {
            central.partial[class].pop();
        }
        central.used += size_of_class(class) as u64;
        // SAFETY: the piece lies within the span.
        Ok(unsafe { base.add(index * size_of_class(class)) })
    }

    /// # Safety
    /// As for [`super::Manager::release`].
    pub(crate) unsafe fn release(&self, piece: NonNull<u8>) {
        let address = piece.as_ptr().addr();
        let mut central = self.central();
        let central = &mut *central;
        let found = central.spans.find(blocks::block_at(address), address);
        let wrong = || {
            tracing::error!(
                "released {address:#x}, which this manager did not hand out or which was released before; left alone"
            );
        };
        let Some((id, offset)) = found else { return wrong() };
        let span = &mut central.spans.spans[id as usize];
        match &mut span.usage {
            Use::Pieces(pieces) => {
                let (class, size) = (pieces.class, size_of_class(pieces.class));
                if offset % size != 0 || !pieces.give(offset / size) {
                    return wrong();
                }
                central.used -= size as u64;
                let (was_full, is_empty) = (pieces.free == 1, pieces.free == pieces.count);
                if was_full {
                    central.partial[class].push(id);
                }
                // Keep one span per class, so that a single object that comes and goes does not cut and merge each time.
                if is_empty && central.partial[class].len() > 1 {
                    central.partial[class].retain(|&other| other != id);
                    central.spans.give(id);
                }
            }
            Use::Large if offset == 0 => {
                central.used -= (span.pages * PAGE) as u64;
                central.spans.give(id);
            }
            Use::Large | Use::Free | Use::Unused => wrong(),
        }
    }

    pub(crate) fn walk(&self, visit: &mut dyn FnMut(NonNull<u8>) -> bool) {
        let central = self.central();
        for (id, span) in central.spans.spans.iter().enumerate() {
            match &span.usage {
                Use::Free | Use::Unused => {}
                Use::Large => {
                    if !visit(central.spans.base(id as SpanId)) {
                        return;
                    }
                }
                Use::Pieces(pieces) => {
                    let base = central.spans.base(id as SpanId);
                    for index in (0..pieces.count).filter(|&index| !pieces.is_free(index)) {
                        // SAFETY: the piece lies within the span.
                        if !visit(unsafe { base.add(index * size_of_class(pieces.class)) }) {
                            return;
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn holdings(&self) -> Holdings {
        let central = self.central();
        let mut holdings = Holdings { used: central.used, ..Holdings::default() };
        let mut classes = vec![ClassInfo::default(); COUNT];
        let mut used = vec![0u64; central.spans.blocks.len()];
        for span in &central.spans.spans {
            match &span.usage {
                Use::Free | Use::Unused => {}
                Use::Large => used[span.block] += (span.pages * PAGE) as u64,
                Use::Pieces(pieces) => {
                    let (class, live) = (&mut classes[pieces.class], (pieces.count - pieces.free) as u64);
                    class.size = size_of_class(pieces.class) as u64;
                    class.spans += 1;
                    class.free += pieces.free as u64;
                    class.live += live;
                    used[span.block] += live * class.size;
                }
            }
        }
        holdings.classes = classes.into_iter().filter(|class| class.spans > 0).collect();
        for (entry, used_bytes) in central.spans.blocks.iter().zip(used) {
            let (block, report) = (&entry.block, entry.block.report());
            holdings.managed += block.len() as u64;
            holdings.blocks.push(BlockInfo {
                pool: String::new(),
                address: block.base().as_ptr().addr() as u64,
                bytes: block.len() as u64,
                used_bytes,
                page_bytes: report.page_bytes,
                page_kind: report.page_kind.to_string(),
                node_asked: report.node_asked,
                nodes_found: report.nodes_found.clone(),
                registered: block.region().is_some(),
                note: report.note.clone(),
            });
        }
        holdings
    }

    /// The first block's region: what the directory tells the peers.
    pub(crate) fn first_region(&self) -> Option<Region> {
        self.central().spans.blocks.first().and_then(|entry| entry.block.region())
    }
}

/// The region and the backing of the block that a live piece lies in, of whatever manager; `None` outside all blocks.
///
/// # Safety
/// The address is 0, or in no block, or in a piece that stays handed out during the call.
pub(crate) unsafe fn block_of(address: usize) -> Option<(Option<Region>, Backing)> {
    // SAFETY: a block with a piece handed out is not given back.
    let block = unsafe { blocks::block_at(address).as_ref() }?;
    Some((block.region(), block.backing(address)))
}
