//! The `verbs` route: peers' memory is read and written by RDMA, without anything being done at the peer.
//!
//! One reliable connection for each pair of ranks that talk, made when it is first needed (`handshake`) and made anew when
//! it broke (`engine`). What is checked and when, says `task`; `staging` is the route's own registered memory. Nobody at the
//! owner looks at a handle here: that its key and range are good is seen to by the owner's device, that its object is still
//! the one meant by reading that object's head.
//!
//! Completions are taken in by whoever waits, under a lock that nobody waits for: who does not get it looks at its own
//! request. The progress thread takes in those that nobody waits for.

mod breach;
mod engine;
mod handshake;
mod staging;
mod task;

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use engine::Engine;
use task::{Access, Ended, Ending, Task};

use super::mpi::{Backoff, MpiRoute};
use super::{Direction, Local, Traffic};
use crate::bootstrap::Directory;
use crate::error::{Error, Result};
use crate::manager::tcmalloc;
use crate::memory;
use crate::object::{Ldo, RemoteHandle, Section};
use crate::registrar::{Network, Region, Regions, VerbsRegistrar};
use crate::verbs::{Domain, MemoryRegion, Patience, Port};

/// From so many bytes on, memory that is not registered is registered for the time of a transfer; fewer are copied.
const TEMPORARY: usize = 256 << 10;

/// Work requests of one connection at one time, where the device takes so many.
const DEPTH: usize = 128;

/// What is configured of the route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VerbsSettings {
    /// Bytes of the largest work request; never more than the device takes.
    pub piece: usize,
    pub patience: Patience,
    /// How long a peer may take to answer when asked to connect.
    pub connect_timeout: Duration,
}

/// The device as the route uses it.
#[derive(Debug)]
struct Device {
    domain: Arc<Domain>,
    port: Port,
    patience: Patience,
    piece: usize,
    depth: usize,
}

impl Device {
    fn name(&self) -> &str {
        self.domain.context().name()
    }
}

/// The route of one rank.
pub(crate) struct VerbsRoute {
    device: Arc<Device>,
    connect_timeout: Duration,
    regions: Arc<Regions>,
    directory: Arc<Directory>,
    mpi: Arc<MpiRoute>,
    traffic: Traffic,
    /// Made when it is first needed.
    engine: Mutex<Option<Engine>>,
    /// Whether anything is under way that somebody must take in, tasks wait for an answer, a peer refused: copied from the
    /// engine.
    at_work: AtomicBool,
    late: AtomicBool,
    refused: AtomicBool,
    closed: AtomicBool,
}

/// A transfer under way.
pub(crate) struct Operation {
    route: Arc<VerbsRoute>,
    ending: Arc<Ending>,
    peer: u32,
}

