//! Slots of the table of regions, as peers read them.

use loom::cell::UnsafeCell;
use loom::sync::RwLock;
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::slot::{Backing, PeerRegion, Slot};
use crate::together;

/// A region whose every word tells which it is.
fn region(number: u32) -> PeerRegion {
    let word = number as usize;
    let backing = Some(Backing { fd: number as i32, block: number, len: word, offset: word });
    PeerRegion { base: word, len: word, backing }
}

/// A slot with region 1, of the first generation, and its owner's lock.
fn slot() -> (Slot, RwLock<()>) {
    let slot = Slot::default();
    assert_eq!(slot.open(&region(1), 1), 1);
    (slot, RwLock::new(()))
}

fn region_2_follows(slot: &Slot, in_use: &RwLock<()>) {
    slot.close(1, in_use);
    assert_eq!(slot.open(&region(2), 2), 3);
}

#[test]
fn a_peer_reads_a_whole_region_or_none() {
    let follows = |(slot, in_use): &(Slot, RwLock<()>)| region_2_follows(slot, in_use);
    let reads = |(slot, _): &(Slot, RwLock<()>)| {
        for (generation, number) in [(1, 1), (3, 2)] {
            let read = slot.read(generation, number);
            assert!(read.is_none_or(|read| read == region(number)), "{read:?} for {number}");
        }
        assert_eq!(slot.read(1, 2), None, "another region's key");
        assert_eq!(slot.read(2, 1), None, "an even generation");
    };
    let after = |(slot, _): &(Slot, RwLock<()>)| {
        assert_eq!((slot.read(1, 1), slot.read(3, 2)), (None, Some(region(2))));
    };
    // Each load of the peer's may give one of several values, so the orders of steps are bounded instead.
    together(Some(2), slot, &[follows, reads], after);
}

#[test]
fn what_was_read_before_is_of_a_region_that_still_is() {
    type Copied = ((Slot, RwLock<()>), AtomicU64);
    let follows = |((slot, in_use), contents): &Copied| {
        region_2_follows(slot, in_use);
        contents.store(2, Ordering::Relaxed);
    };
    let copies = |((slot, _), contents): &Copied| {
        let got = contents.load(Ordering::Relaxed);
        assert!(!slot.is(1) || got == 1, "bytes of the next region passed for this one's");
    };
    together(None, || (slot(), AtomicU64::new(1)), &[follows, copies], |_| ());
}

#[test]
fn a_region_does_not_end_while_it_is_looked_at() {
    type Mapped = ((Slot, RwLock<()>), UnsafeCell<u32>);
    let looks = |((slot, in_use), memory): &Mapped| {
        slot.with((1, 1), in_use, |base, _| {
            assert_eq!(base, 1);
            // SAFETY: loom reports it if the memory goes meanwhile.
            memory.with(|memory| assert_eq!(unsafe { *memory }, 1));
            Some(())
        });
    };
    let ends = |((slot, in_use), memory): &Mapped| {
        slot.close(1, in_use);
        // SAFETY: loom reports it if anybody still looks.
        memory.with_mut(|memory| unsafe { *memory = 0 });
    };
    together(Some(2), || (slot(), UnsafeCell::new(1)), &[ends, looks, looks], |_| ());
}
