//! By what an object lives and ends: the first 24 bytes of its head, which threads and peers use without a lock.
//!
//! Models of it are in `models/`: one destruction, none while there is a reference or a pin, no pin of another object.

use crate::sync::{AtomicU64, Ordering, fence};

const REFERENCE: u64 = 1;
const PIN: u64 = 1 << 32;
/// Set before a handle is given out, and before the object gets a region of its own: one that does not carry it and has one
/// reference is its holder's alone, and its end is that of its piece.
const SHARED: u64 = 1 << 63;
/// References beyond this abort the process, as `Arc`'s do: only leaked clones get here.
const MOST: u32 = u32::MAX / 2;

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Life {
    check: AtomicU64,
    counts: AtomicU64,
    tag: AtomicU64,
}

impl Life {
    /// A new object of this tag, with one reference; `shared` from the start when there is more to its end than its piece.
    /// Nobody takes it for one before `publish`.
    #[inline(always)]
    pub(crate) fn begin(&self, tag: u64, shared: bool) {
        self.counts.store(if shared { SHARED | REFERENCE } else { REFERENCE }, Ordering::Relaxed);
        self.tag.store(tag, Ordering::Relaxed);
    }

    /// The head is written: whoever sees this check word sees the rest. And whoever sees a byte of the contents that are
    /// written from now on sees, after a fence, that the object before is gone.
    #[inline(always)]
    pub(crate) fn publish(&self, check: u64) {
        fence(Ordering::Release);
        self.check.store(check, Ordering::Relaxed);
    }

    /// The object is no more; late readers see it.
    #[inline(always)]
    pub(crate) fn end(&self) {
        self.check.store(0, Ordering::Release);
    }

    /// The check word; 0 when there is no object here at all.
    #[inline(always)]
    pub(crate) fn check(&self) -> u64 {
        self.check.load(Ordering::Acquire)
    }

    /// Serial number and flags.
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        self.tag.load(Ordering::Relaxed)
    }

    /// Whether the object of this tag is here and has references. One without is kept only for transfers that began before.
    #[inline(always)]
    pub(crate) fn is(&self, tag: u64) -> bool {
        self.check() != 0 && self.tag() == tag && self.references() != 0
    }

    /// References held by the program.
    #[inline(always)]
    pub(crate) fn references(&self) -> u32 {
        self.counts.load(Ordering::Acquire) as u32
    }

    #[inline(always)]
    pub(crate) fn add_reference(&self) {
        if self.counts.fetch_add(REFERENCE, Ordering::Relaxed) as u32 > MOST {
            std::process::abort();
        }
    }

    /// Whether there is one reference, and was no reason for more: nobody but its holder can come to touch the counts, and
    /// neither a region of its own nor the program's memory belongs to it. A holder that leaves then need not count.
    #[inline(always)]
    pub(crate) fn is_its_holders_alone(&self) -> bool {
        self.counts.load(Ordering::Acquire) == REFERENCE
    }

    /// Whether that was the last of everything: then the object must be destroyed by the caller.
    #[inline(always)]
    pub(crate) fn drop_reference(&self) -> bool {
        self.counts.fetch_sub(REFERENCE, Ordering::AcqRel) & !SHARED == REFERENCE
    }

    /// A handle is about to be given out, after which the object may be pinned; or a region of its own.
    pub(crate) fn share(&self) {
        if self.counts.load(Ordering::Relaxed) & SHARED == 0 {
            self.counts.fetch_or(SHARED, Ordering::AcqRel);
        }
    }

    /// Keeps the object of this tag from being destroyed, without counting as a reference. False when it is gone.
    ///
    /// Between the look at the tag and the pin the memory may come to another object, which is pinned then: look at the tag
    /// again.
    pub(crate) fn pin(&self, tag: u64) -> bool {
        let mut counts = self.counts.load(Ordering::Acquire);
        loop {
            if counts & SHARED == 0 || counts as u32 == 0 || self.check() == 0 || self.tag() != tag {
                return false;
            }
            match self.counts.compare_exchange_weak(counts, counts + PIN, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => counts = now,
            }
        }
    }

    /// As [`Life::drop_reference`], for a pin.
    pub(crate) fn unpin(&self) -> bool {
        self.counts.fetch_sub(PIN, Ordering::AcqRel) & !SHARED == PIN
    }
}
