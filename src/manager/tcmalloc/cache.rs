//! Thread caches: for each class a magazine of addresses, outside the blocks. Taking from one and putting into one is a
//! matter of a few instructions, without a lock, an atomic read-modify-write or a call.
//!
//! A thread finds its cache of a manager by the manager's number, which is never used again: the one that it used last at
//! once, others in a table of its own. When a thread ends, its caches are emptied and kept by their managers for the next
//! thread.

use std::cell::{Cell, UnsafeCell};
use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError, Weak};

use super::Shared;
use super::classes::{COUNT, LARGEST, SIZES, SMALL_CLASSES, class_of, magazine_of_class};
use crate::manager::Marks;

/// Addresses of free pieces of one class. Only the owning thread changes it; others read the length.
#[derive(Debug)]
struct Magazine {
    /// As many slots as there is room for, leaked; dangling while there is none.
    slots: Cell<NonNull<*mut u8>>,
    len: AtomicU32,
    /// 0 until it is first used.
    room: AtomicU32,
}

/// One thread's cache of one manager. Aligned so that no two share a cache line, nor a pair of them.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Cache {
    magazines: [Magazine; COUNT],
    /// Number of the next object: the cache's number above, a count below.
    serial: AtomicU64,
    first_serial: u64,
    drops: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// What was told last: live objects and bytes, as a thread that only drops has them, below zero.
    told: [AtomicI64; 2],
    /// Bytes of the pieces larger than [`LARGE`] in the magazines.
    large: AtomicUsize,
}

/// Bytes of pieces above [`LARGE`] that one cache may hold.
const MOST_LARGE: usize = 32 << 20;

// SAFETY: the slots are used by the owning thread alone (or by the one that empties the cache after that thread's end); all
// else is atomic.
unsafe impl Sync for Cache {}
// SAFETY: addresses may be handed on to any thread.
unsafe impl Send for Cache {}

/// What a cache gave for an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub piece: NonNull<u8>,
    pub serial: u64,
    /// The size class of the piece.
    pub class: u8,
}

/// What a cache has counted, or several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub allocations: u64,
    pub drops: u64,
    /// Bytes asked for by what is alive.
    pub bytes: u64,
    /// Bytes asked for since the start.
    pub total: u64,
}

