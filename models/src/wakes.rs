//! The keeper's bell. Loom's waits never time out: a ring that is lost leaves the keeper asleep, which loom reports.

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use crate::wake::{Wake, Woken};

#[test]
fn no_ring_is_lost() {
    loom::model(|| {
        let shared = Arc::new((Wake::default(), AtomicU32::new(0)));
        let ringers = [(); 2].map(|()| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.fetch_add(1, Ordering::Relaxed);
                shared.0.ring();
            })
        });
        let mut served = 0;
        while served < 2 {
            if shared.0.wait(Duration::MAX) == Woken::Low {
                served = shared.1.load(Ordering::Relaxed);
            }
        }
        ringers.into_iter().for_each(|ringer| assert!(ringer.join().is_ok()));
    });
}

#[test]
fn the_keeper_ends_when_told_so_whatever_else_rings() {
    loom::model(|| {
        let wake = Arc::new(Wake::default());
        let rung = wake.clone();
        let ringer = thread::spawn(move || rung.ring());
        let kept = wake.clone();
        let keeper = thread::spawn(move || while kept.wait(Duration::MAX) != Woken::Stop {});
        wake.stop();
        assert!(keeper.join().is_ok());
        assert!(ringer.join().is_ok());
    });
}
