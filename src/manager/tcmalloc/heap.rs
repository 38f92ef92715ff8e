//! The heap: blocks, and their free spans by length.
//!
//! Each block has its free spans in bins, eight between one power of two and the next, with a bit for each bin that holds
//! any; so a span of some length is found, split and merged in a few steps. The oldest block that has room is used first,
//! so that late blocks become empty and can be given back. Neighbours of a span that becomes free are found by the block's
//! table of pages, which has an entry for the first and last page of every span, and for all pages of a span with several
//! pieces.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use super::blocks::Block;
use super::classes::{PAGE, is_single};
use super::span::{Span, Use};

const BINS: usize = 256;

/// A block and its free spans.
#[derive(Debug)]
pub(super) struct HeapBlock {
    pub block: Arc<Block>,
    pub free: usize,
    /// Since when all its pages are free.
    pub empty_since: Option<Instant>,
    bins: [Option<NonNull<Span>>; BINS],
    filled: [u64; BINS / 64],
}

/// All blocks of one manager.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pub blocks: Vec<Option<HeapBlock>>,
    /// Every description of a span there is. They are never moved or freed before the heap is.
    #[expect(clippy::vec_box, reason = "their addresses are kept")]
    spans: Vec<Box<Span>>,
    unused: Vec<NonNull<Span>>,
    /// Free pages in all blocks.
    pub free: usize,
    /// Blocks ever added.
    pub added: usize,
}

// SAFETY: the pointers are to spans that the heap itself owns; they are used under the locks that the manager holds.
unsafe impl Send for Heap {}

/// The bin that spans of so many pages lie in: the first eight exactly, then eight steps to each power of two.
fn bin(pages: usize) -> usize {
    if pages < 8 {
        return pages;
    }
    let power = pages.ilog2() as usize;
    let step = (pages >> (power - 3)) - 8;
    (8 + (power - 3) * 8 + step).min(BINS - 1)
}

impl HeapBlock {
    fn new(block: Arc<Block>) -> Self {
        Self { block, free: 0, empty_since: None, bins: [None; BINS], filled: [0; BINS / 64] }
    }

    pub(super) fn pages(&self) -> usize {
        self.block.len() / PAGE
    }

    fn insert(&mut self, span: NonNull<Span>) {
        // SAFETY: spans live as long as the heap, which is locked.
        let described = unsafe { &mut *span.as_ptr() };
        let bin = bin(described.pages);
        described.usage = Use::Free;
        described.previous = None;
        described.next = self.bins[bin].replace(span);
        if let Some(next) = described.next {
            // SAFETY: as above; another span.
            unsafe { (*next.as_ptr()).previous = Some(span) };
        }
        self.filled[bin / 64] |= 1 << (bin % 64);
        self.free += described.pages;
        self.block.set_ends(described.first, described.pages, span);
        if self.free == self.pages() {
            self.empty_since = Some(Instant::now());
        }
    }

    fn remove(&mut self, span: NonNull<Span>) {
        // SAFETY: spans live as long as the heap, which is locked; the neighbours are other spans.
        unsafe {
            let (pages, next, previous) = {
                let span = span.as_ref();
                (span.pages, span.next, span.previous)
            };
            let bin = bin(pages);
            if let Some(next) = next {
                (*next.as_ptr()).previous = previous;
            }
            match previous {
                Some(previous) => (*previous.as_ptr()).next = next,
                None => self.bins[bin] = next,
            }
            if self.bins[bin].is_none() {
                self.filled[bin / 64] &= !(1 << (bin % 64));
            }
            self.free -= pages;
        }
        self.empty_since = None;
    }

    /// A free span of at least that many pages.
    fn find(&self, pages: usize) -> Option<NonNull<Span>> {
        let exact = bin(pages);
        // SAFETY: spans live as long as the heap, which is locked.
        if let Some(first) = self.bins[exact].filter(|first| unsafe { first.as_ref() }.pages >= pages) {
            return Some(first);
        }
        let from = exact + 1;
        for word in from / 64..BINS / 64 {
            let mask = if word == from / 64 { u64::MAX << (from % 64) } else { u64::MAX };
            let bits = self.filled[word] & mask;
            if bits != 0 {
                return self.bins[word * 64 + bits.trailing_zeros() as usize];
            }
        }
        // What is beyond the last bin's lower bound is of any length.
        let mut next = self.bins[exact];
        while let Some(span) = next {
            // SAFETY: as above.
            let described = unsafe { span.as_ref() };
            if described.pages >= pages {
                return Some(span);
            }
            next = described.next;
        }
        None
    }
}

impl Heap {
    /// Adds a block: one free span.
    pub(super) fn add(&mut self, block: Arc<Block>) {
        let pages = block.len() / PAGE;
        self.added += 1;
        let index = self.blocks.iter().position(Option::is_none).unwrap_or(self.blocks.len());
        if index == self.blocks.len() {
            self.blocks.push(None);
        }
        let base = block.base();
        self.blocks[index] = Some(HeapBlock::new(block));
        self.insert_free(index, base, 0, pages);
    }

