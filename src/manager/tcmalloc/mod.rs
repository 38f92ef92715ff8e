//! The `tcmalloc` memory manager: large blocks, registered at once, cut into spans and pieces.
//!
//! A size up to 32 MiB is rounded up to its class. A piece comes from the thread's own cache: an array of addresses for
//! each class, so that taking and giving cost a few instructions and nothing is written into free memory. Caches are filled
//! and emptied by batches from the central list of the class; that takes from spans, spans come from the heap, and the heap
//! grows by blocks. All books lie outside the blocks. See `docs/architecture.md` for an LDO on its way through.
//!
//! Locks are taken in this order: growth or the caches' list, a class, the heap. While a block is mapped only that of growth is
//! held, so that others go on with what there is.

mod blocks;
mod cache;
mod central;
mod classes;
#[cfg(test)]
mod faults;
mod growth;
mod heap;
mod map;
mod report;
mod span;
#[cfg(test)]
mod tests;
mod wake;

use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::error::{Error, Result};
use crate::manager::Marks;
use crate::registrar::{Backing, Region};

pub(crate) use blocks::{BlockSource, block_name};
pub(crate) use cache::{Cache, Counts, NO_MANAGER, Taken, last as cache_used_last};
use central::{Central, span_of};
use classes::{COUNT, PAGE, batch_of_class, class_of, pages_of_class};
pub(crate) use classes::{LARGEST, class_byte};
use growth::{Growth, Keeper};
use heap::Heap;
use span::Use;
use wake::Wake;

/// Pieces on their way between a cache and a central list.
type Batch = ArrayVec<NonNull<u8>, 64>;

/// How an instance grows and shrinks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Whether blocks are registered when they are mapped.
    pub register: bool,
    /// Bytes of the smallest and the largest block.
    pub block: (usize, usize),
    /// Bytes to have free ahead of need.
    pub reserve_ahead: usize,
    /// How long a block stays wholly free before it is given back.
    pub release_after: Duration,
}

/// One instance; any number may live in a process.
#[derive(Debug)]
pub(crate) struct Tcmalloc {
    number: usize,
    shared: Arc<Shared>,
    keeper: Keeper,
}

#[derive(Debug)]
struct Shared {
    number: usize,
    settings: Settings,
    source: Arc<BlockSource>,
    heap: Mutex<Heap>,
    classes: [Mutex<Central>; COUNT],
    caches: Mutex<Caches>,
    growth: Mutex<Growth>,
    marks: Marks,
    wake: Wake,
}

/// All caches there are. They are never moved or freed before the manager is.
#[derive(Debug, Default)]
struct Caches {
    #[expect(clippy::vec_box, reason = "their addresses are kept")]
    all: Vec<Box<Cache>>,
    /// Those whose thread has ended.
    idle: Vec<usize>,
    /// What threads without a cache counted.
    without: Counts,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tcmalloc {
    /// With its first block, so that a program that cannot have it learns so at the start.
    pub(crate) fn new(source: Arc<BlockSource>, settings: Settings) -> Result<Self> {
        let mut made = None;
        let number = cache::enlist(|number| {
            let shared = made.insert(Arc::new(Shared {
                number,
                settings,
                source,
                heap: Mutex::default(),
                classes: std::array::from_fn(|_| Mutex::default()),
                caches: Mutex::default(),
                growth: Mutex::default(),
                marks: Marks::default(),
                wake: Wake::default(),
            }));
            Arc::downgrade(shared)
        });
        let Some(shared) = made else {
            return Err(Error::Memory("a manager was not made; this is a fault of Lunasa".to_owned()));
        };
        let first = shared.grow(PAGE);
        let manager = Self { number, keeper: Keeper::default(), shared };
        first?;
        manager.keeper.start(&manager.shared)?;
        Ok(manager)
    }

    /// This instance's number, by which [`cache_used_last`] finds the thread's cache of it.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The NUMA node that its blocks are asked to be on, when it is one.
    pub(crate) fn node(&self) -> Option<u32> {
        self.shared.source.place.node()
    }

    /// A piece of at least `len` bytes, with unspecified contents, and the serial number of what it is for.
    pub(crate) fn allocate(&self, len: usize) -> Result<(NonNull<u8>, u64)> {
        let len = len.max(1);
        match cache::mine(self.number).and_then(|cache| cache.take(len)) {
            Some(taken) => Ok((taken.piece, taken.serial)),
            None => self.shared.allocate_slowly(len),
        }
    }

    /// Takes back a piece that was allocated with `len`.
    ///
    /// # Safety
    /// The piece came from `allocate` of this manager with this length, was not released since, and nobody uses it any more.
    pub(crate) unsafe fn release(&self, piece: NonNull<u8>, len: usize) {
        let len = len.max(1);
        if !cache::mine(self.number).is_some_and(|cache| cache.put(piece, len, class_byte(len))) {
            self.shared.release_slowly(piece, len);
        }
    }

    /// No more growing ahead, and nothing is given back from now on.
    pub(crate) fn close(&self) {
        self.keeper.stop(&self.shared);
    }

    /// Makes sure that `bytes` more can be handed out without growing, as far as fragmentation allows.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<()> {
        self.shared.reserve(bytes)
    }
}

