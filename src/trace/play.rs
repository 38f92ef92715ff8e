//! Playing a trace: each of its threads as a thread, in its own order; who drops another's object waits for it, and who
//! began after another's end begins after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use super::{Action, Trace};
use crate::error::{Error, Result};

/// What a trace is played with: an allocator.
pub trait Player: Sync {
    /// What it hands out.
    type Held: Send;

    /// Memory of an object of so many bytes of metadata and data, of the lazy or the eager pool.
    ///
    /// # Errors
    /// When there is none.
    fn allocate(&self, bytes: usize, lazy: bool) -> Result<Self::Held>;

    /// Takes it back.
    fn release(&self, held: Self::Held);
}

/// A trace made ready to be played.
#[derive(Debug)]
pub struct Script {
    parts: Vec<Part>,
    /// Objects that one thread allocates and another drops.
    shared: usize,
}

/// What one thread does.
#[derive(Debug, Default)]
struct Part {
    steps: Vec<Step>,
    /// Places for objects of its own, each used again when it is free.
    places: usize,
    /// Where in the order of all events its first and its last are.
    first: usize,
    last: usize,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Allocate { bytes: usize, lazy: bool, place: Place },
    Drop(Place),
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Own(usize),
    Shared(usize),
}

impl Script {
    pub(super) fn new(trace: &Trace) -> Self {
        let mut droppers = vec![None; trace.objects];
        for event in trace.events.iter().filter(|event| event.action == Action::Drop) {
            droppers[event.object as usize] = Some(event.thread);
        }
        let mut places = vec![Place::Own(0); trace.objects];
        let mut parts: Vec<Part> = (0..trace.threads).map(|_| Part::default()).collect();
        let (mut free, mut shared) = (vec![Vec::new(); trace.threads], 0);
        for (index, event) in trace.events.iter().enumerate() {
            let (thread, object) = (event.thread as usize, event.object as usize);
            let part = &mut parts[thread];
            let step = match event.action {
                Action::Allocate { bytes, lazy } => {
                    places[object] = if droppers[object].is_none_or(|dropper| dropper == event.thread) {
                        Place::Own(free[thread].pop().unwrap_or_else(|| {
                            part.places += 1;
                            part.places - 1
                        }))
                    } else {
                        shared += 1;
                        Place::Shared(shared - 1)
                    };
                    Step::Allocate { bytes, lazy, place: places[object] }
                }
                Action::Drop => {
                    if let Place::Own(place) = places[object] {
                        free[thread].push(place);
                    }
                    Step::Drop(places[object])
                }
            };
            if part.steps.is_empty() {
                part.first = index;
            }
            part.last = index;
            part.steps.push(step);
        }
        parts.retain(|part| !part.steps.is_empty());
        parts.sort_by_key(|part| part.first);
        Self { parts, shared }
    }

    /// Plays it once; how long the allocations and drops took, from the first thread's begin to the last one's end. What
    /// the trace does not drop is released after that.
    ///
    /// # Errors
    /// The first that the player has.
    pub fn play<P: Player>(&self, player: &P) -> Result<Duration> {
        let stage = Stage {
            player,
            shared: (0..self.shared).map(|_| Mutex::new(None)).collect(),
            failed: AtomicBool::new(false),
        };
        let spans = std::thread::scope(|scope| {
            let (mut spans, mut running) = (Vec::new(), Vec::new());
            let join = |thread: ScopedJoinHandle<_>| {
                thread.join().unwrap_or_else(|_| Err(Error::Trace("a thread of the replay panicked".to_owned())))
            };
            for part in &self.parts {
                // Those that had ended before it began.
                for (_, thread) in running.extract_if(.., |(last, _)| *last < part.first) {
                    spans.push(join(thread));
                }
                running.push((part.last, scope.spawn(|| stage.act(part))));
            }
            spans.extend(running.into_iter().map(|(_, thread)| join(thread)));
            spans.into_iter().collect::<Result<Vec<_>>>()
        })?;
        let (began, ended) = (spans.iter().map(|span| span.0).min(), spans.iter().map(|span| span.1).max());
        Ok(began.zip(ended).map_or(Duration::ZERO, |(began, ended)| ended - began))
    }
}

/// What the threads of one play share.
struct Stage<'a, P: Player> {
    player: &'a P,
    shared: Vec<Mutex<Option<P::Held>>>,
    failed: AtomicBool,
}

impl<P: Player> Stage<'_, P> {
    /// From when to when it took.
    fn act(&self, part: &Part) -> Result<(Instant, Instant)> {
        let mut own: Vec<Option<P::Held>> = (0..part.places).map(|_| None).collect();
        let began = Instant::now();
        let done = part.steps.iter().try_for_each(|&step| self.step(step, &mut own));
        let ended = Instant::now();
        if done.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        own.into_iter().flatten().for_each(|held| self.player.release(held));
        done.map(|()| (began, ended))
    }

    #[inline]
    fn step(&self, step: Step, own: &mut [Option<P::Held>]) -> Result<()> {
        match step {
            Step::Allocate { bytes, lazy, place } => {
                let held = Some(self.player.allocate(bytes, lazy)?);
                match place {
                    Place::Own(place) => own[place] = held,
                    Place::Shared(place) => *self.place(place) = held,
                }
            }
            Step::Drop(Place::Own(place)) => {
                if let Some(held) = own[place].take() {
                    self.player.release(held);
                }
            }
            Step::Drop(Place::Shared(place)) => loop {
                let held = self.place(place).take();
                if let Some(held) = held {
                    self.player.release(held);
                    break;
                }
                if self.failed.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::yield_now();
            },
        }
        Ok(())
    }

    fn place(&self, place: usize) -> std::sync::MutexGuard<'_, Option<P::Held>> {
        self.shared[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Player> Drop for Stage<'_, P> {
    fn drop(&mut self) {
        // What nobody came to drop, after an error.
        for place in self.shared.drain(..) {
            if let Some(held) = place.into_inner().unwrap_or_else(PoisonError::into_inner) {
                self.player.release(held);
            }
        }
    }
}
