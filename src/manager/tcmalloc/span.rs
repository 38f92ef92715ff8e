//! Spans: runs of pages of a block, and which of their pieces are free.
//!
//! A span is described outside the block. Its description stays where it is as long as the manager lives, is used again for
//! other pages, and is changed only under the lock of its class (its pieces) or of the heap (all else).

use std::cell::Cell;
use std::ptr::NonNull;

use super::Batch;
use super::classes::{MOST_PIECES, PAGE, pages_of_class, size_of_class};

const WORDS: usize = MOST_PIECES / 64;

/// What a span is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Nothing: its pages are free.
    Free,
    /// One piece of any length, larger than the largest class.
    Huge,
    /// Pieces of a class.
    Class(usize),
    /// The description names no pages at present.
    Unused,
}

/// A run of pages.
#[derive(Debug)]
pub(super) struct Span {
    /// Address of its first byte.
    pub base: NonNull<u8>,
    /// Number of its block in the heap.
    pub block: usize,
    /// Its first page in the block.
    pub first: usize,
    pub pages: usize,
    pub usage: Use,
    /// Neighbours in the list of free spans of its length.
    pub next: Option<NonNull<Span>>,
    pub previous: Option<NonNull<Span>>,
    // Changed under the lock of the class, while others may read the rest under that of the heap: so no `&mut Span` is made of
    // a span in use.
    /// Its place in the list of its class.
    pub place: Cell<usize>,
    /// Free pieces; those in thread caches and loose lists are not free.
    pub free: Cell<usize>,
    bits: [Cell<u64>; WORDS],
}

impl Span {
    pub(super) fn new() -> Self {
        Self {
            base: NonNull::dangling(),
            block: 0,
            first: 0,
            pages: 0,
            usage: Use::Unused,
            next: None,
            previous: None,
            place: Cell::default(),
            free: Cell::default(),
            bits: Default::default(),
        }
    }

    /// Number of pieces of a span of a class.
    pub(super) const fn pieces_of_class(class: usize) -> usize {
        pages_of_class(class) * PAGE / size_of_class(class)
    }

    /// Cuts the span into pieces of a class, all free. The first word of each is set to zero, which says that no object
    /// begins there.
    pub(super) fn cut(&mut self, class: usize) {
        let count = Self::pieces_of_class(class);
        self.usage = Use::Class(class);
        self.free.set(count);
        for (word, bits) in self.bits.iter().enumerate() {
            let left = count.saturating_sub(word * 64).min(64);
            bits.set(if left == 64 { u64::MAX } else { (1 << left) - 1 });
        }
        for index in 0..count {
            // SAFETY: the piece lies in the span, whose pages are nobody else's; it is aligned to 64.
            unsafe { self.piece(index).cast::<u64>().write(0) };
        }
    }

    fn size(&self) -> usize {
        match self.usage {
            Use::Class(class) => size_of_class(class),
            _ => self.pages * PAGE,
        }
    }

    /// Address of a piece.
    pub(super) fn piece(&self, index: usize) -> NonNull<u8> {
        debug_assert!((index + 1) * self.size() <= self.pages * PAGE);
        // SAFETY: every piece lies in its span.
        unsafe { self.base.add(index * self.size()) }
    }

    /// Takes up to `most` free pieces, lowest first.
    pub(super) fn take(&self, most: usize, pieces: &mut Batch) {
        let mut left = most.min(self.free.get());
        self.free.set(self.free.get() - left);
        for (word, bits) in self.bits.iter().enumerate() {
            while left > 0 && bits.get() != 0 {
                pieces.push(self.piece(word * 64 + bits.get().trailing_zeros() as usize));
                bits.set(bits.get() & (bits.get() - 1));
                left -= 1;
            }
        }
    }

    /// Number of the piece that begins at this address.
    pub(super) fn index_of(&self, piece: NonNull<u8>) -> Option<usize> {
        let offset = piece.as_ptr().addr().checked_sub(self.base.as_ptr().addr())?;
        (offset % self.size() == 0 && offset < self.pages * PAGE).then(|| offset / self.size())
    }

    /// Gives a piece back; false when it was free, or is none.
    pub(super) fn give(&self, piece: NonNull<u8>) -> bool {
        match self.index_of(piece) {
            Some(index) if !self.is_free(index) => {
                let bits = &self.bits[index / 64];
                bits.set(bits.get() | 1 << (index % 64));
                self.free.set(self.free.get() + 1);
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_free(&self, index: usize) -> bool {
        self.bits[index / 64].get() & 1 << (index % 64) != 0
    }
}