impl Drop for Tcmalloc {
    fn drop(&mut self) {
        self.keeper.stop(&self.shared);
        cache::delist(self.number);
    }
}

impl Shared {
    /// This thread's cache, made if there is none; `None` when the thread is ending.
    fn cache(&self) -> Option<&Cache> {
        if let Some(cache) = cache::mine(self.number) {
            return Some(cache);
        }
        let mut caches = lock(&self.caches);
        let index = caches.idle.pop().unwrap_or_else(|| {
            let number = caches.all.len() as u64;
            caches.all.push(Box::new(Cache::new(number)));
            caches.all.len() - 1
        });
        // SAFETY: a cache is not moved or freed before the manager is, which the caller borrows.
        let cache = unsafe { &*ptr::from_ref(&*caches.all[index]) };
        if cache::enter(self.number, cache) {
            return Some(cache);
        }
        caches.idle.push(index);
        None
    }

    #[cold]
    #[inline(never)]
    fn allocate_slowly(&self, len: usize) -> Result<(NonNull<u8>, u64)> {
        let cache = self.cache();
        let piece = if len > LARGEST {
            self.take_huge(len)?
        } else {
            let class = class_of(len);
            match cache {
                Some(cache) => self.refill(class, cache)?,
                None => self.take_batch(class, 1)?.pop().ok_or_else(none_taken)?,
            }
        };
        let serial = match cache {
            Some(cache) => {
                let serial = cache.count_in(len);
                cache.tell(&self.marks);
                serial
            }
            None => {
                self.marks.tell(1, len as i64);
                let without = &mut lock(&self.caches).without;
                without.allocations += 1;
                without.bytes = without.bytes.wrapping_add(len as u64);
                without.total = without.total.wrapping_add(len as u64);
                // Beside the numbers of all caches.
                u64::MAX >> 8 & !(u64::MAX >> 24) | without.allocations
            }
        };
        Ok((piece, serial))
    }

    /// Fills the cache's magazine of a class, and takes one piece besides.
    fn refill(&self, class: usize, cache: &Cache) -> Result<NonNull<u8>> {
        cache.make_room(class);
        let mut batch = self.take_batch(class, batch_of_class(class))?;
        let piece = batch.pop().ok_or_else(none_taken)?;
        if !batch.is_empty() {
            cache.fill(class, &batch);
        }
        Ok(piece)
    }

