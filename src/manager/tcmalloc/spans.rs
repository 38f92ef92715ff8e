//! Spans: runs of pages of a block. Books of which pages are free, and of which pieces of a span are.
//!
//! All of it lies outside the blocks. Every page of a block knows the span it belongs to; so the neighbours of a span that
//! becomes free are found at once, and merged with it when they are free too.

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::Arc;

use super::blocks::Block;
use super::classes::{self, PAGE};

/// Index of a span in [`Spans`].
pub(super) type SpanId = u32;

/// What a span is used for.
#[derive(Debug)]
pub(super) enum Use {
    /// Nothing: these pages are free.
    Free,
    /// This entry of the books names no pages at present.
    Unused,
    /// One large piece.
    Large,
    /// Equal pieces of a size class.
    Pieces(Pieces),
}

/// The pieces of a span of a size class: a bit for each that is free.
#[derive(Debug)]
pub(super) struct Pieces {
    pub class: usize,
    pub count: usize,
    pub free: usize,
    bits: Box<[u64]>,
}

/// A run of pages.
#[derive(Debug)]
pub(super) struct Span {
    pub block: usize,
    pub first: usize,
    pub pages: usize,
    pub usage: Use,
}

/// A block and the span of each of its pages.
#[derive(Debug)]
pub(super) struct BlockPages {
    pub block: Arc<Block>,
    pages: Box<[SpanId]>,
}

/// All spans of one manager.
#[derive(Debug, Default)]
pub(super) struct Spans {
    pub blocks: Vec<BlockPages>,
    pub spans: Vec<Span>,
    unused: Vec<SpanId>,
    /// Free spans by length, then by place: best fit, lowest block first, so that late blocks become empty.
    free: BTreeSet<(usize, usize, usize)>,
}

impl Pieces {
    fn new(class: usize, bytes: usize) -> Self {
        let count = bytes / classes::size_of_class(class);
        let mut bits = vec![u64::MAX; count.div_ceil(64)].into_boxed_slice();
        if let Some(last) = bits.last_mut()
            && count % 64 != 0
        {
            *last = (1 << (count % 64)) - 1;
        }
        Self { class, count, free: count, bits }
    }

    /// Takes the lowest free piece.
    pub(super) fn take(&mut self) -> Option<usize> {
        let word = self.bits.iter().position(|&bits| bits != 0)?;
        let bit = self.bits[word].trailing_zeros() as usize;
        self.bits[word] &= self.bits[word] - 1;
        self.free -= 1;
        Some(word * 64 + bit)
    }

    /// Gives a piece back; false if it was free already, or is none.
    pub(super) fn give(&mut self, index: usize) -> bool {
        if index >= self.count || self.is_free(index) {
            return false;
        }
        self.bits[index / 64] |= 1 << (index % 64);
        self.free += 1;
        true
    }

    pub(super) fn is_free(&self, index: usize) -> bool {
        self.bits[index / 64] & 1 << (index % 64) != 0
    }
}

impl Spans {
    /// Adds a block: one free span.
    pub(super) fn add_block(&mut self, block: Arc<Block>) {
        let pages = block.len() / PAGE;
        let index = self.blocks.len();
        self.blocks.push(BlockPages { block, pages: vec![0; pages].into_boxed_slice() });
        self.insert_free(index, 0, pages);
    }

    /// Address of a span's first byte.
    pub(super) fn base(&self, id: SpanId) -> NonNull<u8> {
        let span = &self.spans[id as usize];
        // SAFETY: every span lies within its block.
        unsafe { self.blocks[span.block].block.base().add(span.first * PAGE) }
    }

    /// The span that an address of a block of this manager lies in, and the offset in it.
    pub(super) fn find(&self, block: *const Block, address: usize) -> Option<(SpanId, usize)> {
        let index = self.blocks.iter().position(|entry| std::ptr::eq(Arc::as_ptr(&entry.block), block))?;
        let entry = &self.blocks[index];
        let page = (address - entry.block.base().as_ptr().addr()) / PAGE;
        let id = entry.pages[page];
        Some((id, address - self.base(id).as_ptr().addr()))
    }

    /// Takes a span of that many pages, to be cut into pieces of a class or as one large piece.
    pub(super) fn take(&mut self, pages: usize, class: Option<usize>) -> Option<SpanId> {
        let &(found, block, first) = self.free.range((pages, 0, 0)..).next()?;
        self.free.remove(&(found, block, first));
        let id = self.blocks[block].pages[first];
        if found > pages {
            self.insert_free(block, first + pages, found - pages);
        }
        let usage = class.map_or(Use::Large, |class| Use::Pieces(Pieces::new(class, pages * PAGE)));
        self.spans[id as usize] = Span { block, first, pages, usage };
        self.blocks[block].pages[first..first + pages].fill(id);
        Some(id)
    }

    /// Gives a span back and merges it with free neighbours.
    pub(super) fn give(&mut self, id: SpanId) {
        let Span { block, mut first, mut pages, .. } = self.spans[id as usize];
        self.forget(id);
        let total = self.blocks[block].pages.len();
        let neighbours = [first.checked_sub(1), Some(first + pages).filter(|&page| page < total)];
        for page in neighbours.into_iter().flatten() {
            let other = self.blocks[block].pages[page];
            let Span { first: other_first, pages: other_pages, usage: Use::Free, .. } = self.spans[other as usize]
            else {
                continue;
            };
            self.free.remove(&(other_pages, block, other_first));
            self.forget(other);
            first = first.min(other_first);
            pages += other_pages;
        }
        self.insert_free(block, first, pages);
    }

    fn insert_free(&mut self, block: usize, first: usize, pages: usize) {
        let span = Span { block, first, pages, usage: Use::Free };
        let id = match self.unused.pop() {
            Some(id) => {
                self.spans[id as usize] = span;
                id
            }
            None => {
                self.spans.push(span);
                (self.spans.len() - 1) as SpanId
            }
        };
        // Only the ends are looked at while a span is free.
        self.blocks[block].pages[first] = id;
        self.blocks[block].pages[first + pages - 1] = id;
        self.free.insert((pages, block, first));
    }

    fn forget(&mut self, id: SpanId) {
        self.spans[id as usize].usage = Use::Unused;
        self.unused.push(id);
    }
}
