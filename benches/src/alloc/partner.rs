//! A second thread that works beside the measuring one, each on a core of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Outcome;

/// A second thread with work of its own, which it does when asked, and which ends with this.
pub struct Partner {
    ask: Option<Sender<u32>>,
    gate: Arc<Gate>,
    thread: Option<JoinHandle<()>>,
}

impl Partner {
    /// With its work: something done so many times.
    pub fn new(mut work: impl FnMut(u32) + Send + 'static) -> Self {
        let (ask, asked) = channel();
        let gate = Arc::new(Gate::default());
        let theirs = gate.clone();
        let thread = std::thread::spawn(move || {
            let _pinned = Pinned::to(1);
            for times in asked {
                theirs.pass();
                work(times);
                theirs.pass();
            }
        });
        Self { ask: Some(ask), gate, thread: Some(thread) }
    }

    /// How long both take together, from when both begin until both are done.
    pub fn together(&mut self, times: u32, mine: impl FnOnce(u32)) -> Outcome<Duration> {
        let _pinned = Pinned::to(0);
        self.ask.as_ref().ok_or("the partner is gone")?.send(times)?;
        self.gate.pass();
        let start = Instant::now();
        mine(times);
        self.gate.pass();
        Ok(start.elapsed())
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
        if self.0 % 256 == 0 {
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
            let took = partner.together(5, |_| {}).unwrap();
            assert!(took >= Duration::from_millis(20), "{took:?}");
            assert_eq!(count.load(Ordering::Relaxed), 5 * round);
        }
    }
}
