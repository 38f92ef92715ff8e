//! The connections of one rank, and what is under way on each. Everything here happens under the route's lock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::Device;
use super::breach::Breach;
use super::handshake::{self, End, Handshake, Word};
use super::staging::Staging;
use super::task::{Ended, Next, Piece, Progress, Task};
use crate::error::{Error, Result};
use crate::transfer::mpi::MpiRoute;
use crate::verbs::{BATCH, Completion, CompletionQueue, QueuePair, WorkRequest};

/// Room in the queue of completions, for all connections; as many again may be left of connections that broke.
const ROOM: usize = 4096;
/// Every so many pieces of a long list are told of, so that their slots are free sooner.
const TELL_EVERY: usize = 4;
/// Connections that may break under one request through no fault of its own.
const PATIENCE: u8 = 50;

/// This rank's end of a connection. Its number is in the id of each of its work requests.
struct Own {
    number: u32,
    end: End,
    queue_pair: QueuePair,
    /// The number of the next work request.
    next: u32,
    posted: VecDeque<Posted>,
}

struct Posted {
    number: u32,
    task: usize,
    piece: Piece,
}

#[derive(Default)]
struct Peer {
    handshake: Handshake,
    own: Option<Own>,
    /// Tasks that have something to hand to the device, in order.
    waiting: VecDeque<usize>,
    /// Why it takes no connection.
    refusal: Option<String>,
}

/// See the module.
pub(super) struct Engine {
    // Connections go first: after that the device uses nothing of the rest.
    peers: HashMap<u32, Peer>,
    /// The peers by the numbers of the ends that live.
    by_end: HashMap<u32, u32>,
    ends: u32,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    /// Work requests that may still be posted.
    room: usize,
    /// Peers with tasks that wait for room or slots, and those with tasks that wait for a connection.
    blocked: BTreeSet<u32>,
    late: BTreeSet<u32>,
    staging: Staging,
    cq: Arc<CompletionQueue>,
    device: Arc<Device>,
    mpi: Arc<MpiRoute>,
    has_refusals: bool,
    /// To be dropped after the lock was released.
    ended: Vec<Ended>,
}

impl Engine {
    pub(super) fn new(device: Arc<Device>, mpi: Arc<MpiRoute>, name: &str) -> Result<Self> {
        let refused = |error| Error::Device(format!("{}: no queue of completions: {error}", device.name()));
        let cq = CompletionQueue::new(&device.domain, 2 * ROOM).map_err(refused)?;
        let staging = Staging::new(&device.domain, name)?;
        let room = cq.capacity() / 2;
        let (peers, by_end, ends, tasks, free, blocked, late, has_refusals, ended) = Default::default();
        Ok(Self {
            peers,
            by_end,
            ends,
            tasks,
            free,
            room,
            blocked,
            late,
            staging,
            cq,
            device,
            mpi,
            has_refusals,
            ended,
        })
    }

    /// What has ended since this was asked, to be dropped without the lock.
    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Whether tasks wait for a peer to answer.
    pub(super) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Whether nothing is under way, nor a connection being made.
    pub(super) fn is_idle(&self) -> bool {
        let settled = |peer: &Peer| peer.own.is_none() || peer.handshake.is_whole();
        !self.is_at_work() && self.peers.values().all(settled)
    }

    /// Whether any peer takes no connection.
    pub(super) fn has_refusals(&self) -> bool {
        self.has_refusals
    }

    /// Why a peer takes no connection, if it said so.
    pub(super) fn refusal(&self, rank: u32) -> Option<&str> {
        self.peers.get(&rank)?.refusal.as_deref()
    }

    /// Whether anything is under way.
    pub(super) fn is_at_work(&self) -> bool {
        self.free.len() < self.tasks.len()
    }

    /// Takes a task, after [`Engine::connect`] to its peer.
    pub(super) fn begin(&mut self, task: Task) {
        let rank = task.peer;
        let id = match self.free.pop() {
            Some(id) => {
                self.tasks[id] = Some(task);
                id
            }
            None => {
                self.tasks.push(Some(task));
                self.tasks.len() - 1
            }
        };
        self.peer(rank).waiting.push_back(id);
        self.pump(rank);
    }