/// Adds to a counter that only this thread changes.
#[inline(always)]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Cache {
    pub(super) fn new(number: u64) -> Self {
        let magazine =
            || Magazine { slots: Cell::new(NonNull::dangling()), len: AtomicU32::new(0), room: AtomicU32::new(0) };
        let first_serial = (number << 40) + 1;
        Self {
            magazines: std::array::from_fn(|_| magazine()),
            serial: AtomicU64::new(first_serial),
            first_serial,
            drops: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            told: Default::default(),
            large: AtomicUsize::new(0),
        }
    }

    /// A piece of at least `len` bytes, if there is one here. Owner only.
    #[inline(always)]
    pub(crate) fn take(&self, len: usize) -> Option<Taken> {
        if len > LARGEST {
            return None;
        }
        let class = class_of(len);
        let piece = self.pop(class)?;
        if class >= SMALL_CLASSES {
            self.dismiss(class);
        }
        Some(Taken { piece, serial: self.count_in(len), class: class as u8 })
    }

    /// Takes back a piece of a class that was allocated with `len`; false when there is no room for it. Owner only.
    pub(super) fn put(&self, piece: NonNull<u8>, len: usize, class: u8) -> bool {
        if usize::from(class) < SMALL_CLASSES {
            return self.put_small(piece, len, class);
        }
        let kept = self.admit(class.into()) && self.push(class.into(), piece);
        if kept {
            self.count_out(len);
        }
        kept
    }

    /// As [`Cache::put`], for classes of small sizes; false for the others. Owner only.
    #[inline(always)]
    pub(crate) fn put_small(&self, piece: NonNull<u8>, len: usize, class: u8) -> bool {
        let kept = usize::from(class) < SMALL_CLASSES && self.push(class.into(), piece);
        if kept {
            self.count_out(len);
        }
        kept
    }

    /// Counts an object of `len` bytes; its serial number.
    #[inline(always)]
    pub(super) fn count_in(&self, len: usize) -> u64 {
        bump(&self.bytes_in, len as u64);
        let serial = self.serial.load(Ordering::Relaxed);
        self.serial.store(serial + 1, Ordering::Relaxed);
        serial
    }

    #[inline(always)]
    pub(super) fn count_out(&self, len: usize) {
        bump(&self.bytes_out, len as u64);
        bump(&self.drops, 1);
    }

    #[inline(always)]
    fn magazine(&self, class: usize) -> &Magazine {
        debug_assert!(class < COUNT);
        // SAFETY: every class is below COUNT (`class_of` gives no other, as its test shows for all sizes).
        unsafe { self.magazines.get_unchecked(class) }
    }

    /// Takes a piece. Owner only.
    #[inline(always)]
    pub(super) fn pop(&self, class: usize) -> Option<NonNull<u8>> {
        let magazine = self.magazine(class);
        let len = magazine.len.load(Ordering::Relaxed).checked_sub(1)?;
        magazine.len.store(len, Ordering::Relaxed);
        // SAFETY: slots below the length are filled, with addresses that are not null; only this thread uses them.
        Some(unsafe { NonNull::new_unchecked(magazine.slots.get().add(len as usize).read()) })
    }

    /// Puts a piece; false when there is no room. Owner only.
    #[inline(always)]
    pub(super) fn push(&self, class: usize, piece: NonNull<u8>) -> bool {
        let magazine = self.magazine(class);
        let len = magazine.len.load(Ordering::Relaxed);
        if len >= magazine.room.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: there are as many slots as `room` says; only this thread uses them.
        unsafe { magazine.slots.get().add(len as usize).write(piece.as_ptr()) };
        magazine.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// Whether one more piece of a class of large sizes may be kept, counting it if so. Owner only.
    fn admit(&self, class: usize) -> bool {
        // What has no class is in no magazine.
        let Some(&size) = SIZES.get(class) else { return false };
        let (magazine, large) = (self.magazine(class), self.large.load(Ordering::Relaxed) + size);
        let fits = magazine.len.load(Ordering::Relaxed) < magazine.room.load(Ordering::Relaxed) && large <= MOST_LARGE;
        if fits {
            self.large.store(large, Ordering::Relaxed);
        }
        fits
    }

    /// A piece of a class of large sizes left the magazines. Owner only.
    #[inline(always)]
    fn dismiss(&self, class: usize) {
        self.large.store(self.large.load(Ordering::Relaxed) - SIZES[class], Ordering::Relaxed);
    }

    /// Adds pieces of a class, for which there is room. Owner only.
    pub(super) fn fill(&self, class: usize, pieces: &[NonNull<u8>]) {
        let magazine = &self.magazines[class];
        let (len, room) = (magazine.len.load(Ordering::Relaxed), magazine.room.load(Ordering::Relaxed));
        assert!(class < SMALL_CLASSES && pieces.len() <= (room - len) as usize, "a magazine is filled beyond its room");
        // SAFETY: there are as many slots as `room` says; only this thread uses them.
        unsafe {
            magazine
                .slots
                .get()
                .add(len as usize)
                .cast::<NonNull<u8>>()
                .copy_from_nonoverlapping(NonNull::from(pieces).cast(), pieces.len())
        };
        magazine.len.store(len + pieces.len() as u32, Ordering::Relaxed);
    }

    /// Takes up to `most` pieces of a class out, to be given back by `give`. Owner only.
    pub(super) fn spill(&self, class: usize, most: usize, give: impl FnOnce(&[NonNull<u8>])) {
        let magazine = &self.magazines[class];
        let len = magazine.len.load(Ordering::Relaxed) as usize;
        let rest = len.saturating_sub(most);
        // SAFETY: slots below the length are filled, with addresses that are not null; only this thread uses them.
        give(unsafe { std::slice::from_raw_parts(magazine.slots.get().add(rest).cast().as_ptr(), len - rest) });
        magazine.len.store(rest as u32, Ordering::Relaxed);
        if class >= SMALL_CLASSES {
            (rest..len).for_each(|_| self.dismiss(class));
        }
    }

    /// Makes room for pieces of a class, if there is none yet. Owner only.
    pub(super) fn make_room(&self, class: usize) {
        let magazine = &self.magazines[class];
        if magazine.room.load(Ordering::Relaxed) == 0 {
            let slots = vec![ptr::null_mut::<u8>(); magazine_of_class(class)].leak();
            magazine.room.store(slots.len() as u32, Ordering::Relaxed);
            magazine.slots.set(NonNull::from(slots).cast());
        }
    }

    /// Pieces of a class held here.
    pub(super) fn held(&self, class: usize) -> usize {
        self.magazines[class].len.load(Ordering::Relaxed) as usize
    }

    /// Calls `visit` with the pieces held of a class. Only while the owner is elsewhere.
    pub(super) fn visit(&self, class: usize, visit: &mut dyn FnMut(NonNull<u8>)) {
        let magazine = &self.magazines[class];
        // SAFETY: slots below the length are filled; the owner does not use them meanwhile, by the caller's word.
        let held = unsafe { std::slice::from_raw_parts(magazine.slots.get().as_ptr(), self.held(class)) };
        held.iter().filter_map(|&slot| NonNull::new(slot)).for_each(visit);
    }

    pub(super) fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            allocations: get(&self.serial) - self.first_serial,
            drops: get(&self.drops),
            bytes: get(&self.bytes_in).wrapping_sub(get(&self.bytes_out)),
            total: get(&self.bytes_in),
        }
    }

    /// Tells how many objects and bytes came and went since the last time. Owner only.
    pub(super) fn tell(&self, marks: &Marks) {
        let counts = self.counts();
        let now = [counts.allocations.wrapping_sub(counts.drops), counts.bytes].map(|now| now as i64);
        let change = |index: usize| {
            let told = self.told[index].load(Ordering::Relaxed);
            self.told[index].store(now[index], Ordering::Relaxed);
            now[index].wrapping_sub(told)
        };
        marks.tell(change(0), change(1));
    }

    /// Bytes of this cache's own books.
    pub(super) fn bookkeeping(&self) -> usize {
        let room: usize = self.magazines.iter().map(|magazine| magazine.room.load(Ordering::Relaxed) as usize).sum();
        size_of::<Self>() + room * size_of::<*mut u8>()
    }
}