    fn describe(&mut self) -> NonNull<Span> {
        self.unused.pop().unwrap_or_else(|| {
            self.spans.push(Box::new(Span::new()));
            let last = self.spans.len() - 1;
            NonNull::from(&mut *self.spans[last])
        })
    }

    fn forget(&mut self, mut span: NonNull<Span>) {
        // SAFETY: spans live as long as the heap, which is locked.
        unsafe { span.as_mut() }.usage = Use::Unused;
        self.unused.push(span);
    }

    fn insert_free(&mut self, block: usize, base: NonNull<u8>, first: usize, pages: usize) {
        let span = self.describe();
        // SAFETY: spans live as long as the heap, which is locked.
        unsafe {
            let span = &mut *span.as_ptr();
            (span.block, span.base, span.first, span.pages) = (block, base, first, pages);
        }
        self.free += pages;
        if let Some(block) = &mut self.blocks[block] {
            block.insert(span);
        }
    }

    /// Takes a span of that many pages for that use; `None` when no block has it.
    pub(super) fn take(&mut self, pages: usize, usage: Use) -> Option<NonNull<Span>> {
        let (index, span) = (self.blocks.iter().enumerate())
            .filter_map(|(index, block)| Some((index, block.as_ref().filter(|block| block.free >= pages)?)))
            .find_map(|(index, block)| Some((index, block.find(pages)?)))?;
        let block = self.blocks[index].as_mut()?;
        block.remove(span);
        // SAFETY: spans live as long as the heap, which is locked.
        let described = unsafe { &mut *span.as_ptr() };
        let rest = described.pages - pages;
        self.free -= described.pages;
        described.pages = pages;
        described.usage = usage;
        match usage {
            Use::Class(class) => {
                described.cut(class);
                if is_single(class) {
                    block.block.set_ends(described.first, pages, span);
                } else {
                    block.block.set_all(described.first, pages, span);
                }
            }
            _ => {
                // SAFETY: the first word of a span that nobody else has: no object begins there yet.
                unsafe { described.base.cast::<u64>().write(0) };
                block.block.set_ends(described.first, pages, span);
            }
        }
        let first = described.first + pages;
        if rest > 0 {
            // SAFETY: within the span before it was split.
            let base = unsafe { described.base.add(pages * PAGE) };
            self.insert_free(index, base, first, rest);
        }
        Some(span)
    }

    /// Gives a span back and merges it with its free neighbours.
    pub(super) fn give(&mut self, span: NonNull<Span>) {
        // SAFETY: spans live as long as the heap, which is locked.
        let (index, mut base, mut first, mut pages) = unsafe {
            let span = span.as_ref();
            (span.block, span.base, span.first, span.pages)
        };
        self.forget(span);
        let Some(block) = &mut self.blocks[index] else { return };
        let after = first + pages;
        let neighbours = [first.checked_sub(1), (after < block.pages()).then_some(after)];
        let mut merged = [None; 2];
        for (page, merged) in neighbours.into_iter().zip(&mut merged) {
            let Some(other) = page.and_then(|page| block.block.span_of_page(page)) else { continue };
            // SAFETY: as above; the entry is of a span that has this page as its first or last.
            let described = unsafe { other.as_ref() };
            if described.usage != Use::Free || described.block != index {
                continue;
            }
            if described.first < first {
                (base, first) = (described.base, described.first);
            }
            pages += described.pages;
            block.remove(other);
            *merged = Some((other, described.pages));
        }
        for (other, its_pages) in merged.into_iter().flatten() {
            self.free -= its_pages;
            self.forget(other);
        }
        self.insert_free(index, base, first, pages);
    }

    /// Whether a span of so many pages is free.
    pub(super) fn has(&self, pages: usize) -> bool {
        self.blocks.iter().flatten().any(|block| block.free >= pages && block.find(pages).is_some())
    }

    /// Whether a block that may be given back is wholly free.
    pub(super) fn has_empty_block(&self) -> bool {
        self.blocks.iter().skip(1).flatten().any(|block| block.empty_since.is_some())
    }

    /// Takes out a block of at most `spare` bytes that has been wholly free since before `since`; never the first.
    pub(super) fn take_empty_block(&mut self, since: Instant, spare: usize) -> Option<Arc<Block>> {
        let is_due =
            |block: &HeapBlock| block.block.len() <= spare && block.empty_since.is_some_and(|empty| empty <= since);
        let index = (1..self.blocks.len()).rev().find(|&index| self.blocks[index].as_ref().is_some_and(is_due))?;
        let block = self.blocks[index].take()?;
        if let Some(span) = block.block.span_of_page(0) {
            self.forget(span);
        }
        self.free -= block.free;
        Some(block.block)
    }

    /// All spans that are in use or free.
    pub(super) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().map(|span| &**span).filter(|span| span.usage != Use::Unused)
    }

    /// Bytes of the books of this heap: descriptions of spans and of blocks.
    pub(super) fn bookkeeping(&self) -> usize {
        let blocks = self.blocks.iter().flatten();
        self.spans.len() * (size_of::<Span>() + size_of::<usize>())
            + blocks.map(|block| size_of::<HeapBlock>() + block.pages() * size_of::<usize>()).sum::<usize>()
    }
}
