//! From addresses to what lies there: a table of two levels that is read without a lock and grows by whole leaves.
//!
//! Models of it are in `models/`: racing threads make one leaf, and an entry that was set is found whole.

use std::ptr;

use crate::sync::{AtomicPtr, Ordering};

type Leaf<T, const LEAF: usize> = [AtomicPtr<T>; LEAF];

/// `ROOT` leaves of `LEAF` entries. A leaf is made when an entry of it is first set, and stays for ever.
pub(super) struct Map<T, const ROOT: usize, const LEAF: usize>(pub [AtomicPtr<Leaf<T, LEAF>>; ROOT]);

impl<T, const ROOT: usize, const LEAF: usize> Map<T, ROOT, LEAF> {
    /// The entry at an index; null when none was set, or beyond the end.
    #[inline]
    pub(super) fn get(&self, index: usize) -> *const T {
        let Some(root) = self.0.get(index / LEAF) else { return ptr::null() };
        let leaf = root.load(Ordering::Acquire);
        if leaf.is_null() {
            return ptr::null();
        }
        // SAFETY: a leaf that was published is never freed.
        let leaf = unsafe { &*leaf };
        leaf[index % LEAF].load(Ordering::Acquire)
    }

    /// Sets the entry at an index below `ROOT * LEAF`.
    pub(super) fn set(&self, index: usize, entry: *const T) {
        let root = &self.0[index / LEAF];
        let mut leaf = root.load(Ordering::Acquire);
        if leaf.is_null() {
            let fresh = Box::into_raw(Box::new(std::array::from_fn(|_| AtomicPtr::default())));
            match root.compare_exchange(leaf, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => leaf = fresh,
                Err(other) => {
                    // SAFETY: made above and not published.
                    drop(unsafe { Box::from_raw(fresh) });
                    leaf = other;
                }
            }
        }
        // SAFETY: a leaf that was published is never freed.
        let leaf = unsafe { &*leaf };
        leaf[index % LEAF].store(entry.cast_mut(), Ordering::Release);
    }
}