impl Drop for Magazine {
    fn drop(&mut self) {
        let slots = ptr::slice_from_raw_parts_mut(self.slots.get().as_ptr(), *self.room.get_mut() as usize);
        // SAFETY: with no room a dangling slice of no length; else leaked in `make_room`, and taken back once, here.
        drop(unsafe { Box::from_raw(slots) });
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.allocations += other.allocations;
        self.drops += other.drops;
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.total = self.total.wrapping_add(other.total);
    }

    /// What is alive.
    pub(crate) fn live(&self) -> u64 {
        self.allocations.saturating_sub(self.drops)
    }
}

/// A cache of this thread and its manager's number, as the fast path reads them.
///
/// They are compared, not looked up by the number: the processor then goes on with the cache that it expects, and does not
/// wait for the number, which at a drop comes from the object through its pool.
#[derive(Clone, Copy)]
struct Last {
    manager: usize,
    cache: *const Cache,
}

/// Of a thread that used no cache yet. [`NO_MANAGER`] is another number.
const NONE: Last = Last { manager: usize::MAX - 1, cache: ptr::null() };

/// A number that no manager has: nobody finds a cache by it.
pub(crate) const NO_MANAGER: usize = usize::MAX;

thread_local! {
    static LAST: Cell<Last> = const { Cell::new(NONE) };
    static OWNED: Owned = const { Owned(UnsafeCell::new(Vec::new())) };
}

