//! How many requests in a second are answered.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A bucket that fills steadily, up to what a second brings, and from which every request takes one.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u32,
    /// What is in the bucket, and when that was so.
    level: Mutex<(f64, Instant)>,
}

impl Rate {
    /// So many in a second; 0 is without limit.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, level: Mutex::new((per_second.into(), Instant::now())) }
    }

    /// Whether one more may be answered now.
    pub(super) fn admits(&self) -> bool {
        self.per_second == 0 || self.admits_at(Instant::now())
    }

    fn admits_at(&self, now: Instant) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let full = f64::from(self.per_second);
        let filled = (level.0 + now.saturating_duration_since(level.1).as_secs_f64() * full).min(full);
        let admitted = filled >= 1.0;
        *level = (if admitted { filled - 1.0 } else { filled }, now);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_more_than_a_seconds_worth_at_once_and_then_one_by_one() {
        let (rate, start) = (Rate::new(10), Instant::now());
        let count = |at: f64| (0..100).filter(|_| rate.admits_at(start + Duration::from_secs_f64(at))).count();
        assert_eq!((count(0.5), count(0.5), count(0.75), count(60.0)), (10, 0, 2, 10));
        assert!((0..10_000).all(|_| Rate::new(0).admits()));
    }
}
