//! Slots of the table of regions, as peers read them.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, RwLock};
use loom::thread;

use crate::slot::{Backing, PeerRegion, Slot};

/// A region whose every word tells which it is.
fn region(number: u32) -> PeerRegion {
    let word = number as usize;
    let backing = Some(Backing { fd: number as i32, block: number, len: word, offset: word });
    PeerRegion { base: word, len: word, backing }
}

#[test]
fn a_peer_reads_a_whole_region_or_none() {
    // Each load of a peer's may give one of several values, so the orders of steps are bounded instead.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let shared = Arc::new((Slot::default(), RwLock::new(())));
        let first = shared.0.open(&region(1), 1);
        let seen = shared.clone();
        let peer = thread::spawn(move || {
            for (generation, number) in [(first, 1), (first.wrapping_add(2), 2)] {
                let read = seen.0.read(generation, number);
                assert!(read.is_none_or(|read| read == region(number)), "{read:?} for {number}");
            }
            assert_eq!(seen.0.read(first, 2), None, "another region's key");
            assert_eq!(seen.0.read(first.wrapping_add(1), 1), None, "an even generation");
        });
        shared.0.close(first, &shared.1);
        assert_eq!(shared.0.open(&region(2), 2), first.wrapping_add(2));
        assert!(peer.join().is_ok());
        assert_eq!(shared.0.read(first, 1), None);
        assert_eq!(shared.0.read(first.wrapping_add(2), 2), Some(region(2)));
    });
}

#[test]
fn what_was_read_before_is_of_a_region_that_still_is() {
    loom::model(|| {
        let shared = Arc::new((Slot::default(), RwLock::new(()), loom::sync::atomic::AtomicU64::new(1)));
        let first = shared.0.open(&region(1), 1);
        let seen = shared.clone();
        let peer = thread::spawn(move || {
            let bytes = seen.2.load(loom::sync::atomic::Ordering::Relaxed);
            assert!(!seen.0.is(first) || bytes == 1, "bytes of the next region passed for this one's");
        });
        shared.0.close(first, &shared.1);
        shared.0.open(&region(2), 2);
        shared.2.store(2, loom::sync::atomic::Ordering::Relaxed);
        assert!(peer.join().is_ok());
    });
}

#[test]
fn a_region_does_not_end_while_it_is_looked_at() {
    loom::model(|| {
        let shared = Arc::new((Slot::default(), RwLock::new(()), UnsafeCell::new(1)));
        let generation = shared.0.open(&region(1), 1);
        let looks = [(); 2].map(|()| {
            let seen = shared.clone();
            thread::spawn(move || {
                let look = |base, _| {
                    assert_eq!(base, 1);
                    // SAFETY: loom reports it if the memory goes meanwhile.
                    seen.2.with(|memory| assert_eq!(unsafe { *memory }, 1));
                    Some(())
                };
                seen.0.with((generation, 1), &seen.1, look);
            })
        });
        shared.0.close(generation, &shared.1);
        // SAFETY: loom reports it if anybody still looks.
        shared.2.with_mut(|memory| unsafe { *memory = 0 });
        looks.into_iter().for_each(|look| assert!(look.join().is_ok()));
    });
}