    /// Asks for a connection, if there is none and none is being made. The reason when there can be none.
    pub(super) fn connect(&mut self, rank: u32) -> Result<(), String> {
        let peer = self.peers.entry(rank).or_default();
        if let Some(why) = &peer.refusal {
            return Err(why.clone());
        }
        if peer.handshake == Handshake::Idle {
            let end = self.renew(rank)?;
            self.peer(rank).handshake = Handshake::Asking;
            self.mpi.note(rank, handshake::write(Word::Ask, Some(end), None, ""));
        }
        Ok(())
    }

    fn peer(&mut self, rank: u32) -> &mut Peer {
        self.peers.entry(rank).or_default()
    }

    /// A new end for that peer, instead of the one there was.
    fn renew(&mut self, rank: u32) -> Result<End, String> {
        self.ends += 1;
        let number = self.ends;
        let queue_pair = QueuePair::new(&self.cq, &self.device.port, self.device.depth, rand::random())
            .map_err(|error| format!("{}: no end for a connection: {error}", self.device.name()))?;
        let end = End::new(number.into(), &queue_pair.address());
        self.by_end.insert(number, rank);
        self.peer(rank).own = Some(Own { number, end, queue_pair, next: 0, posted: VecDeque::new() });
        Ok(end)
    }

    /// Takes a note of a peer's.
    pub(super) fn take_note(&mut self, rank: u32, (word, theirs, yours, reason): (Word, End, End, String)) {
        // What succeeded is taken in before an end goes.
        self.poll();
        let own = self.peer(rank).own.as_ref().map(|own| own.end);
        if word == Word::Refuse {
            if own == Some(yours) {
                self.peer(rank).handshake = Handshake::Idle;
                self.refuse(rank, format!("rank {rank}: {reason}"));
            }
            return;
        }
        let step = self.peer(rank).handshake.take(word, theirs, yours, own);
        if step.renew {
            self.end_connection(rank, None);
        }
        let made = if step.renew { self.renew(rank).map(drop) } else { Ok(()) };
        let connected = made.and_then(|()| self.join(rank, step.connect));
        match connected {
            Err(why) => self.refuse(rank, why),
            Ok(()) => {
                let own = self.peer(rank).own.as_ref().map(|own| own.end);
                if let Some(word) = step.say {
                    self.mpi.note(rank, handshake::write(word, own, Some(theirs), ""));
                }
                self.pump(rank);
            }
        }
    }

    fn join(&mut self, rank: u32, to: Option<End>) -> Result<(), String> {
        let patience = self.device.patience;
        let own = self.peer(rank).own.as_ref();
        let (Some(own), Some(to)) = (own, to) else { return Ok(()) };
        own.queue_pair.connect(&to.address(), patience).map_err(|error| {
            let gid = std::net::Ipv6Addr::from(to.address().gid);
            format!("no connection to GID {gid}, LID {}: {error}", to.address().lid)
        })
    }

    /// No connection with that peer is possible: what waits for one fails, and other routes serve from here on.
    fn refuse(&mut self, rank: u32, why: String) {
        tracing::warn!("verbs: {why}; other routes serve rank {rank}");
        if let Handshake::Half(theirs) | Handshake::Whole(theirs) = self.peer(rank).handshake {
            self.mpi.note(rank, handshake::write(Word::Refuse, None, Some(theirs), &why));
        }
        self.end_connection(rank, None);
        self.fail_waiting(rank, &why);
        let peer = self.peer(rank);
        (peer.handshake, peer.refusal) = (Handshake::Idle, Some(why));
        self.has_refusals = true;
    }