    /// At least one piece of a class, and at most `most`, growing if there is none.
    fn take_batch(&self, class: usize, most: usize) -> Result<Batch> {
        let mut batch = Batch::new();
        loop {
            let blocks = {
                let mut central = lock(&self.classes[class]);
                central.take(most, &mut batch);
                if !batch.is_empty() {
                    return Ok(batch);
                }
                let mut heap = lock(&self.heap);
                if let Some(span) = heap.take(pages_of_class(class), Use::Class(class)) {
                    self.look_ahead(&heap);
                    drop(heap);
                    central.add(span);
                    continue;
                }
                heap.added
            };
            self.grow_after(pages_of_class(class) * PAGE, blocks)?;
        }
    }

    fn take_huge(&self, len: usize) -> Result<NonNull<u8>> {
        let pages = len.div_ceil(PAGE);
        loop {
            let blocks = {
                let mut heap = lock(&self.heap);
                if let Some(span) = heap.take(pages, Use::Huge) {
                    self.look_ahead(&heap);
                    // SAFETY: spans live as long as the heap.
                    return Ok(unsafe { span.as_ref() }.base);
                }
                heap.added
            };
            self.grow_after(pages * PAGE, blocks)?;
        }
    }

    #[cold]
    #[inline(never)]
    fn release_slowly(&self, piece: NonNull<u8>, len: usize) {
        let cache = self.cache();
        if let (Some(cache), true) = (cache, len <= LARGEST) {
            let class = class_of(len);
            cache.make_room(class);
            if cache.put(piece, len, class as u8) {
                return;
            }
            let batch = batch_of_class(class);
            if batch > 1 {
                cache.spill(class, batch, |pieces| self.give_pieces(class, pieces));
                if cache.put(piece, len, class as u8) {
                    return cache.tell(&self.marks);
                }
            }
        }
        match cache {
            Some(cache) => {
                cache.count_out(len);
                cache.tell(&self.marks);
            }
            None => {
                self.marks.tell(-1, -(len as i64));
                let without = &mut lock(&self.caches).without;
                without.drops += 1;
                without.bytes = without.bytes.wrapping_sub(len as u64);
            }
        }
        if len <= LARGEST {
            return self.give_pieces(class_of(len), &[piece]);
        }
        match span_of(piece) {
            Some(span) => lock(&self.heap).give(span),
            None => tracing::error!("{piece:?} is in no block; left alone"),
        }
    }

    fn give_pieces(&self, class: usize, pieces: &[NonNull<u8>]) {
        lock(&self.classes[class]).give(class, pieces, |span| lock(&self.heap).give(span));
    }

    /// Empties the cache of a thread that ends, and keeps it for another.
    fn retire(&self, cache: &Cache) {
        cache.tell(&self.marks);
        // Held throughout, so that a check sees each piece in the cache or in the central list.
        let mut caches = lock(&self.caches);
        for class in 0..COUNT {
            if cache.held(class) > 0 {
                cache.spill(class, usize::MAX, |pieces| self.give_pieces(class, pieces));
            }
        }
        if let Some(index) = caches.all.iter().position(|known| std::ptr::eq(&**known, cache)) {
            caches.idle.push(index);
        }
    }
}

fn none_taken() -> Error {
    Error::Memory("an empty batch of pieces; this is a fault of Lunasa".to_owned())
}

/// The region of the block that a live piece lies in, of whatever manager; `None` outside all blocks, and if that is not
/// registered.
///
/// # Safety
/// The address is 0, or in no block, or in a piece that stays handed out during the call.
#[inline]
pub(crate) unsafe fn region_of(address: usize) -> Option<Region> {
    // SAFETY: a block with a piece handed out is not given back.
    unsafe { blocks::block_at(address).as_ref() }?.region()
}

/// As [`region_of`], how a peer maps the block.
///
/// # Safety
/// As for [`region_of`].
pub(crate) unsafe fn backing_of(address: usize) -> Option<Backing> {
    // SAFETY: a block with a piece handed out is not given back.
    Some(unsafe { blocks::block_at(address).as_ref() }?.backing(address))
}
