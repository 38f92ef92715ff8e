//! How an instance grows, ahead of need when it can, and gives back blocks that stay wholly free.
//!
//! A thread of each instance, the keeper, maps and registers the next block when less than `reserve_ahead` bytes are free,
//! so that allocating threads seldom wait for one; and it releases blocks that were wholly free for `release_after`. When a
//! block ahead of need is refused, it waits before it tries again, longer each time.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::blocks::GRANULE;
use super::classes::PAGE;
use super::heap::Heap;
use super::wake::Woken;
use super::{Shared, lock};
use crate::error::{Error, Result};

/// What only one thread at a time does.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Bytes mapped.
    pub managed: usize,
    /// The most that ever were.
    pub most_managed: usize,
}

/// A block is this fraction of what is mapped already, so that it doubles as that doubles and little lies idle.
const FRACTION: usize = 8;

/// How long the keeper waits after the first refusal of a block ahead of need, and at most after many.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What a refusal makes the keeper wait: twice as long as the one before.
#[derive(Debug, Default)]
struct Refusal {
    wait: Duration,
    until: Option<Instant>,
}

impl Refusal {
    fn again(&mut self) {
        self.wait = (self.wait * 2).clamp(PATIENCE.0, PATIENCE.1);
        self.until = Some(Instant::now() + self.wait);
    }

    /// How long it is to wait still; `None` when nothing was refused lately.
    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }
}

/// The keeper's thread.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    /// Rings for the keeper when too little is free.
    pub(super) fn look_ahead(&self, heap: &Heap) {
        if heap.free * PAGE < self.settings.reserve_ahead {
            self.wake.ring();
        }
    }

    /// Maps a block with room for `least` bytes.
    pub(super) fn grow(&self, least: usize) -> Result<()> {
        self.grow_locked(&mut lock(&self.growth), least)
    }

    /// As `grow`, unless blocks were added since there were `added`, or loose pieces make room.
    pub(super) fn grow_after(&self, least: usize, added: usize) -> Result<()> {
        let mut growth = lock(&self.growth);
        if lock(&self.heap).added != added || self.settle(least) {
            return Ok(());
        }
        self.grow_locked(&mut growth, least)
    }

    fn grow_locked(&self, growth: &mut Growth, least: usize) -> Result<()> {
        let (smallest, largest) = self.settings.block;
        let least = least
            .checked_next_multiple_of(GRANULE)
            .ok_or_else(|| Error::Memory(format!("{least} bytes exceed the address space")))?;
        let wanted = (growth.managed / FRACTION).clamp(smallest, largest).max(least);
        let block = match self.source.make(wanted, self.settings.register) {
            // Where a large block is refused a small one may do.
            Err(_) if wanted > least.max(smallest) => self.source.make(least.max(smallest), self.settings.register)?,
            made => made?,
        };
        growth.managed += block.len();
        growth.most_managed = growth.most_managed.max(growth.managed);
        lock(&self.heap).add(block);
        Ok(())
    }

    /// Gives the loose pieces of all classes to their spans; whether the heap has `least` bytes in one piece then.
    fn settle(&self, least: usize) -> bool {
        for central in &self.classes {
            lock(central).settle(0, |span| lock(&self.heap).give(span));
        }
        lock(&self.heap).has(least.div_ceil(PAGE))
    }

    /// Ahead of need: what lies loose goes to its spans first, for often that is enough.
    fn reserve_ahead(&self) -> Result<()> {
        self.settle(0);
        self.reserve(self.settings.reserve_ahead)
    }

    /// Grows until `bytes` are free.
    pub(super) fn reserve(&self, bytes: usize) -> Result<()> {
        let mut growth = lock(&self.growth);
        loop {
            let free = lock(&self.heap).free * PAGE;
            if free >= bytes {
                return Ok(());
            }
            // A block of the largest size at most, so that a refusal leaves what could be had.
            self.grow_locked(&mut growth, (bytes - free).min(self.settings.block.1))?;
        }
    }

    /// Releases the blocks that are due, as long as enough stays free; how long until the next may be.
    fn release(&self) -> Option<Duration> {
        let after = self.settings.release_after;
        if after.is_zero() {
            return None;
        }
        loop {
            let due = Instant::now().checked_sub(after)?;
            let mut growth = lock(&self.growth);
            let block = {
                let mut heap = lock(&self.heap);
                let spare = (heap.free * PAGE).saturating_sub(self.settings.reserve_ahead);
                heap.take_empty_block(due, spare)
            };
            match block {
                Some(block) => {
                    growth.managed -= block.len();
                    drop(growth);
                    // Deregistered and unmapped here, unless somebody still walks over it.
                    drop(block);
                }
                None => return lock(&self.heap).has_empty_block().then(|| after.max(Duration::from_millis(1))),
            }
        }
    }

    fn keep(&self) {
        let mut pause: Option<Duration> = None;
        let mut refusal = Refusal::default();
        loop {
            let left = refusal.left();
            // Nothing is due before somebody rings, but blocks that become empty do not ring.
            let limit = pause.unwrap_or(match self.settings.release_after {
                Duration::ZERO => Duration::from_secs(3600),
                after => after.max(Duration::from_millis(100)),
            });
            match self.wake.wait(left.map_or(limit, |left| limit.min(left)), left.is_some()) {
                Woken::Stop => return,
                Woken::Time => {}
                Woken::Low => match self.reserve_ahead() {
                    Ok(()) => refusal = Refusal::default(),
                    Err(error) => {
                        refusal.again();
                        // Whoever needs the memory gets the error; ahead of need there is nobody to tell.
                        tracing::debug!("growing ahead of need, tried again in {:?}: {error}", refusal.wait);
                    }
                },
            }
            if !self.settings.release_after.is_zero() {
                self.settle(0);
            }
            pause = self.release();
        }
    }
}

impl Keeper {
    pub(super) fn start(&self, shared: &Arc<Shared>) -> Result<()> {
        let kept = shared.clone();
        let thread = std::thread::Builder::new().name("lunasa-keeper".to_owned()).spawn(move || kept.keep());
        let thread = thread
            .map_err(|error| Error::Memory(format!("the keeper thread cannot be started: {error}; see `ulimit -u`")))?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    pub(super) fn stop(&self, shared: &Shared) {
        if let Some(thread) = lock(&self.thread).take() {
            shared.wake.stop();
            // One that panicked has ended as well; the panic was reported.
            drop(thread.join());
        }
    }
}
