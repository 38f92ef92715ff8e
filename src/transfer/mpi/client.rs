//! The asking side of the `mpi` route.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::super::peers::Peer;
use super::super::{Direction, Local};
use super::wire::{self, Ask, INLINE, Pieces, REPLY};
use super::{Backoff, MpiRoute};
use crate::comm::{Comm, Pending};
use crate::error::{Error, Result};
use crate::memory;
use crate::object::{Ldo, RemoteHandle};

/// A request to a peer, under way.
pub(crate) struct Operation {
    route: Arc<MpiRoute>,
    exchange: Arc<Mutex<Exchange>>,
}

/// The messages of one request, and how far they are.
pub(super) struct Exchange {
    direction: Direction,
    peer: u32,
    slot: u32,
    local: Local,
    /// When it began, if it is timed.
    began: Option<Instant>,
    ask: Option<(Vec<u8>, Pending)>,
    reply: Option<(Box<[u8]>, Pending)>,
    pieces: Pieces,
    flying: VecDeque<Pending>,
    keep: Option<Ldo>,
    outcome: Option<Result<()>>,
    done: bool,
}

impl Exchange {
    /// Sends the ask, and posts the receives that its answer needs.
    ///
    /// # Safety
    /// As for [`super::super::Transfers::start`].
    pub(super) unsafe fn begin(
        route: &MpiRoute,
        slot: u32,
        direction: Direction,
        handle: &RemoteHandle,
        offset: u64,
        local: Local,
        keep: Option<Ldo>,
    ) -> Result<Self> {
        let [first, second] = handle.locate(offset, local.len as u64)?;
        let (comm, peer) = (&route.comm, handle.rank());
        let small = local.len <= INLINE;
        let parts = [(local.at, first.len as usize), (local.at.wrapping_add(first.len as usize), second.len as usize)];
        let parts = if small { [(local.at, 0); 2] } else { parts };
        let mut answer = vec![0u8; REPLY + INLINE].into_boxed_slice();
        // SAFETY: the buffer is on the heap and kept until the receive is done.
        let receive = unsafe { comm.receive_start(answer.as_mut_ptr(), answer.len(), peer, wire::reply(slot)) }?;
        let mut exchange = Self {
            direction,
            peer,
            slot,
            local,
            began: route.peers.of(peer).and_then(Peer::begin),
            ask: None,
            reply: Some((answer, receive)),
            pieces: Pieces::new(parts, route.piece),
            flying: VecDeque::new(),
            keep,
            outcome: None,
            done: false,
        };
        let mut ask = Ask::new(direction, slot, route.piece, offset, local.len, *handle).as_bytes().to_vec();
        if small && direction == Direction::Put {
            let start = ask.len();
            ask.resize(start + local.len, 0);
            // SAFETY: room was made behind the ask; the program's memory is readable for as much.
            unsafe { memory::copy(local.at, ask.as_mut_ptr().add(start), local.len) };
        }
        // A get's receives are there before the data can be.
        if direction == Direction::Get {
            exchange.post(comm, route.window)?;
        }
        // SAFETY: the buffer is on the heap and kept until the send is done.
        let send = unsafe { comm.send_start(ask.as_ptr(), ask.len(), peer, wire::ASK) }?;
        exchange.ask = Some((ask, send));
        exchange.post(comm, route.window)?;
        Ok(exchange)
    }

    /// Keeps up to `window` pieces in flight.
    fn post(&mut self, comm: &Comm, window: usize) -> Result<()> {
        while self.flying.len() < window
            && let Some((at, len)) = self.pieces.next()
        {
            // SAFETY: a piece of the program's memory, which stays until this exchange is done.
            self.flying.push_back(unsafe {
                match self.direction {
                    Direction::Get => comm.receive_start(at, len, self.peer, wire::from_peer(self.slot))?,
                    Direction::Put => comm.send_start(at, len, self.peer, wire::to_peer(self.slot))?,
                }
            });
        }
        Ok(())
    }

    fn read_reply(&mut self, message: &[u8]) -> Result<()> {
        let data = wire::read_reply(self.peer, message)?;
        let inline = self.direction == Direction::Get && self.local.len <= INLINE;
        if data.len() != if inline { self.local.len } else { 0 } {
            let reason = format!("its reply has {} bytes of data, not what was asked for", data.len());
            return Err(Error::Transfer { peer: self.peer, reason });
        }
        // SAFETY: the program's memory has `local.len` bytes, and nothing else when there is nothing to copy.
        unsafe { memory::copy(data.as_ptr(), self.local.at, data.len()) };
        Ok(())
    }

