//! Sizes and places to allocate at: random, the same for everybody and in every run.

use std::ops::Range;

/// Sizes whose logarithms are evenly spread over the range's.
pub fn log_uniform(range: &Range<usize>, random: &mut fastrand::Rng) -> usize {
    let (low, high) = ((range.start as f64).ln(), (range.end as f64).ln());
    (low + random.f64() * (high - low)).exp() as usize
}

/// The random numbers that everybody gets.
pub fn random() -> fastrand::Rng {
    fastrand::Rng::with_seed(42)
}

/// A size for people: `64 B`, `4 KiB`, `16 MiB`.
pub fn named(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}

/// A range of sizes for people.
pub fn named_range(range: &Range<usize>) -> String {
    format!("{} .. {}", named(range.start), named(range.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_octave_of_the_range_gets_as_many_sizes() {
        let (range, mut random) = (64..1 << 16, random());
        let mut octaves = [0; 10];
        for _ in 0..100_000 {
            let size = log_uniform(&range, &mut random);
            assert!(range.contains(&size), "{size}");
            octaves[size.ilog2() as usize - 6] += 1;
        }
        assert!(octaves.iter().all(|&count| (9_500..10_500).contains(&count)), "{octaves:?}");
        assert_eq!(named_range(&range), "64 B .. 64 KiB");
    }
}
