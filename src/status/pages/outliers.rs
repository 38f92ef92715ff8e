//! Which of many values stands out.

/// The usual value of many, and how far from it is still usual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usual {
    pub(super) median: f64,
    spread: f64,
}

impl Usual {
    /// Of these; none when there are fewer than four, of which none can stand out.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        if values.len() < 4 {
            return None;
        }
        let median = median(&mut values);
        let mut distances: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        Some(Self { median, spread: self::median(&mut distances) })
    }

    /// Whether a value is further from the median than six times the median distance, and by more than a fifth of it.
    pub(super) fn is_outside(&self, value: f64) -> bool {
        let distance = (value - self.median).abs();
        distance > 6.0 * self.spread && distance > 0.2 * self.median.abs() && distance > f64::EPSILON
    }

    /// How a value stands to the median, in words.
    pub(super) fn say(&self, value: f64) -> String {
        match value / self.median {
            times if times.is_finite() && times >= 0.1 => format!("{times:.1} × the median"),
            _ if value > self.median => "far above the median".to_owned(),
            _ => "far below the median".to_owned(),
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_stands_out_is_found_and_what_varies_is_not() {
        let usual = Usual::of([100.0, 101.0, 99.0, 100.0, 300.0, 100.0, 102.0].into_iter()).unwrap();
        assert!(usual.is_outside(300.0) && usual.is_outside(10.0) && !usual.is_outside(102.0));
        assert_eq!(
            (usual.say(300.0), usual.say(1.0)),
            ("3.0 × the median".to_owned(), "far below the median".to_owned())
        );
        let even = Usual::of((0..100).map(f64::from)).unwrap();
        assert!((0..100).all(|value| !even.is_outside(value.into())));
        let same = Usual::of([5.0; 8].into_iter()).unwrap();
        assert!(!same.is_outside(5.0) && !same.is_outside(5.5) && same.is_outside(9.0));
        assert_eq!(Usual::of([1.0, 2.0, 9.0].into_iter()), None);
    }
}
