//! What can be said of an instance: holdings, a walk over all pieces, and the check that every byte is in one place.

use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::Arc;

use super::cache::Counts;
use super::central::span_of;
use super::classes::{COUNT, PAGE, size_of_class};
use super::span::{Span, Use};
use super::{Shared, Tcmalloc, blocks, lock};
use crate::manager::Holdings;
use crate::registrar::Region;
use crate::snapshot::{BlockInfo, ClassInfo};

/// Equal pieces of one span, as a walk visits them.
struct Run {
    base: NonNull<u8>,
    size: usize,
    count: usize,
}

impl Tcmalloc {
    /// Objects and bytes counted by all threads together.
    pub(crate) fn counts(&self) -> Counts {
        let caches = lock(&self.shared.caches);
        let mut counts = caches.without;
        caches.all.iter().for_each(|cache| counts.add(cache.counts()));
        counts
    }

    /// Calls `visit` with every piece that could hold an object, until it returns false. Those that hold none begin with a
    /// zero word. Threads may allocate and drop meanwhile: a piece can come to hold another object, or to be cut anew, but
    /// the memory stays mapped.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(NonNull<u8>) -> bool) {
        let mut runs = Vec::new();
        let shared = &self.shared;
        let classes: Vec<_> = shared.classes.iter().map(lock).collect();
        let heap = lock(&shared.heap);
        for span in heap.spans() {
            match span.usage {
                Use::Free | Use::Unused => {}
                Use::Huge => runs.push(Run { base: span.base, size: span.pages * PAGE, count: 1 }),
                Use::Class(class) => {
                    let count = Span::pieces_of_class(class);
                    runs.push(Run { base: span.base, size: size_of_class(class), count });
                }
            }
        }
        let kept: Vec<Arc<blocks::Block>> = heap.blocks.iter().flatten().map(|block| block.block.clone()).collect();
        drop(heap);
        drop(classes);
        for run in runs {
            for index in 0..run.count {
                // SAFETY: the piece lies in its span, in a block that `kept` keeps mapped.
                if !visit(unsafe { run.base.add(index * run.size) }) {
                    return;
                }
            }
        }
        drop(kept);
    }

    /// Whether a piece begins here that is not free in its span (it may lie in a cache).
    pub(crate) fn is_piece(&self, piece: NonNull<u8>) -> bool {
        let _classes: Vec<_> = self.shared.classes.iter().map(lock).collect();
        let heap = lock(&self.shared.heap);
        let address = piece.as_ptr().addr();
        let ours = |block: &super::heap::HeapBlock| {
            let base = block.block.base().as_ptr().addr();
            (base..base + block.block.len()).contains(&address)
        };
        if !heap.blocks.iter().flatten().any(ours) {
            return false;
        }
        // SAFETY: spans live as long as the heap; all locks that change them are held.
        span_of(piece).is_some_and(|span| is_out(unsafe { span.as_ref() }, piece))
    }

    pub(crate) fn holdings(&self) -> Holdings {
        let shared = &self.shared;
        let mut holdings = Holdings::default();
        (holdings.most_objects, holdings.most_bytes) = shared.marks.most(&self.counts());
        let mut classes = vec![ClassInfo::default(); COUNT];
        {
            let caches = lock(&shared.caches);
            for (class, info) in classes.iter_mut().enumerate() {
                info.cached = caches.all.iter().map(|cache| cache.held(class) as u64).sum();
            }
            holdings.bookkeeping += caches.all.iter().map(|cache| cache.bookkeeping() as u64).sum::<u64>();
        }
        for (class, info) in classes.iter_mut().enumerate() {
            let central = lock(&shared.classes[class]);
            info.size = size_of_class(class) as u64;
            info.spans = central.spans as u64;
            info.cached += central.loose.len() as u64;
            info.free = central.free_in_spans() as u64;
            let pieces = info.spans * Span::pieces_of_class(class) as u64;
            info.live = pieces.saturating_sub(info.free + info.cached);
            holdings.bookkeeping += (central.loose.capacity() * size_of::<usize>()) as u64;
        }
        holdings.most_managed = lock(&shared.growth).most_managed as u64;
        let heap = lock(&shared.heap);
        holdings.bookkeeping += heap.bookkeeping() as u64;
        let mut huge = 0;
        for span in heap.spans() {
            if span.usage == Use::Huge {
                huge += (span.pages * PAGE) as u64;
            }
        }
        for entry in heap.blocks.iter().flatten() {
            let (block, report) = (&entry.block, entry.block.report());
            holdings.managed += block.len() as u64;
            holdings.blocks.push(BlockInfo {
                pool: String::new(),
                address: block.base().as_ptr().addr() as u64,
                bytes: block.len() as u64,
                used_bytes: ((entry.pages() - entry.free) * PAGE) as u64,
                page_bytes: report.page_bytes,
                page_kind: report.page_kind.to_string(),
                node_asked: report.node_asked,
                interleaved: report.interleaved.clone(),
                nodes_found: report.nodes_found.clone(),
                registered: block.region().is_some(),
                note: report.note.clone(),
            });
        }
        holdings.classes = classes.into_iter().filter(|class| class.spans > 0).collect();
        let (live, cached) = holdings.classes.iter().fold((huge, 0), |(live, cached), class| {
            (live + class.live * class.size, cached + class.cached * class.size)
        });
        (holdings.used, holdings.cached) = (live, cached);
        holdings
    }

    /// The parts of the blocks that are cut into pieces or are one piece: address and bytes.
    pub(crate) fn spans_in_use(&self) -> Vec<(usize, usize)> {
        let heap = lock(&self.shared.heap);
        let in_use = heap.spans().filter(|span| !matches!(span.usage, Use::Free | Use::Unused));
        in_use.map(|span| (span.base.as_ptr().addr(), span.pages * PAGE)).collect()
    }

    /// The first block's region: what the directory tells the peers.
    pub(crate) fn first_region(&self) -> Option<Region> {
        lock(&self.shared.heap).blocks.first().and_then(|block| block.as_ref()?.block.region())
    }

    /// Walks every structure and proves that each byte of each block is in exactly one place: in a free span, in a free
    /// piece, in a cache, or in a live object. `is_live` tells whether a piece that is in none of the others holds one.
    ///
    /// To be called while no other thread allocates or drops.
    pub(crate) fn check(&self, is_live: &dyn Fn(NonNull<u8>) -> bool) -> Result<(), String> {
        let shared = &self.shared;
        let caches = lock(&shared.caches);
        let classes: Vec<_> = shared.classes.iter().map(lock).collect();
        let heap = lock(&shared.heap);
        // Cached or loose pieces, each of a piece of its class that is out, and none twice.
        let mut cached = HashSet::new();
        for (class, central) in classes.iter().enumerate() {
            let mut pieces = central.loose.clone();
            caches.all.iter().for_each(|cache| cache.visit(class, &mut |piece| pieces.push(piece)));
            for piece in pieces {
                let fits = span_of(piece).is_some_and(|span| {
                    // SAFETY: spans live as long as the heap; all locks that change them are held.
                    let span = unsafe { span.as_ref() };
                    span.usage == Use::Class(class) && is_out(span, piece)
                });
                if !fits || !cached.insert(piece) {
                    return Err(format!(
                        "{piece:?}, cached in class {class}, is no piece of it that is out, or is there twice"
                    ));
                }
            }
        }
        check_spans(shared, &heap, &classes.iter().map(|central| central.spans).collect::<Vec<_>>())?;
        for span in heap.spans() {
            let count = match span.usage {
                Use::Class(class) => Span::pieces_of_class(class),
                Use::Huge => 1,
                Use::Free | Use::Unused => 0,
            };
            for piece in (0..count).map(|index| span.piece(index)).filter(|&piece| is_out(span, piece)) {
                if cached.contains(&piece) == is_live(piece) {
                    return Err(format!("{piece:?} is neither free nor cached nor alive, or two of these"));
                }
            }
        }
        Ok(())
    }
}