    /// Goes as far as it can without waiting; true once all is over.
    pub(super) fn advance(&mut self, route: &MpiRoute) -> bool {
        if self.done {
            return true;
        }
        match self.try_advance(route) {
            Ok(done) => self.done = done,
            Err(error) => {
                // MPI itself failed: it will not deliver into our memory any more.
                self.outcome = Some(Err(error));
                self.done = true;
            }
        }
        if self.done {
            let counts = route.peers.of(self.peer);
            if matches!(self.outcome, Some(Ok(()))) {
                route.traffic.count(self.direction, self.local.len);
                counts.inspect(|counts| counts.count(self.direction, self.local.len, self.began));
            } else {
                route.traffic.count_error();
                counts.inspect(|counts| counts.count_error());
            }
            route.give_slot(self.slot);
        }
        self.done
    }

    fn try_advance(&mut self, route: &MpiRoute) -> Result<bool> {
        let comm = &route.comm;
        if let Some((_, receive)) = &mut self.reply
            && let Some(envelope) = receive.test()?
            && let Some((message, _)) = self.reply.take()
        {
            let outcome = self.read_reply(&message[..envelope.len.min(message.len())]);
            if outcome.is_err() && self.direction == Direction::Get {
                // The owner sends no pieces: take back the receives that wait for them.
                self.pieces = Pieces::new([(self.local.at, 0); 2], 1);
                self.flying.iter_mut().try_for_each(Pending::cancel)?;
            }
            self.outcome = Some(outcome);
        }
        // Every look costs a turn of MPI's engine. The reply to a get comes before its pieces, and the ask is through
        // before the reply is there.
        if self.reply.is_some() && self.direction == Direction::Get {
            return Ok(false);
        }
        while let Some(oldest) = self.flying.front_mut()
            && oldest.test()?.is_some()
        {
            self.flying.pop_front();
            self.post(comm, route.window)?;
        }
        if self.reply.is_none()
            && let Some((_, send)) = &mut self.ask
            && send.test()?.is_some()
        {
            self.ask = None;
        }
        Ok(self.ask.is_none() && self.reply.is_none() && self.flying.is_empty() && self.pieces.is_empty())
    }
}

fn lock(exchange: &Mutex<Exchange>) -> MutexGuard<'_, Exchange> {
    exchange.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operation {
    pub(super) fn new(route: Arc<MpiRoute>, exchange: Arc<Mutex<Exchange>>) -> Self {
        Self { route, exchange }
    }

    /// Whether it is over. Never waits; serves others meanwhile.
    pub(crate) fn test(&self) -> bool {
        // In a forked child it has ended: nobody moves it on, and its lock may have been held when the process forked.
        if memory::in_forked_child() {
            return true;
        }
        if lock(&self.exchange).done {
            return true;
        }
        if !self.route.comm.may_call() {
            return false;
        }
        self.route.progress();
        lock(&self.exchange).done
    }

    /// Waits until it is over, but no longer than `limit`; whether it is.
    pub(crate) fn wait_until(&self, limit: Duration) -> bool {
        self.wait_with(Some(limit))
    }

    fn wait_with(&self, limit: Option<Duration>) -> bool {
        let start = Instant::now();
        let _waiting = self.route.waiting();
        let mut backoff = Backoff::default();
        while !self.test() {
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                return false;
            }
            backoff.pause();
        }
        true
    }

    /// Waits until it is over; its outcome, and the object that it kept.
    pub(crate) fn wait(self, limit: Option<Duration>) -> Result<Option<Ldo>> {
        self.wait_with(limit);
        memory::not_in_forked_child()?;
        let mut exchange = lock(&self.exchange);
        match exchange.outcome.take() {
            Some(Ok(())) => Ok(exchange.keep.take()),
            Some(Err(error)) => Err(error),
            None => {
                let reason = "the request ended without an outcome; this is a fault of Lunasa".to_owned();
                Err(Error::Transfer { peer: exchange.peer, reason })
            }
        }
    }
}
