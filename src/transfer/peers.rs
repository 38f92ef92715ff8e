//! What passed between this rank and each peer that it talked to: counts, and how long transfers took.
//!
//! A peer costs memory once something was moved to or from it: ten thousand known ranks of which twelve are talked to are
//! twelve of these, and a table of pointers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Direction;

/// Pointers in one piece of the table.
const PIECE: usize = 64;
/// Buckets of the histogram: the last counts all from 2^35 ns (34 s).
const BUCKETS: usize = 36;
/// Of so many transfers to a peer one is timed, since looking at the clock takes as long as copying a kilobyte.
const TIMED: u64 = 16;

type Piece = Box<[OnceLock<Box<Peer>>; PIECE]>;

/// All peers of a rank.
#[derive(Debug)]
pub(crate) struct Peers(Box<[OnceLock<Piece>]>);

/// What passed between this rank and one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(super) gets: AtomicU64,
    pub(super) get_bytes: AtomicU64,
    pub(super) puts: AtomicU64,
    pub(super) put_bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    latency: [AtomicU32; BUCKETS],
}

impl Peers {
    pub(crate) fn new(ranks: u32) -> Self {
        Self((0..(ranks as usize).div_ceil(PIECE)).map(|_| OnceLock::new()).collect())
    }

    /// The counts of a peer, which is a rank of the job.
    #[inline]
    pub(super) fn of(&self, rank: u32) -> Option<&Peer> {
        let piece = self.0.get(rank as usize / PIECE)?;
        let piece = piece.get_or_init(|| Box::new([const { OnceLock::new() }; PIECE]));
        Some(piece[rank as usize % PIECE].get_or_init(Box::default))
    }

    /// Those that were talked to, by rising rank.
    pub(super) fn talked_to(&self) -> impl Iterator<Item = (u32, &Peer)> {
        let pieces = self.0.iter().enumerate().filter_map(|(at, piece)| Some((at * PIECE, piece.get()?)));
        pieces.flat_map(|(first, piece)| {
            piece.iter().enumerate().filter_map(move |(at, peer)| Some(((first + at) as u32, &**peer.get()?)))
        })
    }
}

impl Default for Peer {
    fn default() -> Self {
        let (gets, get_bytes, puts, put_bytes, errors) = Default::default();
        Self { gets, get_bytes, puts, put_bytes, errors, latency: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl Peer {
    /// A transfer begins: the moment, if it is one of those that are timed.
    #[inline]
    pub(super) fn begin(&self) -> Option<Instant> {
        let before = self.gets.load(Ordering::Relaxed).wrapping_add(self.puts.load(Ordering::Relaxed));
        before.is_multiple_of(TIMED).then(Instant::now)
    }

    /// It is done.
    #[inline]
    pub(crate) fn count(&self, direction: Direction, bytes: usize, began: Option<Instant>) {
        let (operations, total) = match direction {
            Direction::Get => (&self.gets, &self.get_bytes),
            Direction::Put => (&self.puts, &self.put_bytes),
        };
        operations.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(began) = began {
            self.latency[bucket(began.elapsed())].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// The histogram up to its last bucket with something in it.
    pub(super) fn latency(&self) -> Vec<u64> {
        let mut counts: Vec<u64> = self.latency.iter().map(|count| count.load(Ordering::Relaxed).into()).collect();
        counts.truncate(counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1));
        counts
    }
}

fn bucket(time: Duration) -> usize {
    (time.as_nanos().max(1).ilog2() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_peers_that_were_talked_to_are_kept() {
        let peers = Peers::new(10_000);
        for rank in [7, 9_999, 64] {
            peers.of(rank).unwrap().count(Direction::Get, 100, None);
        }
        peers.of(64).unwrap().count(Direction::Put, 10, None);
        assert!(peers.of(10_048).is_none());
        let talked: Vec<_> =
            peers.talked_to().map(|(rank, peer)| (rank, peer.put_bytes.load(Ordering::Relaxed))).collect();
        assert_eq!(talked, [(7, 0), (64, 10), (9_999, 0)]);
        assert_eq!(peers.0.iter().filter(|piece| piece.get().is_some()).count(), 3);
    }

    #[test]
    fn a_time_counts_in_the_bucket_of_its_power_of_two() {
        for (nanos, expected) in [(0, 0), (1, 0), (2, 1), (1023, 9), (1024, 10), (u64::MAX, BUCKETS - 1)] {
            assert_eq!(bucket(Duration::from_nanos(nanos)), expected, "{nanos}");
        }
        let peer = Peer::default();
        assert_eq!(peer.latency(), [0; 0]);
        peer.count(Direction::Get, 1, Some(Instant::now()));
        assert_eq!(peer.latency().iter().sum::<u64>(), 1);
    }

    #[test]
    fn the_first_transfer_and_then_one_of_sixteen_is_timed() {
        let peer = Peer::default();
        let one = || {
            let began = peer.begin();
            peer.count(Direction::Put, 8, began);
            began.is_some()
        };
        let timed: Vec<bool> = (0..33).map(|_| one()).collect();
        assert_eq!(
            (timed[0], timed[16], timed[32], timed.iter().filter(|timed| **timed).count()),
            (true, true, true, 3)
        );
    }
}
