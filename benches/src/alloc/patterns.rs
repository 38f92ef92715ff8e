//! The patterns of allocation, as contenders that can be compared.

use std::ops::Range;
use std::time::Instant;

use rtrb::{Consumer, Producer, RingBuffer};

use super::contenders::{Allocator, Job};
use super::partner::{Partner, Turn, Wait, switches};
use super::sizes;
use crate::Outcome;
use crate::measure::Contender;

/// Objects between a producer and its consumer, at most.
pub const RING: usize = 1024;
/// Objects of the working set.
pub const WORKING_SET: usize = 10_000;
/// Replacements before the sequence of them begins again.
const REPLACEMENTS: usize = 1 << 16;

/// One after another: allocate, release.
pub struct Pair(pub usize);

#[inline]
fn pairs<A: Allocator>(allocator: &A, size: usize, times: u32) {
    for _ in 0..times {
        allocator.release(allocator.allocate(size));
    }
}

/// Turns here are so much longer than others', so that cold caches and waking threads at their beginning matter little.
const LONGER: u32 = 2;
/// How often a turn may be repeated because the system gave a core of it to others. If it always does, the shortest counts.
const REPEATS: usize = 5;

fn contender(name: &str, mut turn: impl FnMut(u32) -> Outcome<Turn> + 'static) -> Contender<'static> {
    Contender::new(name, move |times| {
        let mut best = turn(times * LONGER)?;
        for _ in 0..REPEATS {
            if best.undisturbed {
                break;
            }
            let again = turn(times * LONGER)?;
            if again.undisturbed || again.took < best.took {
                best = again;
            }
        }
        Ok(best.took / LONGER)
    })
}

fn timed(work: impl FnOnce()) -> Outcome<Turn> {
    let (before, start) = (switches(), Instant::now());
    work();
    Ok(Turn { took: start.elapsed(), undisturbed: switches() == before })
}

impl Job for Pair {
    type Made = Contender<'static>;

    fn run<A: Allocator>(&self, name: &'static str, allocator: A) -> Self::Made {
        let size = self.0;
        contender(name, move |times| timed(|| pairs(&allocator, size, times)))
    }
}

/// `count` are allocated, then released in the same order; one time is all of that.
pub struct Batch {
    pub size: usize,
    pub count: usize,
}

impl Job for Batch {
    type Made = Contender<'static>;

    fn run<A: Allocator>(&self, name: &'static str, allocator: A) -> Self::Made {
        let Self { size, count } = *self;
        let mut held = Vec::with_capacity(count);
        contender(name, move |times| {
            timed(|| {
                for _ in 0..times {
                    held.extend((0..count).map(|_| allocator.allocate(size)));
                    held.drain(..).for_each(|one| allocator.release(one));
                }
            })
        })
    }
}

/// In a working set, a random one is released and one of another size allocated in its place.
pub struct Replace {
    range: Range<usize>,
    sequence: Vec<(u32, u32)>,
}

impl Replace {
    /// With sizes log-uniform in the range.
    pub fn new(range: Range<usize>) -> Self {
        let mut random = sizes::random();
        let one = |_| (random.u32(0..WORKING_SET as u32), sizes::log_uniform(&range, &mut random) as u32);
        let sequence = (0..REPLACEMENTS).map(one).collect();
        Self { range, sequence }
    }
}

/// What is held at once; given back at the end.
struct WorkingSet<A: Allocator> {
    allocator: A,
    slots: Vec<Option<A::Held>>,
}

impl<A: Allocator> Drop for WorkingSet<A> {
    fn drop(&mut self) {
        self.slots.drain(..).flatten().for_each(|held| self.allocator.release(held));
    }
}

impl Job for Replace {
    type Made = Contender<'static>;

    fn run<A: Allocator>(&self, name: &'static str, allocator: A) -> Self::Made {
        let mut random = sizes::random();
        let mut first = || Some(allocator.allocate(sizes::log_uniform(&self.range, &mut random)));
        let slots = (0..WORKING_SET).map(|_| first()).collect();
        let mut set = WorkingSet { allocator, slots };
        let (sequence, mut next) = (self.sequence.clone(), 0);
        contender(name, move |times| {
            timed(|| {
                let WorkingSet { allocator, slots } = &mut set;
                for _ in 0..times {
                    let (slot, size) = sequence[next % REPLACEMENTS];
                    next += 1;
                    let slot = &mut slots[slot as usize];
                    if let Some(old) = slot.take() {
                        allocator.release(old);
                    }
                    *slot = Some(allocator.allocate(size as usize));
                }
            })
        })
    }
}

/// One thread allocates, another releases.
pub struct ProducerConsumer(pub usize);

fn produce<T>(to: &mut Producer<T>, times: u32, mut one: impl FnMut() -> T) {
    let mut wait = Wait::default();
    for _ in 0..times {
        let mut next = one();
        while let Err(rtrb::PushError::Full(back)) = to.push(next) {
            next = back;
            wait.a_moment();
        }
    }
}

fn consume<T>(from: &mut Consumer<T>, times: u32, mut with: impl FnMut(T)) {
    let mut wait = Wait::default();
    for _ in 0..times {
        loop {
            if let Ok(one) = from.pop() {
                with(one);
                break;
            }
            wait.a_moment();
        }
    }
}

impl Job for ProducerConsumer {
    type Made = Contender<'static>;

    fn run<A: Allocator>(&self, name: &'static str, allocator: A) -> Self::Made {
        let size = self.0;
        let (mut producer, mut consumer) = RingBuffer::new(RING);
        let theirs = allocator.clone();
        let mut partner = Partner::new(move |times| consume(&mut consumer, times, |held| theirs.release(held)));
        contender(name, move |times| {
            partner.together(times, |times| produce(&mut producer, times, || allocator.allocate(size)))
        })
    }
}

/// What a ring costs with nothing allocated.
pub fn ring_alone() -> Contender<'static> {
    let (mut producer, mut consumer) = RingBuffer::new(RING);
    let mut partner =
        Partner::new(move |times| consume(&mut consumer, times, |one: u64| _ = std::hint::black_box(one)));
    contender("ring", move |times| partner.together(times, |times| produce(&mut producer, times, || 7)))
}

/// Two threads, each as in [`Pair`].
pub struct PairOnTwo(pub usize);

impl Job for PairOnTwo {
    type Made = Contender<'static>;

    fn run<A: Allocator>(&self, name: &'static str, allocator: A) -> Self::Made {
        let (size, theirs) = (self.0, allocator.clone());
        let mut partner = Partner::new(move |times| pairs(&theirs, size, times));
        contender(name, move |times| partner.together(times, |times| pairs(&allocator, size, times)))
    }
}
