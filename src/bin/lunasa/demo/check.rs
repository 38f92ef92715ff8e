//! The result held against what it must be: the known decay of the sine field, or the same run on one rank.

use approx::abs_diff_eq;

use super::field::Field;
use super::heat::{self, Block, Scheme};
use super::problem::Kind;

/// How far the result is from what it must be.
#[derive(Debug)]
pub struct Verdict {
    /// Largest absolute difference from the reference; infinite when some value is not a number.
    pub max_error: f64,
    /// The most that rounding explains.
    pub tolerance: f64,
    /// Largest absolute difference from the solution of the heat equation itself, for the sine field: what the
    /// spacing and the time step cost.
    pub continuous_error: Option<f64>,
}

impl Verdict {
    /// Whether the result is right.
    pub fn ok(&self) -> bool {
        abs_diff_eq!(self.max_error, 0.0, epsilon = self.tolerance)
    }
}

/// Holds the field after `steps` against the reference that fits the initial one.
pub fn check(kind: Kind, scheme: &Scheme, steps: u64, initial: &Field, result: &Field) -> Verdict {
    let sine = heat::sine(initial.shape);
    let is_sine = match kind {
        Kind::Sine => true,
        Kind::Other => false,
        // Tight: a sine field in single precision carries other modes, and is held against the serial run.
        Kind::Auto => distance(&initial.values, &sine) <= 1e-14,
    };
    if is_sine {
        let scaled = |factor: f64| sine.iter().map(|v| v * factor).collect::<Vec<_>>();
        Verdict {
            max_error: distance(&result.values, &scaled(scheme.decay().powf(steps as f64))),
            // A step rounds each value, at most 1, a few times.
            tolerance: 4.0 * f64::EPSILON * (steps as f64 + 1.0),
            continuous_error: Some(distance(&result.values, &scaled(scheme.continuous_decay(steps)))),
        }
    } else {
        // Each cell sees the same operations in the same order, however the domain is cut: not a bit may differ.
        let serial = serially(scheme, steps, initial);
        Verdict { max_error: distance(&result.values, &serial), tolerance: 0.0, continuous_error: None }
    }
}

/// The whole run as one block.
fn serially(scheme: &Scheme, steps: u64, initial: &Field) -> Vec<f64> {
    let mut block = Block::new(initial.shape, &initial.values);
    for _ in 0..steps {
        block.step(scheme);
    }
    let mut out = vec![0.0; initial.values.len()];
    block.read_cells(&mut out);
    out
}

/// The largest absolute difference; infinite when the lengths differ or a difference is not a number.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { d.max(most) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHAPE: [usize; 3] = [6, 7, 8];

    fn after(initial: &Field, scheme: &Scheme, steps: u64) -> Field {
        Field { shape: SHAPE, values: serially(scheme, steps, initial) }
    }

    #[test]
    fn the_sine_field_is_recognised_and_its_decay_is_right_to_rounding() {
        let scheme = Scheme::new(SHAPE, 1.0, 0.9).unwrap();
        let initial = Field { shape: SHAPE, values: heat::sine(SHAPE) };
        for steps in [0, 1, 100, 3000] {
            let verdict = check(Kind::Auto, &scheme, steps, &initial, &after(&initial, &scheme, steps));
            assert!(verdict.ok() && verdict.continuous_error.is_some(), "{verdict:?}");
        }
    }

    #[test]
    fn one_cell_a_little_off_or_not_a_number_fails() {
        let scheme = Scheme::new(SHAPE, 1.0, 0.9).unwrap();
        let sine = Field { shape: SHAPE, values: heat::sine(SHAPE) };
        let other = Field { shape: SHAPE, values: (0..336).map(|i| f64::from(i % 11)).collect() };
        for (initial, off) in [(&sine, 1e-10), (&other, 1e-15), (&sine, f64::NAN), (&other, f64::NAN)] {
            let mut result = after(initial, &scheme, 20);
            assert!(check(Kind::Auto, &scheme, 20, initial, &result).ok());
            result.values[100] += off;
            let verdict = check(Kind::Auto, &scheme, 20, initial, &result);
            assert!(!verdict.ok(), "{off}: {verdict:?}");
        }
    }

    #[test]
    fn a_field_in_single_precision_is_held_against_the_serial_run() {
        let scheme = Scheme::new(SHAPE, 1.0, 0.9).unwrap();
        let initial =
            Field { shape: SHAPE, values: heat::sine(SHAPE).into_iter().map(|v| f64::from(v as f32)).collect() };
        let verdict = check(Kind::Auto, &scheme, 9, &initial, &after(&initial, &scheme, 9));
        assert!(verdict.ok() && verdict.continuous_error.is_none(), "{verdict:?}");
        assert!(!check(Kind::Sine, &scheme, 9, &initial, &after(&initial, &scheme, 9)).ok(), "said to be sine, is not");
    }
}
