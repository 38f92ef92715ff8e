//! The central list of one class: what thread caches are filled from and emptied into, a batch at a time.
//!
//! Pieces that come back are kept loose at first, to be handed on as they are: one thread's drops become another's
//! allocations with one lock per batch. Too many of them go back to their spans, and spans that become wholly free go back
//! to the heap.

use std::ptr::NonNull;

use super::classes::loose_of_class;
use super::span::{Span, Use};
use super::{Batch, blocks};

/// The central list of a class.
#[derive(Debug, Default)]
pub(super) struct Central {
    pub loose: Vec<NonNull<u8>>,
    /// Spans with a free piece; each knows its place here.
    partial: Vec<NonNull<Span>>,
    /// Spans of this class.
    pub spans: usize,
}

// SAFETY: pieces and spans may be handed on by any thread; they are used under the lock that this lies behind.
unsafe impl Send for Central {}

impl Central {
    /// Takes up to `most` pieces that are there.
    pub(super) fn take(&mut self, most: usize, pieces: &mut Batch) {
        let from_loose = most.min(self.loose.len());
        pieces.extend(self.loose.drain(self.loose.len() - from_loose..));
        while pieces.len() < most
            && let Some(&last) = self.partial.last()
        {
            // SAFETY: spans live as long as the heap; this one's pieces are under our lock.
            let span = unsafe { last.as_ref() };
            span.take(most - pieces.len(), pieces);
            if span.free.get() == 0 {
                self.partial.pop();
            }
        }
    }

    /// Adds a fresh span, all of whose pieces are free.
    pub(super) fn add(&mut self, span: NonNull<Span>) {
        self.spans += 1;
        self.list(span);
    }

    fn list(&mut self, span: NonNull<Span>) {
        // SAFETY: spans live as long as the heap; this one's pieces are under our lock.
        unsafe { span.as_ref() }.place.set(self.partial.len());
        self.partial.push(span);
    }

    fn unlist(&mut self, place: usize) {
        self.partial.swap_remove(place);
        if let Some(moved) = self.partial.get(place) {
            // SAFETY: as in `list`.
            unsafe { moved.as_ref() }.place.set(place);
        }
    }

    /// Takes pieces of this class back. What does not stay loose goes to its span, and spans that are wholly free to `heap`.
    pub(super) fn give(&mut self, class: usize, pieces: &[NonNull<u8>], heap: impl FnMut(NonNull<Span>)) {
        self.loose.extend_from_slice(pieces);
        let most = loose_of_class(class);
        if self.loose.len() > most {
            self.settle(most / 2, heap);
        }
    }

    /// Gives all loose pieces but the `keep` last ones to their spans.
    pub(super) fn settle(&mut self, keep: usize, mut heap: impl FnMut(NonNull<Span>)) {
        let from_loose = self.loose.len().saturating_sub(keep);
        let pieces: Vec<_> = self.loose.drain(..from_loose).collect();
        for piece in pieces {
            let Some(at) = span_of(piece) else { continue };
            // SAFETY: as in `list`.
            let span = unsafe { at.as_ref() };
            let Use::Class(class) = span.usage else { continue };
            let was_full = span.free.get() == 0;
            if !span.give(piece) {
                tracing::error!("{piece:?} came back twice; left alone");
                continue;
            }
            let is_empty = span.free.get() == Span::pieces_of_class(class);
            let place = span.place.get();
            match (was_full, is_empty) {
                (true, false) => self.list(at),
                (was_full, true) => {
                    if !was_full {
                        self.unlist(place);
                    }
                    self.spans -= 1;
                    heap(at);
                }
                (false, false) => {}
            }
        }
    }

    /// Free pieces of the spans, loose ones not counted.
    pub(super) fn free_in_spans(&self) -> usize {
        // SAFETY: as in `list`.
        self.partial.iter().map(|span| unsafe { span.as_ref() }.free.get()).sum()
    }
}

/// The span that a piece is of.
pub(super) fn span_of(piece: NonNull<u8>) -> Option<NonNull<Span>> {
    let address = piece.as_ptr().addr();
    // SAFETY: a block of which a piece is not free is not given back.
    unsafe { blocks::block_at(address).as_ref() }?.span_at(address)
}
