//! The keeper's bell. Loom's waits never time out: a ring that is lost leaves the keeper asleep, which loom reports.

use std::time::Duration;

use loom::sync::atomic::{AtomicU32, Ordering};

use crate::together;
use crate::wake::{Wake, Woken};

#[test]
fn no_ring_is_lost() {
    type Needs = (Wake, AtomicU32);
    let rings = |(wake, needs): &Needs| {
        needs.fetch_add(1, Ordering::Relaxed);
        wake.ring();
    };
    let serves = |(wake, needs): &Needs| {
        let mut served = 0;
        while served < 2 {
            if wake.wait(Duration::MAX, false) == Woken::Low {
                served = needs.load(Ordering::Relaxed);
            }
        }
    };
    together(Some(2), Needs::default, &[rings, rings, serves], |_| ());
}

#[test]
fn the_keeper_ends_when_told_so_whatever_else_rings() {
    let keeps = |wake: &Wake| while wake.wait(Duration::MAX, false) != Woken::Stop {};
    together(Some(2), Wake::default, &[keeps, Wake::ring, Wake::stop], |_| ());
}
