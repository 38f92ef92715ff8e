//! Measuring contenders against each other on a noisy machine: in turns, in the same run, and by medians.

use std::time::{Duration, Instant};

use crate::Outcome;

/// Rounds of which the median is taken; in each, every contender has its turn.
const ROUNDS: usize = 41;
/// What a contender does in one turn takes about this long.
const TURN: Duration = Duration::from_micros(400);
/// Most repetitions in one turn.
const MOST: u32 = 1 << 20;

/// One way of doing a thing.
pub struct Contender<'a> {
    name: String,
    turn: Box<dyn FnMut(u32) -> Outcome<Duration> + 'a>,
}

impl<'a> Contender<'a> {
    /// One that does the thing so many times, and says how long that took without what had to be got ready for it; see
    /// [`timed`].
    pub fn new(name: &str, turn: impl FnMut(u32) -> Outcome<Duration> + 'a) -> Self {
        Self { name: name.to_owned(), turn: Box::new(turn) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does the thing once.
    pub fn once(&mut self) -> Outcome {
        (self.turn)(1).map(drop)
    }

    /// How often it does the thing in about [`TURN`]; it is warm then.
    fn calibrate(&mut self) -> Outcome<u32> {
        let mut times = 1;
        loop {
            let took = (self.turn)(times)?;
            if took >= TURN / 2 || times >= MOST {
                let fitting = f64::from(times) * TURN.as_secs_f64() / took.as_secs_f64().max(1e-9);
                return Ok((fitting as u32).clamp(1, MOST));
            }
            times *= 2;
        }
    }
}

/// How long it takes to do a thing so many times.
#[inline]
pub fn timed(times: u32, mut once: impl FnMut() -> Outcome) -> Outcome<Duration> {
    let start = Instant::now();
    for _ in 0..times {
        once()?;
    }
    Ok(start.elapsed())
}

/// The median time of each contender, in nanoseconds for doing it once, in their order.
///
/// They take turns, each round in another order, so that what else happens on the machine meets all of them. A turn begins
/// with one time that does not count: caches, and who is awake, are then as the contender's own work leaves them.
pub fn compare(contenders: &mut [Contender]) -> Outcome<Vec<f64>> {
    let times = contenders.iter_mut().map(Contender::calibrate).collect::<Outcome<Vec<u32>>>()?;
    let mut seen = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for _ in 0..ROUNDS {
        fastrand::shuffle(&mut order);
        for &at in &order {
            contenders[at].once()?;
            let took = (contenders[at].turn)(times[at])?;
            seen[at].push(took.as_secs_f64() * 1e9 / f64::from(times[at]));
        }
    }
    Ok(seen.into_iter().map(median).collect())
}

/// The middle one of some values; NaN when there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn a_contender_that_takes_twice_as_long_is_seen_to() {
        let of = |each: u32| move |times: u32| Ok(Duration::from_nanos(u64::from(each) * u64::from(times)));
        let times = compare(&mut [Contender::new("one", of(100)), Contender::new("two", of(200))]).unwrap();
        assert!((times[0] - 100.0).abs() < 0.1 && (times[1] / times[0] - 2.0).abs() < 0.01, "{times:?}");
    }
}