    fn fail_waiting(&mut self, rank: u32, why: &str) {
        for id in std::mem::take(&mut self.peer(rank).waiting) {
            if let Some(task) = &mut self.tasks[id] {
                task.fail(Error::Transfer { peer: rank, reason: why.to_owned() });
            }
            self.end_task(id);
        }
        self.late.remove(&rank);
        self.blocked.remove(&rank);
    }

    /// Hands to the device what there is room for.
    fn pump(&mut self, rank: u32) {
        while self.post_some(rank) {}
        let peer = self.peer(rank);
        let (waits, connected) = (!peer.waiting.is_empty(), peer.handshake.is_whole());
        for (set, belongs) in [(&mut self.late, waits && !connected), (&mut self.blocked, waits && connected)] {
            if belongs {
                set.insert(rank)
            } else {
                set.remove(&rank)
            };
        }
    }

    /// One list of work requests; whether there may be more.
    fn post_some(&mut self, rank: u32) -> bool {
        let Self { peers, tasks, staging, room, device, .. } = self;
        let Some(peer) = peers.get_mut(&rank).filter(|peer| peer.handshake.is_whole()) else { return false };
        let Some(own) = &mut peer.own else { return false };
        let inline = own.queue_pair.inline() as usize;
        let mut list = ArrayVec::<WorkRequest, BATCH>::new();
        let mut last_task = None;
        while !list.is_full() && own.posted.len() < device.depth && *room > 0 {
            let Some(&id) = peer.waiting.front() else { break };
            let Some(task) = &mut tasks[id] else {
                peer.waiting.pop_front();
                continue;
            };
            let Next::Post(request, piece) = task.next(staging, device.piece, inline) else { break };
            // The last of each task in a list is told of, since what came before it is done then as well.
            if last_task != Some(id)
                && let Some(before) = list.last_mut()
            {
                before.signaled = true;
            }
            last_task = Some(id);
            let signaled = list.len() % TELL_EVERY == TELL_EVERY - 1;
            let wr_id = u64::from(own.number) << 32 | u64::from(own.next);
            list.push(WorkRequest { id: wr_id, signaled, ..request });
            own.posted.push_back(Posted { number: own.next, task: id, piece });
            own.next = own.next.wrapping_add(1);
            *room -= 1;
            if let Piece::Head = piece {
                peer.waiting.pop_front();
            }
        }
        let Some(last) = list.last_mut() else { return false };
        last.signaled = true;
        // SAFETY: memory of a task, which lives until its requests are done or the queue pair is dropped, and is registered
        // in the device's domain meanwhile; or the staging's.
        let posted = unsafe { own.queue_pair.post(&list) };
        if let Err(error) = posted {
            let why = format!("the device takes no more work requests: {error}");
            self.break_connection(rank, None, &Breach::All(why));
            return false;
        }
        list.is_full()
    }

