//! Moving bytes between ranks one-sidedly: get, put, view, and the routes they take.
//!
//! - `self`: the object is this rank's own.
//! - `shm`: the peer is on this host; its block is mapped once, and bytes are copied with plain loads and stores.
//! - `verbs`: both sides have an RDMA device, which reads and writes the peer's memory.
//! - `mpi`: messages on Lunasa's communicator, served by the peer's progress.
//!
//! A transfer takes the first of the allowed routes that reaches its peer and its memory.

mod local;
mod mpi;
mod peers;
mod request;
mod shm;
#[cfg(test)]
mod tests;
mod verbs;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bootstrap::Directory;
use crate::config::RouteKind;
use crate::error::{Error, HandleFault, Result};
use crate::memory;
use crate::object::{Head, Ldo, RemoteHandle};
use crate::registrar::Regions;
use crate::snapshot::{PeerTraffic, TrafficInfo};

pub(crate) use mpi::MpiRoute;
use peers::{Peer, Peers};
pub(crate) use request::Operation;
pub use request::{Request, Waited};
use shm::Shm;
pub(crate) use verbs::{VerbsRoute, VerbsSettings};
pub use view::View;

/// Reading from a peer or writing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Get,
    Put,
}

/// The program's side of a transfer. For a put it is only read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local {
    pub at: *mut u8,
    pub len: usize,
}

// SAFETY: a description of memory; whoever makes one promises that it may be used until the transfer is done.
unsafe impl Send for Local {}

/// What a route says.
pub(crate) enum Outcome {
    Done,
    /// This route does not reach that memory; another may.
    Unreachable(String),
}

/// Counts of one route.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    get_bytes: AtomicU64,
    gets: AtomicU64,
    put_bytes: AtomicU64,
    puts: AtomicU64,
    served_bytes: AtomicU64,
    served: AtomicU64,
    errors: AtomicU64,
}

