//! The owner's side of the `mpi` route: asks are checked here, where the memory is, and served from it without a copy.

use std::collections::VecDeque;

use super::super::Direction;
use super::MpiRoute;
use super::wire::{self, Ask, INLINE, Pieces};
use crate::comm::{Comm, Pending};
use crate::error::{HandleFault, Result};
use crate::memory;
use crate::object::PinnedObject;
use crate::registrar::Regions;

/// Asks taken from MPI in one go, so that what is under way gets its turn.
const AT_ONCE: usize = 64;

/// Everything that is being served.
#[derive(Debug, Default)]
pub(super) struct Server {
    serving: Vec<Serve>,
}

/// One ask being served.
#[derive(Debug)]
struct Serve {
    to: u32,
    slot: u32,
    direction: Direction,
    /// Kept alive while its memory is sent from or received into.
    object: Option<PinnedObject>,
    pieces: Pieces,
    flying: VecDeque<Pending>,
    /// Where the pieces of a refused put go.
    scratch: Vec<u8>,
    /// To be sent when a put's pieces are there.
    answer: Option<Vec<u8>>,
    reply: Option<(Vec<u8>, Pending)>,
}

impl Server {
    pub(super) fn is_idle(&self) -> bool {
        self.serving.is_empty()
    }

    /// Takes new asks and moves on what is under way; whether anything happened.
    pub(super) fn step(&mut self, route: &MpiRoute) -> Result<bool> {
        let mut busy = false;
        for _ in 0..AT_ONCE {
            let Some((envelope, message)) = route.comm.poll(wire::ASK)? else { break };
            busy = true;
            match Ask::read(&message) {
                Some((ask, data)) => self.serving.push(Serve::begin(route, envelope.source, &ask, data)?),
                None if route.listener().is_some_and(|verbs| verbs.take_note(envelope.source, &message)) => {}
                None => tracing::error!(
                    "rank {} sent {} bytes that are no request; ignored",
                    envelope.source,
                    message.len()
                ),
            }
        }
        let mut at = 0;
        while at < self.serving.len() {
            let (moved, done) = self.serving[at].step(route)?;
            busy |= moved;
            if done {
                drop(self.serving.swap_remove(at));
            } else {
                at += 1;
            }
        }
        Ok(busy)
    }
}

/// The object and the range of it that an ask names, if the ask may have it.
fn admit(regions: &Regions, ask: &Ask) -> Result<(PinnedObject, [(*mut u8, usize); 2])> {
    let handle = &ask.handle;
    handle.check()?;
    if handle.run() != regions.run() || handle.rank() != regions.rank() {
        return Err(HandleFault::OtherRun.into());
    }
    if ask.direction() == Direction::Put {
        handle.check_put(ask.offset, ask.len)?;
    }
    let object = PinnedObject::acquire(regions, handle)?;
    let ranges = object.ranges(handle, ask.offset, ask.len)?;
    Ok((object, ranges))
}

impl Serve {
    fn begin(route: &MpiRoute, to: u32, ask: &Ask, data: &[u8]) -> Result<Self> {
        let none = [(std::ptr::null_mut(), 0); 2];
        let mut serve = Self {
            to,
            slot: ask.slot(),
            direction: ask.direction(),
            object: None,
            pieces: Pieces::new(none, 1),
            flying: VecDeque::new(),
            scratch: Vec::new(),
            answer: None,
            reply: None,
        };
        let (small, piece) = (ask.len <= INLINE as u64, ask.piece as usize);
        match admit(&route.regions, ask) {
            Err(error) => {
                route.traffic.count_error();
                serve.answer = Some(wire::failure(&error));
                if serve.direction == Direction::Put && !small {
                    // The pieces are on their way: let them arrive somewhere. They are cut at the object's parts, whose
                    // sizes the handle tells; one that does not tell any was refused by the sender already.
                    let [first, second] = ask.handle.locate(ask.offset, ask.len)?;
                    serve.scratch = vec![0; piece.min(ask.len as usize)];
                    let at = serve.scratch.as_mut_ptr();
                    serve.pieces = Pieces::new([(at, first.len as usize), (at, second.len as usize)], piece);
                }
            }
            Ok((object, ranges)) => {
                route.traffic.count_served(ask.len as usize);
                let mut answer = wire::success();
                match serve.direction {
                    Direction::Get if small => gather(&ranges, &mut answer),
                    Direction::Put if small => {
                        if data.len() as u64 == ask.len {
                            scatter(&ranges, data);
                        } else {
                            let why = format!("{} bytes came with a put of {}", data.len(), ask.len);
                            answer = wire::failure(&HandleFault::Malformed(why).into());
                        }
                    }
                    _ => {
                        serve.pieces = Pieces::new(ranges, piece);
                        serve.object = Some(object);
                    }
                }
                serve.answer = Some(answer);
            }
        }
        if serve.direction == Direction::Get {
            serve.send_answer(&route.comm)?;
        }
        serve.post(route)?;
        Ok(serve)
    }

    fn send_answer(&mut self, comm: &Comm) -> Result<()> {
        if let Some(answer) = self.answer.take() {
            // SAFETY: the buffer is on the heap and kept until the send is done.
            let send = unsafe { comm.send_start(answer.as_ptr(), answer.len(), self.to, wire::reply(self.slot)) }?;
            self.reply = Some((answer, send));
        }
        Ok(())
    }

    fn post(&mut self, route: &MpiRoute) -> Result<()> {
        let refused = !self.scratch.is_empty();
        while self.flying.len() < route.window
            && let Some((mut at, len)) = self.pieces.next()
        {
            if refused {
                at = self.scratch.as_mut_ptr();
            }
            // SAFETY: memory of the pinned object, or the scratch, which is as long as the longest piece; both stay until
            // all pieces are through.
            self.flying.push_back(unsafe {
                match self.direction {
                    Direction::Get => route.comm.send_start(at, len, self.to, wire::from_peer(self.slot))?,
                    Direction::Put => route.comm.receive_start(at, len, self.to, wire::to_peer(self.slot))?,
                }
            });
        }
        Ok(())
    }

    /// Whether anything moved, and whether all is done.
    fn step(&mut self, route: &MpiRoute) -> Result<(bool, bool)> {
        let mut moved = false;
        while let Some(oldest) = self.flying.front_mut()
            && oldest.test()?.is_some()
        {
            self.flying.pop_front();
            self.post(route)?;
            moved = true;
        }
        let through = self.flying.is_empty() && self.pieces.is_empty();
        if through {
            self.object = None;
            self.send_answer(&route.comm)?;
        }
        if let Some((_, send)) = &mut self.reply
            && send.test()?.is_some()
        {
            self.reply = None;
            moved = true;
        }
        Ok((moved, through && self.reply.is_none()))
    }
}

fn gather(ranges: &[(*mut u8, usize); 2], into: &mut Vec<u8>) {
    for &(at, len) in ranges {
        let start = into.len();
        into.resize(start + len, 0);
        // SAFETY: room was made; the range is of a pinned object.
        unsafe { memory::copy(at, into.as_mut_ptr().add(start), len) };
    }
}

/// Puts `data` into the ranges, whose lengths add up to its own.
fn scatter(ranges: &[(*mut u8, usize); 2], data: &[u8]) {
    let (first, second) = data.split_at(ranges[0].1);
    for (&(at, len), data) in ranges.iter().zip([first, second]) {
        debug_assert_eq!(len, data.len());
        // SAFETY: the range is of a pinned object, and as long as its part of the data.
        unsafe { memory::copy(data.as_ptr(), at, data.len()) };
    }
}