impl VerbsRoute {
    /// By the registrar's device; `None` when that is no device, or has no active port.
    pub(crate) fn new(
        settings: VerbsSettings,
        regions: Arc<Regions>,
        directory: Arc<Directory>,
        mpi: Arc<MpiRoute>,
    ) -> Option<Arc<Self>> {
        let registrar: &dyn std::any::Any = regions.registrar();
        let registrar = registrar.downcast_ref::<VerbsRegistrar>()?;
        let port = registrar.port()?.clone();
        let most = usize::try_from(port.most).unwrap_or(usize::MAX);
        let (domain, patience, piece) =
            (registrar.domain().clone(), settings.patience, settings.piece.min(most).max(1));
        let depth = DEPTH.min(usize::try_from(domain.context().limits().max_qp_wr).unwrap_or(1));
        let device = Arc::new(Device { domain, port, patience, piece, depth });
        let connect_timeout = settings.connect_timeout;
        let (traffic, engine, at_work, late, refused, closed) = Default::default();
        let route = Arc::new(Self {
            device,
            connect_timeout,
            regions,
            directory,
            mpi,
            traffic,
            engine,
            at_work,
            late,
            refused,
            closed,
        });
        route.mpi.listen(Arc::downgrade(&route));
        Some(route)
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether a peer has a device on a network of the same kind.
    pub(super) fn reaches(&self, peer: u32) -> bool {
        self.directory.entry(peer).is_some_and(|entry| entry.link == Network::of(&self.device.port) as u16)
    }

    /// Why a peer takes no connection all the same, once that is known.
    pub(super) fn refusal(&self, peer: u32) -> Option<String> {
        if !self.refused.load(Ordering::Relaxed) {
            return None;
        }
        lock(&self.engine).as_ref()?.refusal(peer).map(str::to_owned)
    }

    /// Runs `act` with the engine, which is made if there is none yet; then, without its lock, drops what has ended and
    /// sends what is to be said.
    fn with<R>(&self, act: impl FnOnce(&mut Engine) -> R) -> Result<R> {
        let mut engine = lock(&self.engine);
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed("no more transfers after finish".to_owned()));
        }
        let made = match &mut *engine {
            Some(made) => made,
            none => {
                let name = format!("lunasa-{:016x}-{}-verbs", self.regions.run(), self.regions.rank());
                none.insert(Engine::new(self.device.clone(), self.mpi.clone(), &name)?)
            }
        };
        let result = act(made);
        let ended = self.settle(made);
        drop(engine);
        self.after(ended);
        Ok(result)
    }

    fn settle(&self, engine: &mut Engine) -> Vec<Ended> {
        self.at_work.store(engine.is_at_work(), Ordering::Relaxed);
        self.late.store(engine.is_late(), Ordering::Relaxed);
        self.refused.store(engine.has_refusals(), Ordering::Relaxed);
        engine.take_ended()
    }

    fn after(&self, ended: Vec<Ended>) {
        for Ended { good, direction, len, .. } in &ended {
            if *good { self.traffic.count(*direction, *len) } else { self.traffic.count_error() }
        }
        drop(ended);
        self.mpi.send_notes();
    }

    /// Takes in what was done, unless somebody else does at this moment; whether that was anything.
    fn advance(&self) -> bool {
        let mut engine = match self.engine.try_lock() {
            Ok(engine) => engine,
            Err(TryLockError::WouldBlock) => return false,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let Some(made) = &mut *engine else { return false };
        let any = made.poll();
        if made.is_late() {
            made.give_up(self.connect_timeout);
        }
        let ended = self.settle(made);
        drop(engine);
        self.after(ended);
        any
    }

    /// As [`VerbsRoute::advance`], when something is under way at all.
    pub(super) fn progress(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) && self.advance()
    }

    /// Takes a note of a peer's; false when it is none.
    pub(super) fn take_note(&self, from: u32, message: &[u8]) -> bool {
        let Some(note) = handshake::read(message) else { return false };
        if let Err(error) = self.with(|engine| engine.take_note(from, note)) {
            tracing::warn!("verbs: rank {from} asks for a connection: {error}");
            self.mpi.note(from, handshake::refusal(message, &error.to_string()));
            self.mpi.send_notes();
        }
        true
    }

    /// Whether nothing is under way here, nor a connection being made.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.engine).as_ref().is_none_or(Engine::is_idle)
    }

    /// Ends all connections: after that no device reads or writes this rank's memory through them. Where other ranks may
    /// still be at work, theirs break.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let mut engine = lock(&self.engine);
        let Some(mut made) = engine.take() else { return };
        made.close();
        let ended = self.settle(&mut made);
        drop(engine);
        drop(made);
        self.after(ended);
    }

    /// By what the device knows the program's memory.
    ///
    /// # Safety
    /// The memory may be used until the transfer is done.
    unsafe fn access(&self, local: Local, keep: Option<&Ldo>) -> Access {
        let Some(base) = NonNull::new(local.at).filter(|_| local.len > 0) else { return Access::Known(0) };
        let holds = |region: &Region| {
            let offset = local.at.addr().checked_sub(region.base().addr());
            let within = offset.is_some_and(|offset| offset <= region.len() && local.len <= region.len() - offset);
            // Another instance of Lunasa has other keys.
            within && self.regions.get(region.id) == Some(*region)
        };
        // SAFETY: the caller's memory is in no block, or in a piece that stays handed out.
        let block = unsafe { tcmalloc::region_of(local.at.addr()) };
        if let Some(region) = block.filter(holds) {
            return Access::Known(region.keys.local);
        }
        // An object that is moved often by itself is registered once.
        let segments = keep.and_then(|object| object.segments(Section::Base).ok());
        if let Some(segment) = segments.as_ref().and_then(|all| all.iter().find(|part| holds(part.region()))) {
            return Access::Known(segment.keys().local);
        }
        if local.len < TEMPORARY {
            return Access::Slots;
        }
        // SAFETY: the caller's memory stays mapped until the transfer is done, and the registration ends before that.
        // Memory that may not be written, or limits, make the device refuse.
        match unsafe { MemoryRegion::register(&self.device.domain, base, local.len) } {
            Ok(region) => Access::Temporary(region),
            Err(_) => Access::Slots,
        }
    }

    /// Begins a transfer. The reason, and what was to be kept, when the peer takes no connection.
    ///
    /// # Safety
    /// As for [`super::Transfers::start`].
    pub(super) unsafe fn start(
        self: &Arc<Self>,
        direction: Direction,
        handle: &RemoteHandle,
        offset: u64,
        local: Local,
        keep: &mut Option<Ldo>,
    ) -> Result<Result<Operation, String>> {
        if let Some(why) = self.refusal(handle.rank()) {
            return Ok(Err(why));
        }
        // SAFETY: the caller's promise.
        let access = unsafe { self.access(local, keep.as_ref()) };
        let mut task = Task::new((direction, local), handle, offset, access)?;
        let (ending, peer) = (task.ending.clone(), handle.rank());
        let begun = self.with(|engine| {
            engine.connect(peer)?;
            task.keep(keep.take());
            engine.begin(task);
            Ok(())
        })?;
        Ok(begun.map(|()| Operation { route: self.clone(), ending, peer }))
    }
}

