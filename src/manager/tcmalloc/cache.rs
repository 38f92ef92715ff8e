//! Thread caches: for each class a magazine of addresses, outside the blocks. Taking from one and putting into one is a
//! matter of a few instructions, without a lock, an atomic read-modify-write or a call.
//!
//! A thread finds its cache of a manager by the manager's number, which is never used again, in a table of its own. When a
//! thread ends, its caches are emptied and kept by their managers for the next thread.

use std::cell::{Cell, UnsafeCell};
use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

use super::Shared;
use super::classes::{COUNT, magazine_of_class};
use crate::manager::Marks;

/// Addresses of free pieces of one class. Only the owning thread changes it; others read the length.
#[derive(Debug)]
struct Magazine {
    len: AtomicU32,
    /// 0 until it is first used.
    room: AtomicU32,
    slots: UnsafeCell<Box<[Cell<*mut u8>]>>,
}

/// One thread's cache of one manager.
#[derive(Debug)]
pub(super) struct Cache {
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

/// Pieces above this size count against [`MOST_LARGE`].
pub(super) const LARGE: usize = 256 * 1024;
/// Bytes of such pieces that one cache may hold.
const MOST_LARGE: usize = 32 << 20;

// SAFETY: the slots are used by the owning thread alone (or by the one that empties the cache after that thread's end); all
// else is atomic.
unsafe impl Sync for Cache {}
// SAFETY: addresses may be handed on to any thread.
unsafe impl Send for Cache {}

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
        let magazine = || Magazine { len: AtomicU32::new(0), room: AtomicU32::new(0), slots: UnsafeCell::default() };
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

    /// Whether one more piece of the class fits. Owner only.
    #[inline(always)]
    pub(super) fn has_room(&self, class: usize) -> bool {
        let magazine = self.magazine(class);
        magazine.len.load(Ordering::Relaxed) < magazine.room.load(Ordering::Relaxed)
    }

    /// Takes a piece. Owner only.
    #[inline(always)]
    pub(super) fn pop(&self, class: usize) -> Option<NonNull<u8>> {
        let magazine = self.magazine(class);
        let len = magazine.len.load(Ordering::Relaxed).checked_sub(1)?;
        magazine.len.store(len, Ordering::Relaxed);
        // SAFETY: slots below the length are filled, with addresses that are not null; only this thread uses them.
        unsafe {
            let slots: &[Cell<*mut u8>] = &*magazine.slots.get();
            Some(NonNull::new_unchecked(slots.get_unchecked(len as usize).get()))
        }
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
        unsafe {
            let slots: &[Cell<*mut u8>] = &*magazine.slots.get();
            slots.get_unchecked(len as usize).set(piece.as_ptr());
        }
        magazine.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// Whether one more piece of this size may be kept, counting it if so.
    #[inline(always)]
    pub(super) fn admit(&self, size: usize) -> bool {
        if size <= LARGE {
            return true;
        }
        let large = self.large.load(Ordering::Relaxed) + size;
        if large > MOST_LARGE {
            return false;
        }
        self.large.store(large, Ordering::Relaxed);
        true
    }

    /// A piece of this size left the magazines.
    #[inline(always)]
    pub(super) fn dismiss(&self, size: usize) {
        if size > LARGE {
            self.large.store(self.large.load(Ordering::Relaxed).saturating_sub(size), Ordering::Relaxed);
        }
    }

    /// Makes room for pieces of a class, if there is none yet. Owner only.
    pub(super) fn make_room(&self, class: usize) {
        let magazine = &self.magazines[class];
        if magazine.room.load(Ordering::Relaxed) == 0 {
            let room = magazine_of_class(class);
            // SAFETY: only this thread uses the slots, and there were none.
            unsafe { *magazine.slots.get() = vec![Cell::new(ptr::null_mut()); room].into_boxed_slice() };
            magazine.room.store(room as u32, Ordering::Relaxed);
        }
    }

    /// Pieces of a class held here.
    pub(super) fn held(&self, class: usize) -> usize {
        self.magazines[class].len.load(Ordering::Relaxed) as usize
    }

    /// Calls `visit` with the pieces held of a class. Only while the owner is elsewhere.
    pub(super) fn visit(&self, class: usize, visit: &mut dyn FnMut(NonNull<u8>)) {
        let magazine = &self.magazines[class];
        // SAFETY: the owner does not use the slots meanwhile, by the caller's word.
        let slots = unsafe { &*magazine.slots.get() };
        slots.iter().take(self.held(class)).filter_map(|slot| NonNull::new(slot.get())).for_each(visit);
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

/// This thread's caches by manager, as the fast path reads them.
#[derive(Clone, Copy)]
struct Table {
    caches: *const *const Cache,
    len: usize,
}

thread_local! {
    static TABLE: Cell<Table> = const { Cell::new(Table { caches: ptr::null(), len: 0 }) };
    static OWNED: Owned = const { Owned(UnsafeCell::new(Vec::new())) };
}

/// What the table points to; emptied at the thread's end.
struct Owned(UnsafeCell<Vec<*const Cache>>);

/// Managers alive, by number.
static MANAGERS: Mutex<BTreeMap<usize, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// Gives a manager its number, and makes it known to threads that end.
pub(super) fn enlist(manager: impl FnOnce(usize) -> Weak<Shared>) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let manager = manager(number);
    MANAGERS.lock().unwrap_or_else(PoisonError::into_inner).insert(number, manager);
    number
}

/// Forgets a manager that is about to go.
pub(super) fn delist(number: usize) {
    MANAGERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
}

/// This thread's cache of a manager, if it has one. The manager must be alive.
#[inline(always)]
pub(super) fn mine<'a>(manager: usize) -> Option<&'a Cache> {
    let table = TABLE.get();
    if manager >= table.len {
        return None;
    }
    // SAFETY: the table has `len` entries, each null or a cache that its manager, which is alive, keeps.
    unsafe { (*table.caches.add(manager)).as_ref() }
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
        TABLE.set(Table { caches: caches.as_ptr(), len: caches.len() });
    });
    entered.is_ok()
}

impl Drop for Owned {
    fn drop(&mut self) {
        TABLE.set(Table { caches: ptr::null(), len: 0 });
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
