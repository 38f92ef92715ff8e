//! The `mpi` route: messages on Lunasa's communicator, served by the owner's progress.
//!
//! When MPI gives `MPI_THREAD_MULTIPLE`, a thread of ours serves: eagerly after a request and while one is under way, then
//! ever more seldom, so that an idle rank is left alone. While the program waits inside Lunasa its own thread serves as
//! well, and ours keeps out of its way. Otherwise requests are served inside Lunasa's own calls and by `Lunasa::progress`.

mod client;
mod notes;
mod server;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use client::Exchange;
pub(crate) use client::Operation;
use notes::Notes;
use server::Server;
pub(super) use wire::read_messages;

use super::peers::Peers;
use super::verbs::VerbsRoute;
use super::{Direction, Local, Traffic};
use crate::comm::Comm;
use crate::error::{Error, Result};
use crate::memory;
use crate::object::{Ldo, RemoteHandle};
use crate::registrar::Regions;

/// The route of one rank.
#[derive(Debug)]
pub(crate) struct MpiRoute {
    comm: Comm,
    regions: Arc<Regions>,
    piece: usize,
    window: usize,
    traffic: Traffic,
    peers: Arc<Peers>,
    server: Mutex<Server>,
    /// Requests of this rank that are under way.
    active: Mutex<Vec<Arc<Mutex<Exchange>>>>,
    slots: Mutex<Slots>,
    /// Threads of the program that wait in Lunasa and serve meanwhile.
    waiting: AtomicU32,
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: AtomicBool,
    /// What other rooms say to peers; and the route that takes peers' notes, and is moved on by this one's progress.
    notes: Notes,
    listener: OnceLock<Weak<VerbsRoute>>,
}

#[derive(Debug, Default)]
struct Slots {
    free: Vec<u32>,
    used: u32,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

impl MpiRoute {
    pub(crate) fn new(comm: Comm, regions: Arc<Regions>, piece: usize, window: usize) -> Arc<Self> {
        let (traffic, server, active, slots, waiting) = Default::default();
        let peers = Arc::new(Peers::new(comm.size()));
        let (thread, stop, notes, listener) = Default::default();
        Arc::new(Self {
            comm,
            regions,
            piece,
            window,
            traffic,
            peers,
            server,
            active,
            slots,
            waiting,
            thread,
            stop,
            notes,
            listener,
        })
    }

    /// What passed between this rank and each peer, by this route and by others.
    pub(super) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(crate) fn comm(&self) -> &Comm {
        &self.comm
    }

