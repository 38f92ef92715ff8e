//! The last minutes, a sample a second, in a ring of fixed size.

use std::collections::VecDeque;

use serde::Serialize;

use crate::snapshot::Sample;

/// Samples that are kept: five minutes.
pub(super) const KEPT: usize = 300;

/// The samples of the last minutes, the oldest first.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    /// Adds one, and forgets the oldest when there are too many.
    pub(super) fn push(&mut self, sample: Sample) {
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(super) fn samples(&self) -> &VecDeque<Sample> {
        &self.samples
    }

    /// Bytes in a second between neighbouring samples, of what `moved` says of each: the time of the later one, and the rate.
    pub(super) fn rates(&self, moved: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let rate = |(before, after): (&Sample, &Sample)| {
            let bytes = moved(after).saturating_sub(moved(before)) as f64;
            (after.at_s, bytes / (after.at_s - before.at_s).max(1e-3))
        };
        pairs.map(rate).collect()
    }

    /// Bytes in a second over the last few samples, on all routes.
    pub(super) fn moved_per_s(&self) -> f64 {
        let rates = self.rates(Sample::moved_bytes);
        let last = &rates[rates.len().saturating_sub(3)..];
        last.iter().map(|(_, rate)| rate).sum::<f64>() / last.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: f64, bytes: u64) -> Sample {
        Sample { at_s, moved: vec![("shm".to_owned(), bytes)], ..Sample::default() }
    }

    #[test]
    fn no_more_than_five_minutes_are_kept() {
        let mut history = History::default();
        (0..1000).for_each(|i| history.push(sample(f64::from(i), 0)));
        assert_eq!((history.samples().len(), history.samples()[0].at_s), (KEPT, 700.0));
    }

    #[test]
    fn a_rate_is_what_came_between_two_samples_by_the_time_between_them() {
        let mut history = History::default();
        assert_eq!(history.moved_per_s(), 0.0);
        for (at, bytes) in [(0.0, 0), (1.0, 100), (3.0, 500), (4.0, 500)] {
            history.push(sample(at, bytes));
        }
        assert_eq!(history.rates(Sample::moved_bytes), [(1.0, 100.0), (3.0, 200.0), (4.0, 0.0)]);
        assert_eq!(history.moved_per_s(), 100.0);
    }
}
