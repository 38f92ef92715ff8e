//! A second thread that works beside the measuring one, each on a core of its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Outcome;

/// How long something took, and whether the system let it run.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub took: Duration,
    pub undisturbed: bool,
}

/// How often the system has taken this thread off its core.
pub fn switches() -> i64 {
    // SAFETY: numbers, for which zeros are valid; the call fills them in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    usage.ru_nivcsw
}

/// A second thread with work of its own, which it does when asked, and which ends with this.
pub struct Partner {
    ask: Option<Sender<u32>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    gate: Gate,
    /// When the partner began its last turn, and whether the system let it run.
    theirs: Mutex<Option<(Instant, bool)>>,
}

impl Partner {
    /// With its work: something done so many times.
    pub fn new(mut work: impl FnMut(u32) + Send + 'static) -> Self {
        let (ask, asked) = channel();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || {
            let _pinned = Pinned::to(1);
            for times in asked {
                theirs.gate.pass();
                let (before, start) = (switches(), Instant::now());
                work(times);
                *theirs.theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some((start, switches() == before));
                theirs.gate.pass();
            }
        });
        Self { ask: Some(ask), shared, thread: Some(thread) }
    }

    /// How long both take together, from when the first begins until both are done.
    pub fn together(&mut self, times: u32, mine: impl FnOnce(u32)) -> Outcome<Turn> {
        let _pinned = Pinned::to(0);
        self.ask.as_ref().ok_or("the partner is gone")?.send(times)?;
        self.shared.gate.pass();
        let (before, start) = (switches(), Instant::now());
        mine(times);
        let undisturbed = switches() == before;
        self.shared.gate.pass();
        let end = Instant::now();
        let theirs = *self.shared.theirs.lock().unwrap_or_else(PoisonError::into_inner);
        let (their_start, they_undisturbed) = theirs.ok_or("the partner did nothing")?;
        let (first, last) = (start.min(their_start), start.max(their_start));
        let took = end - first;
        // One that lost its core on the way begins late.
        let together = last - first < took / 20;
        Ok(Turn { took, undisturbed: undisturbed && they_undisturbed && together })
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported, and ended the turn that it was in.
            let _ = thread.join();
        }
    }
}

/// Where two threads wait for each other, awake.
#[derive(Default)]
struct Gate(AtomicU32);

impl Gate {
    fn pass(&self) {
        let both = (self.0.fetch_add(1, Ordering::AcqRel) / 2 + 1) * 2;
        let mut wait = Wait::default();
        while self.0.load(Ordering::Acquire) < both {
            wait.a_moment();
        }
    }
}

/// Waiting awake, but letting others in when it lasts.
#[derive(Default)]
pub struct Wait(u32);

impl Wait {
    /// Waits a little.
    pub fn a_moment(&mut self) {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(256) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// This thread on one core, as long as this lives.
struct Pinned(libc::cpu_set_t);

impl Pinned {
    /// To the `nth` core that the thread may use; where there are fewer, it stays as it is.
    fn to(nth: usize) -> Self {
        // SAFETY: a set of bits, for which zeros are the empty one.
        let (mut before, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { std::mem::zeroed() };
        let len = size_of::<libc::cpu_set_t>();
        // SAFETY: `before` has `len` bytes.
        unsafe { libc::sched_getaffinity(0, len, &mut before) };
        // SAFETY: the number is below CPU_SETSIZE.
        let allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &before) };
        if let Some(cpu) = (0..libc::CPU_SETSIZE as usize).filter(allowed).nth(nth) {
            // SAFETY: as above; `one` has `len` bytes.
            unsafe {
                libc::CPU_SET(cpu, &mut one);
                libc::sched_setaffinity(0, len, &one);
            }
        }
        Self(before)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: a set of that many bytes; only this thread's own cores change.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_begin_and_end_together() {
        let count = Arc::new(AtomicU32::new(0));
        let theirs = count.clone();
        let mut partner = Partner::new(move |times| {
            std::thread::sleep(Duration::from_millis(20));
            theirs.fetch_add(times, Ordering::Relaxed);
        });
        for round in 1..=3 {
            let took = partner.together(5, |_| {}).unwrap().took;
            assert!(took >= Duration::from_millis(20), "{took:?}");
            assert_eq!(count.load(Ordering::Relaxed), 5 * round);
        }
    }

    #[test]
    fn losing_the_core_to_another_is_seen() {
        let spin = || {
            let (_pinned, before, start) = (Pinned::to(0), switches(), Instant::now());
            while start.elapsed() < Duration::from_millis(300) {
                std::hint::spin_loop();
            }
            switches() - before
        };
        let other = std::thread::spawn(spin);
        assert!(spin() + other.join().unwrap() > 0);
    }
}
