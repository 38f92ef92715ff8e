//! The keeper's bell: rung when too little is free, and at the end.
//!
//! Models of it are in `models/`: no ring is lost, whenever the keeper begins to wait.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Wake {
    rung: Mutex<Rung>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    /// Less is free than should be.
    low: bool,
    stop: bool,
}

/// Why the keeper woke.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// Less is free than should be.
    Low,
    /// It is time to look after the blocks; sometimes a little early.
    Time,
    /// It is over.
    Stop,
}

impl Wake {
    /// Less is free than should be.
    pub(super) fn ring(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !rung.low {
            rung.low = true;
            self.bell.notify_one();
        }
    }

    /// It is over.
    pub(super) fn stop(&self) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.bell.notify_one();
    }

    /// Waits until somebody rings, but no longer than `limit`. `deaf` to all but the end, the bell stays rung, so that nobody
    /// rings again. For one thread.
    pub(super) fn wait(&self, limit: Duration, deaf: bool) -> Woken {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !rung.stop && (deaf || !rung.low) {
            // Once: to wake for no reason does no harm.
            rung = self.bell.wait_timeout(rung, limit).unwrap_or_else(PoisonError::into_inner).0;
        }
        match (rung.stop, !deaf && std::mem::take(&mut rung.low)) {
            (true, _) => Woken::Stop,
            (false, true) => Woken::Low,
            (false, false) => Woken::Time,
        }
    }
}