    /// Takes in what the device has done; whether that was anything.
    pub(super) fn poll(&mut self) -> bool {
        let mut found = ArrayVec::<Completion, 16>::new();
        let cq = self.cq.clone();
        let mut any = false;
        loop {
            found.clear();
            let count = cq.poll(|completion| found.push(completion));
            match count {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!("verbs: {}: {error}", self.device.name());
                    break;
                }
            }
            any = true;
            for completion in &found {
                self.completed(completion);
            }
        }
        if any {
            for rank in std::mem::take(&mut self.blocked) {
                self.pump(rank);
            }
        }
        any
    }

    fn completed(&mut self, completion: &Completion) {
        // One of an end that is no more was accounted for when that went.
        let Some(&rank) = self.by_end.get(&((completion.id >> 32) as u32)) else { return };
        let number = completion.id as u32;
        loop {
            let Some(own) = &mut self.peer(rank).own else { return };
            if own.posted.front().is_none_or(|posted| posted.number == number && !completion.status.is_success()) {
                break;
            }
            let Some(posted) = own.posted.pop_front() else { return };
            self.room += 1;
            let Some(task) = &mut self.tasks[posted.task] else { continue };
            match task.done(&mut self.staging, posted.piece) {
                Progress::Over => self.end_task(posted.task),
                Progress::More => {
                    self.peer(rank).waiting.push_front(posted.task);
                    self.blocked.insert(rank);
                }
                Progress::Some => {}
            }
            if posted.number == number {
                break;
            }
        }
        if !completion.status.is_success() {
            let task = self.peer(rank).own.as_ref().and_then(|own| own.posted.front()).map(|posted| posted.task);
            let breach = Breach::of(rank, completion.status, self.device.patience);
            self.break_connection(rank, task, &breach);
        }
    }

    /// Ends a connection that broke, fails what the breach says, and asks for another.
    fn break_connection(&mut self, rank: u32, culprit: Option<usize>, breach: &Breach) {
        tracing::debug!("verbs: the connection to rank {rank} broke: {breach:?}");
        if let (Some(task), Breach::One(error)) = (culprit.and_then(|id| self.tasks[id].as_mut()), breach) {
            task.fail(error.clone());
        }
        let all = if let Breach::All(why) = breach { Some(why.as_str()) } else { None };
        self.end_connection(rank, all);
        let before = std::mem::take(&mut self.peer(rank).handshake);
        if let Err(why) = self.connect(rank) {
            self.peer(rank).handshake = before;
            self.refuse(rank, why);
        }
        self.pump(rank);
    }

    /// Ends this rank's end. What was under way on it fails when `why` is given, else it waits for another connection.
    fn end_connection(&mut self, rank: u32, why: Option<&str>) {
        let Some(own) = self.peer(rank).own.take() else { return };
        let Own { number, queue_pair, posted, .. } = own;
        self.by_end.remove(&number);
        // The device uses nothing of it any more.
        drop(queue_pair);
        self.room += posted.len();
        let mut under_way: Vec<usize> = Vec::new();
        for Posted { task: id, piece, .. } in posted {
            if let Some(task) = &mut self.tasks[id] {
                task.lost(&mut self.staging, piece);
                if !under_way.contains(&id) {
                    under_way.push(id);
                }
            }
        }
        let waiting = std::mem::take(&mut self.peer(rank).waiting);
        under_way.extend(waiting.into_iter().filter(|id| !under_way.contains(id)).collect::<Vec<_>>());
        for id in under_way {
            let Some(task) = &mut self.tasks[id] else { continue };
            if let Some(why) = why {
                task.fail(Error::Transfer { peer: rank, reason: why.to_owned() });
            } else if !task.is_failed() && task.was_begun() && task.restart() > PATIENCE {
                let reason = format!("the connection broke {PATIENCE} times under it, each time for another request");
                task.fail(Error::Transfer { peer: rank, reason });
            }
            if task.is_failed() { self.end_task(id) } else { self.peer(rank).waiting.push_back(id) }
        }
    }

    fn end_task(&mut self, id: usize) {
        if let Some(task) = self.tasks[id].take() {
            let ended = task.end(&mut self.staging);
            self.free.push(id);
            self.ended.push(ended);
        }
    }

    /// Fails what has waited for a connection longer than `limit`.
    pub(super) fn give_up(&mut self, limit: Duration) {
        let now = Instant::now();
        for rank in self.late.clone() {
            let tasks = &self.tasks;
            let late =
                |id: &usize| tasks[*id].as_ref().is_some_and(|task| now.saturating_duration_since(task.since) >= limit);
            if self.peers.get(&rank).and_then(|peer| peer.waiting.front()).is_some_and(late) {
                let why = format!(
                    "it did not answer within {limit:?} (lunasa.verbs.connect_timeout) when asked to connect; is it alive, \
                     and does it call Lunasa now and then (lunasa.mpi.progress)?"
                );
                self.fail_waiting(rank, &why);
            }
        }
    }

    /// Ends every connection; what is under way fails.
    pub(super) fn close(&mut self) {
        for rank in self.peers.keys().copied().collect::<Vec<_>>() {
            let closed = "Lunasa was closed before it was done";
            self.end_connection(rank, Some(closed));
            self.fail_waiting(rank, closed);
        }
    }
}