/// Reads bytes as a note.
pub(super) fn read_note(bytes: &[u8]) {
    let _ = handshake::read(bytes);
}

fn lock(engine: &Mutex<Option<Engine>>) -> MutexGuard<'_, Option<Engine>> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operation {
    /// Whether it is over. Never waits; takes in what was done meanwhile.
    pub(crate) fn test(&self) -> bool {
        // In a forked child it has ended: see the mpi route's.
        if memory::in_forked_child() || self.ending.is_done() {
            return true;
        }
        self.route.advance();
        self.ending.is_done()
    }

    /// Waits until it is over, but no longer than `limit`; whether it is. Peers' requests are served meanwhile.
    pub(crate) fn wait_until(&self, limit: Option<Duration>) -> bool {
        /// Looks at the device before peers are served too.
        const PATIENT: u32 = 2_000;
        let start = limit.map(|_| Instant::now());
        let (mut backoff, mut looks, mut waiting) = (Backoff::default(), 0u32, None);
        while !self.test() {
            if start.zip(limit).is_some_and(|(start, limit)| start.elapsed() >= limit) {
                return false;
            }
            looks = looks.saturating_add(1);
            if looks > PATIENT || self.route.late.load(Ordering::Relaxed) {
                waiting.get_or_insert_with(|| self.route.mpi.waiting());
                self.route.mpi.progress();
            }
            backoff.pause();
        }
        true
    }

    /// Waits until it is over; its outcome, and the object that it kept.
    pub(crate) fn wait(self) -> Result<Option<Ldo>> {
        self.wait_until(None);
        memory::not_in_forked_child()?;
        self.ending.take().unwrap_or_else(|| {
            let reason = "the request ended without an outcome; this is a fault of Lunasa".to_owned();
            Err(Error::Transfer { peer: self.peer, reason })
        })
    }
}

impl fmt::Debug for VerbsRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerbsRoute({})", self.device.name())
    }
}