/// The spans of each block follow one another without a gap, and the counts of pages and spans are right.
fn check_spans(shared: &Shared, heap: &super::heap::Heap, spans_of_classes: &[usize]) -> Result<(), String> {
    let mut by_block: Vec<Vec<&Span>> = vec![Vec::new(); heap.blocks.len()];
    let mut counted = vec![0; spans_of_classes.len()];
    for span in heap.spans() {
        by_block[span.block].push(span);
        if let Use::Class(class) = span.usage {
            counted[class] += 1;
        }
    }
    if counted != spans_of_classes {
        return Err(format!(
            "manager {}: spans of classes are {counted:?}, counted {spans_of_classes:?}",
            shared.number
        ));
    }
    let mut free = 0;
    for (index, (block, spans)) in heap.blocks.iter().zip(&mut by_block).enumerate() {
        let Some(block) = block else {
            if spans.is_empty() {
                continue;
            }
            return Err(format!("spans of block {index}, which is gone"));
        };
        spans.sort_by_key(|span| span.first);
        let (mut next, mut its_free, mut was_free) = (0, 0, false);
        for span in spans.iter() {
            let is_free = span.usage == Use::Free;
            let noted = |page| block.block.span_of_page(page).is_some_and(|noted| std::ptr::eq(noted.as_ptr(), *span));
            if span.first != next || (is_free && was_free) || !noted(span.first) || !noted(span.first + span.pages - 1)
            {
                return Err(format!(
                    "block {index}: span at page {}, expected at {next}, or not merged or noted",
                    span.first
                ));
            }
            next += span.pages;
            its_free += if is_free { span.pages } else { 0 };
            was_free = is_free;
        }
        if next != block.pages() || its_free != block.free {
            return Err(format!(
                "block {index}: {next} of {} pages, {its_free} free, {} counted",
                block.pages(),
                block.free
            ));
        }
        free += its_free;
    }
    if free == heap.free { Ok(()) } else { Err(format!("{free} pages are free, {} counted", heap.free)) }
}

/// Whether a piece begins here that is not free in this span.
fn is_out(span: &Span, piece: NonNull<u8>) -> bool {
    match span.usage {
        Use::Class(_) => span.index_of(piece).is_some_and(|index| !span.is_free(index)),
        Use::Huge => span.base == piece,
        Use::Free | Use::Unused => false,
    }
}