/// This thread's caches by their managers' numbers; emptied at the thread's end.
struct Owned(UnsafeCell<Vec<*const Cache>>);

static FORKED: Once = Once::new();

/// Managers alive, by number.
static MANAGERS: Mutex<BTreeMap<usize, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// Gives a manager its number, and makes it known to threads that end.
pub(super) fn enlist(manager: impl FnOnce(usize) -> Weak<Shared>) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    crate::memory::at_fork_in_child(&FORKED, forget_all);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let manager = manager(number);
    MANAGERS.lock().unwrap_or_else(PoisonError::into_inner).insert(number, manager);
    number
}

/// Forgets a manager that is about to go.
pub(super) fn delist(number: usize) {
    MANAGERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
}

/// The cache that this thread used last, if it is of this manager, which must be alive. In a forked child there is none.
#[inline(always)]
pub(crate) fn last<'a>(manager: usize) -> Option<&'a Cache> {
    let last = LAST.get();
    if last.manager != manager {
        return None;
    }
    // SAFETY: entered with that number, and its manager, which is alive, keeps it.
    Some(unsafe { &*last.cache })
}

/// This thread's cache of a manager, if it has one. The manager must be alive.
#[inline(always)]
pub(super) fn mine<'a>(manager: usize) -> Option<&'a Cache> {
    last(manager).or_else(|| another(manager))
}

/// As [`mine`], for a manager that is not the one used last; from now on it is.
#[inline(never)]
fn another<'a>(manager: usize) -> Option<&'a Cache> {
    let found = OWNED.try_with(|owned| {
        // SAFETY: only this thread uses it, and nothing here comes back to it.
        unsafe { &*owned.0.get() }.get(manager).copied().unwrap_or(ptr::null())
    });
    // SAFETY: null, or a cache that its manager, which is alive, keeps.
    let cache = unsafe { found.unwrap_or(ptr::null()).as_ref() }?;
    LAST.set(Last { manager, cache });
    Some(cache)
}

/// Enters this thread's cache of a manager; false when the thread is ending and should go without.
pub(super) fn enter(manager: usize, cache: &Cache) -> bool {
    let entered = OWNED.try_with(|owned| {
        // SAFETY: only this thread uses it, and nothing below comes back here.
        let caches = unsafe { &mut *owned.0.get() };
        if caches.len() <= manager {
            caches.resize(manager + 1, ptr::null());
        }
        caches[manager] = cache;
        LAST.set(Last { manager, cache });
    });
    entered.is_ok()
}

/// In a forked child its one thread has no caches: the pieces in them are its parent's.
extern "C" fn forget_all() {
    LAST.set(NONE);
    // Leaked, not freed: another thread of the parent may have held the allocator's lock.
    let _ = OWNED.try_with(|owned| {
        // SAFETY: only this thread uses it, and nothing here comes back to it.
        std::mem::forget(std::mem::take(unsafe { &mut *owned.0.get() }));
    });
}

impl Drop for Owned {
    fn drop(&mut self) {
        LAST.set(NONE);
        if crate::memory::in_forked_child() {
            return;
        }
        for (manager, &cache) in self.0.get_mut().iter().enumerate().filter(|(_, cache)| !cache.is_null()) {
            let known = MANAGERS.lock().unwrap_or_else(PoisonError::into_inner).get(&manager).and_then(Weak::upgrade);
            if let Some(manager) = known {
                // SAFETY: the manager is alive and keeps the cache; this thread, its owner, uses it no more.
                manager.retire(unsafe { &*cache });
            }
        }
    }
}