impl Traffic {
    pub(crate) fn count(&self, direction: Direction, bytes: usize) {
        let (operations, total) = match direction {
            Direction::Get => (&self.gets, &self.get_bytes),
            Direction::Put => (&self.puts, &self.put_bytes),
        };
        operations.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_served(&self, bytes: usize) {
        self.served.fetch_add(1, Ordering::Relaxed);
        self.served_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    fn info(&self, route: RouteKind) -> TrafficInfo {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TrafficInfo {
            route: route.to_string(),
            get_bytes: get(&self.get_bytes),
            gets: get(&self.gets),
            put_bytes: get(&self.put_bytes),
            puts: get(&self.puts),
            served_bytes: get(&self.served_bytes),
            served: get(&self.served),
            errors: get(&self.errors),
        }
    }
}

/// All routes of one rank.
#[derive(Debug)]
pub(crate) struct Transfers {
    rank: u32,
    routes: Vec<RouteKind>,
    regions: Arc<Regions>,
    directory: Arc<Directory>,
    shm: Shm,
    verbs: Option<Arc<VerbsRoute>>,
    mpi: Option<Arc<MpiRoute>>,
    to_self: Traffic,
    by_shm: Traffic,
    peers: Arc<Peers>,
}

impl Transfers {
    pub(crate) fn new(
        routes: Vec<RouteKind>,
        regions: Arc<Regions>,
        directory: Arc<Directory>,
        (verbs, mpi): (Option<Arc<VerbsRoute>>, Option<Arc<MpiRoute>>),
    ) -> Self {
        let shm = Shm::new(regions.run(), directory.clone());
        let (to_self, by_shm) = Default::default();
        let peers = mpi.as_ref().map_or_else(|| Arc::new(Peers::new(directory.ranks())), |mpi| mpi.peers().clone());
        Self { rank: regions.rank(), routes, regions, directory, shm, verbs, mpi, to_self, by_shm, peers }
    }

    fn reaches(&self, route: RouteKind, peer: u32) -> bool {
        match route {
            RouteKind::SelfRank => peer == self.rank,
            RouteKind::Shm => self.directory.is_here(peer),
            RouteKind::Verbs => peer != self.rank && self.verbs.as_ref().is_some_and(|verbs| verbs.reaches(peer)),
            RouteKind::Mpi => self.mpi.is_some(),
        }
    }

    /// The route that a peer's blocks are reached by.
    pub(crate) fn route_to(&self, peer: u32) -> Option<RouteKind> {
        let refuses =
            |route| route == RouteKind::Verbs && self.verbs.as_ref().is_some_and(|verbs| verbs.refusal(peer).is_some());
        self.routes.iter().copied().find(|&route| self.reaches(route, peer) && !refuses(route))
    }

    pub(crate) fn mpi(&self) -> Option<&Arc<MpiRoute>> {
        self.mpi.as_ref()
    }

    pub(crate) fn verbs(&self) -> Option<&Arc<VerbsRoute>> {
        self.verbs.as_ref()
    }

    pub(crate) fn traffic(&self) -> Vec<TrafficInfo> {
        let counts = |&route: &RouteKind| match route {
            RouteKind::SelfRank => Some(self.to_self.info(route)),
            RouteKind::Shm => Some(self.by_shm.info(route)),
            RouteKind::Verbs => self.verbs.as_ref().map(|verbs| verbs.traffic().info(route)),
            RouteKind::Mpi => self.mpi.as_ref().map(|mpi| mpi.traffic().info(route)),
        };
        self.routes.iter().filter_map(counts).collect()
    }

    /// What passed between this rank and each that it talked to.
    pub(crate) fn talked_to(&self) -> Vec<PeerTraffic> {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let info = |(rank, peer): (u32, &Peer)| {
            let route = self.route_to(rank);
            let state = match route {
                Some(RouteKind::SelfRank) => "own memory",
                Some(RouteKind::Shm) if self.shm.is_open(rank) => "mapped",
                Some(RouteKind::Mpi) => "messages",
                _ => "not opened",
            };
            PeerTraffic {
                rank,
                host: self.directory.host_name(rank).to_owned(),
                route: route.map_or_else(|| "none".to_owned(), |route| route.to_string()),
                state: state.to_owned(),
                get_bytes: get(&peer.get_bytes),
                gets: get(&peer.gets),
                put_bytes: get(&peer.put_bytes),
                puts: get(&peer.puts),
                errors: get(&peer.errors),
                latency: peer.latency(),
            }
        };
        self.peers.talked_to().map(info).collect()
    }

    /// What can be said of a handle without asking its owner.
    fn admit(&self, handle: &RemoteHandle) -> Result<()> {
        memory::not_in_forked_child()?;
        handle.check()?;
        if handle.run() != self.regions.run() || handle.rank() >= self.directory.ranks() {
            return Err(HandleFault::OtherRun.into());
        }
        Ok(())
    }

    fn no_route(&self, peer: u32, tried: &[String]) -> Error {
        let allowed: Vec<String> = self.routes.iter().map(RouteKind::to_string).collect();
        let mut reason = format!("no allowed route reaches it (lunasa.routes: {})", allowed.join(", "));
        for why in tried {
            reason = format!("{reason}; {why}");
        }
        Error::Transfer { peer, reason }
    }

    /// Moves `local.len` bytes between `offset` of the handle's section and `local`, and waits for it.
    ///
    /// # Safety
    /// `local` is valid for reads, and for a get also for writes, and nobody else uses it meanwhile but to read in a put.
    pub(crate) unsafe fn transfer(
        &self,
        direction: Direction,
        handle: &RemoteHandle,
        offset: u64,
        local: Local,
    ) -> Result<()> {
        // SAFETY: the caller's promise; waiting ends only when the memory is not used any more.
        match unsafe { self.start(direction, handle, offset, local, None) }? {
            None => Ok(()),
            Some(operation) => operation.wait().map(drop),
        }
    }

    /// Begins to move bytes as [`Transfers::transfer`] does. `None`: it is done already. `keep` lives until it is done.
    ///
    /// # Safety
    /// As for `transfer`, until the operation is done.
    pub(crate) unsafe fn start(
        &self,
        direction: Direction,
        handle: &RemoteHandle,
        offset: u64,
        local: Local,
        mut keep: Option<Ldo>,
    ) -> Result<Option<Operation>> {
        self.admit(handle)?;
        if direction == Direction::Put {
            handle.check_put(offset, local.len as u64)?;
        }
        let peer = handle.rank();
        let counts = self.peers.of(peer);
        let began = counts.and_then(Peer::begin);
        let mut tried = Vec::new();
        for &route in self.routes.iter().filter(|&&route| self.reaches(route, peer)) {
            let (done, traffic) = match route {
                RouteKind::SelfRank => {
                    // SAFETY: the caller's promise.
                    let done = unsafe { local::copy(&self.regions, direction, handle, offset, local) };
                    (done, &self.to_self)
                }
                RouteKind::Shm => {
                    // SAFETY: the caller's promise.
                    let done = unsafe { self.shm.copy(direction, handle, offset, local) };
                    (done, &self.by_shm)
                }
                RouteKind::Verbs => {
                    let Some(verbs) = &self.verbs else { continue };
                    // SAFETY: the caller's promise.
                    match unsafe { verbs.start(direction, handle, offset, local, &mut keep) }? {
                        Ok(operation) => return Ok(Some(Operation::Verbs(operation))),
                        Err(why) => tried.push(format!("{route}: {why}")),
                    }
                    continue;
                }
                RouteKind::Mpi => {
                    let Some(mpi) = &self.mpi else { continue };
                    // SAFETY: the caller's promise.
                    let operation = unsafe { mpi.start(direction, handle, offset, local, keep) }?;
                    return Ok(Some(Operation::Mpi(operation)));
                }
            };
            match done {
                Ok(Outcome::Done) => {
                    traffic.count(direction, local.len);
                    counts.inspect(|counts| counts.count(direction, local.len, began));
                    return Ok(None);
                }
                Ok(Outcome::Unreachable(why)) => tried.push(format!("{route}: {why}")),
                Err(error) => {
                    traffic.count_error();
                    counts.inspect(|counts| counts.count_error());
                    return Err(error);
                }
            }
        }
        Err(self.no_route(peer, &tried))
    }

    /// A peer's object as it lies in that peer's memory.
    pub(crate) fn view(&self, handle: &RemoteHandle) -> Result<View> {
        self.admit(handle)?;
        if handle.rank() == self.rank {
            return local::view(&self.regions, handle);
        }
        if !self.routes.contains(&RouteKind::Shm) {
            let reason = "views take the shm route, which lunasa.routes does not allow: fetch the object".to_owned();
            return Err(Error::Transfer { peer: handle.rank(), reason });
        }
        if !self.directory.is_here(handle.rank()) {
            let host = self.directory.host_name(handle.rank());
            let reason = format!("it is on another host ({host}): only objects on this host can be viewed; fetch it");
            return Err(Error::Transfer { peer: handle.rank(), reason });
        }
        self.shm.view(handle)
    }
}

/// The object is alive and as the handle says. One without references is kept only for transfers that began before it was
/// dropped.
fn check_alive(head: &Head, handle: &RemoteHandle) -> Result<()> {
    let why = if !head.life.is(handle.tag()) {
        "the object was dropped by its owner"
    } else if head.shape() != handle.shape() {
        "the object was resized or given another type since"
    } else {
        return Ok(());
    };
    Err(HandleFault::Stale(why.to_owned()).into())
}

/// Reads bytes as each of the messages that ranks send each other.
pub fn read_messages(bytes: &[u8]) {
    mpi::read_messages(bytes);
    verbs::read_note(bytes);
}