    /// Starts the thread that serves; it sleeps at most `idle` at a time.
    pub(crate) fn start_thread(self: &Arc<Self>, idle: Duration) -> Result<()> {
        let route = self.clone();
        let thread = std::thread::Builder::new().name("lunasa-progress".to_owned()).spawn(move || route.serve(idle));
        let thread = thread.map_err(|error| {
            Error::Launch(format!("the progress thread cannot be started: {error}; see `ulimit -u`, or set lunasa.mpi.progress = \"calls\""))
        })?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    fn serve(&self, idle: Duration) {
        /// Looks before the thread begins to sleep: after the last request, and while one is under way.
        const EAGER: u32 = 200;
        const EAGER_AT_WORK: u32 = 20_000;
        const SHORTEST: Duration = Duration::from_micros(5);
        /// While the program's own thread serves.
        const ASIDE: Duration = Duration::from_micros(100);
        let mut quiet = 0u32;
        while !self.stop.load(Ordering::Acquire) {
            if self.waiting.load(Ordering::Relaxed) > 0 {
                quiet = 0;
                std::thread::sleep(ASIDE.min(idle));
                continue;
            }
            quiet = if self.progress() { 0 } else { quiet.saturating_add(1) };
            let eager = if self.is_at_work() { EAGER_AT_WORK } else { EAGER };
            if quiet < eager {
                std::thread::yield_now();
            } else {
                std::thread::sleep((SHORTEST * (quiet - eager + 1).min(1 << 16)).min(idle));
            }
        }
    }

    /// Whether a request of this rank or of a peer's is under way.
    fn is_at_work(&self) -> bool {
        !self.active.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            || !self.server.lock().unwrap_or_else(PoisonError::into_inner).is_idle()
    }

    /// Says that a thread of the program waits, as long as the value lives.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    /// Serves peers and moves on this rank's own requests, without waiting; whether anything happened.
    pub(crate) fn progress(&self) -> bool {
        let mut busy = !memory::in_forked_child() && self.listener().is_some_and(|verbs| verbs.progress());
        if !self.comm.may_call() {
            return busy;
        }
        busy |= match self.server.try_lock() {
            Ok(mut server) => server.step(self).unwrap_or_else(|error| {
                tracing::error!("serving peers: {error}");
                false
            }),
            Err(TryLockError::WouldBlock) => return busy,
            Err(TryLockError::Poisoned(_)) => return busy,
        };
        self.send_notes();
        if let Ok(mut active) = self.active.try_lock() {
            active.retain(|exchange| match exchange.try_lock() {
                Ok(mut exchange) => {
                    let done = exchange.advance(self);
                    busy |= done;
                    !done
                }
                Err(_) => true,
            });
        }
        busy
    }

    /// From now on peers' notes are given to that route, and it is moved on with this one.
    pub(super) fn listen(&self, route: Weak<VerbsRoute>) {
        // The first stays; there is one.
        let _ = self.listener.set(route);
    }

    fn listener(&self) -> Option<Arc<VerbsRoute>> {
        self.listener.get().and_then(Weak::upgrade)
    }

    /// Puts down a note for a peer, without a call of MPI's. Those to one peer arrive in this order.
    pub(super) fn note(&self, to: u32, note: Vec<u8>) {
        self.notes.put(to, note);
    }

    /// Sends what was put down, if this thread may.
    pub(super) fn send_notes(&self) {
        if !self.notes.is_empty()
            && self.comm.may_call()
            && let Err(error) = self.notes.send(&self.comm)
        {
            tracing::error!("telling a peer how to connect: {error}");
        }
    }

    /// # Safety
    /// As for [`super::Transfers::start`].
    pub(super) unsafe fn start(
        self: &Arc<Self>,
        direction: Direction,
        handle: &RemoteHandle,
        offset: u64,
        local: Local,
        keep: Option<Ldo>,
    ) -> Result<Operation> {
        let peer = handle.rank();
        if !self.comm.may_call() {
            let reason =
                "this MPI was not initialised with MPI_THREAD_MULTIPLE, so only the thread that initialised it may \
                          use the mpi route"
                    .to_owned();
            return Err(Error::Transfer { peer, reason });
        }
        // Checked before a slot is taken, so that a refusal costs nothing.
        handle.locate(offset, local.len as u64)?;
        let slot = self.take_slot(peer)?;
        // SAFETY: the caller's promise.
        let exchange =
            Arc::new(Mutex::new(unsafe { Exchange::begin(self, slot, direction, handle, offset, local, keep) }?));
        self.active.lock().unwrap_or_else(PoisonError::into_inner).push(exchange.clone());
        Ok(Operation::new(self.clone(), exchange))
    }

    fn take_slot(&self, peer: u32) -> Result<u32> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.free.pop() {
            return Ok(slot);
        }
        if slots.used == wire::SLOTS {
            let reason = format!("{} requests are under way, the most there can be; wait for some", wire::SLOTS);
            return Err(Error::Transfer { peer, reason });
        }
        slots.used += 1;
        Ok(slots.used - 1)
    }

    fn give_slot(&self, slot: u32) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).free.push(slot);
    }

    /// Ends the route: own requests first, those of the listener's too, then everybody's, then the thread. Collective.
    pub(crate) fn finish(&self) -> Result<()> {
        let _waiting = self.waiting();
        let mut backoff = Backoff::default();
        let mut serve_until = |over: &mut dyn FnMut() -> Result<bool>| -> Result<()> {
            while !over()? {
                if self.progress() { backoff = Backoff::default() } else { backoff.pause() }
            }
            Ok(())
        };
        serve_until(&mut || {
            let requests = self.active.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            Ok(requests && self.listener().is_none_or(|verbs| verbs.is_idle()) && self.notes.is_empty())
        })?;
        let mut everybody = self.comm.barrier_start()?;
        serve_until(&mut || Ok(everybody.test()?.is_some()))?;
        serve_until(&mut || Ok(self.server.lock().unwrap_or_else(PoisonError::into_inner).is_idle()))?;
        self.stop_thread();
        Ok(())
    }

    /// Stops the thread. Requests are then served no more.
    pub(crate) fn stop_thread(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A thread that panicked has ended as well; the panic was reported.
            drop(thread.join());
        }
    }

    /// Frees the communicator. Collective, after [`MpiRoute::finish`] or before the first request; the last use of it.
    pub(crate) fn free(&self) -> Result<()> {
        self.comm.free()
    }
}

pub(super) struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits between two looks: first not at all, then by yielding, then by short sleeps.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    pub(super) fn pause(&mut self) {
        const SPINS: u32 = 100;
        const YIELDS: u32 = 5_000;
        self.0 = self.0.saturating_add(1);
        match self.0 {
            0..SPINS => std::hint::spin_loop(),
            SPINS..YIELDS => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}
