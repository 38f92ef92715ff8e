//! High-water marks: the most objects and bytes that ever were alive.

use std::sync::atomic::{AtomicI64, Ordering};

use super::Counts;

/// What is alive and the most that ever was, as far as it was told.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    objects: Mark,
    bytes: Mark,
}

#[derive(Debug, Default)]
struct Mark {
    now: AtomicI64,
    most: AtomicI64,
}

impl Mark {
    fn tell(&self, change: i64) {
        let now = self.now.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        if now > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(now, Ordering::Relaxed);
        }
    }
}

impl Marks {
    /// So many objects and bytes more (or less) are alive.
    pub(crate) fn tell(&self, objects: i64, bytes: i64) {
        self.objects.tell(objects);
        self.bytes.tell(bytes);
    }

    /// The most objects and bytes; not less than there are by `counts`.
    pub(crate) fn most(&self, counts: &Counts) -> (u64, u64) {
        let most = |mark: &Mark| u64::try_from(mark.most.load(Ordering::Relaxed)).unwrap_or(0);
        (most(&self.objects).max(counts.live()), most(&self.bytes).max(counts.bytes))
    }
}
