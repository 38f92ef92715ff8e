//! One transfer by RDMA: which pieces it is made of, and what its peer's head must say.
//!
//! A get reads its bytes and then the head, in that order; it is good when the head says that the object is still the one
//! that the handle names. A put first reads the head, and writes only to an object that is there; then the head once more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::staging::{SLOT, Staging};
use crate::error::{Error, HandleFault, Result};
use crate::memory;
use crate::object::{HEAD, Ldo, Part, RemoteHandle};
use crate::transfer::{Direction, Local, check_alive};
use crate::verbs::{Kind, MemoryRegion, WorkRequest};

/// What the waiting side looks at.
#[derive(Default)]
pub(super) struct Ending {
    done: AtomicBool,
    outcome: Mutex<Option<Result<Option<Ldo>>>>,
}

impl Ending {
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Option<Result<Option<Ldo>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, outcome: Result<Option<Ldo>>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.done.store(true, Ordering::Release);
    }
}

/// By what the device knows the memory here.
pub(super) enum Access {
    /// It is registered already.
    Known(u32),
    /// It is for the time of this transfer.
    Temporary(MemoryRegion),
    /// It is not: the bytes pass through slots.
    Slots,
}

/// A transfer under way.
pub(super) struct Task {
    pub peer: u32,
    pub ending: Arc<Ending>,
    /// Begun when the peer was not connected; no request may wait for that for ever.
    pub since: Instant,
    direction: Direction,
    local: Local,
    access: Access,
    handle: RemoteHandle,
    parts: [Part; 2],
    keep: Option<Ldo>,
    cell: Option<u32>,
    stage: Stage,
    /// Bytes handed to the device.
    posted: u64,
    /// Work requests that the device has not answered yet.
    flying: u32,
    /// Connections that broke under it.
    broken: u8,
    fault: Option<Error>,
}

/// What is to be handed to the device next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The head, before a put.
    Look,
    /// Nothing until that has come.
    Looking,
    /// The bytes, then the head.
    Move,
    /// All was.
    Moved,
}

/// A work request that was handed to the device, as its completion needs it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    Head,
    /// Bytes, by themselves or through a slot: address, length.
    Bytes(Option<(u32, *mut u8, usize)>),
}

// SAFETY: a description of memory, which is used by whoever holds the task.
unsafe impl Send for Piece {}

/// What comes next of a task.
pub(super) enum Next {
    Post(WorkRequest, Piece),
    /// Nothing, before something of this or of others is done.
    Blocked,
}

impl Task {
    /// # Errors
    /// [`Error::Handle`] when the range is not within the handle's section, or no object can be where it says.
    pub(super) fn new(
        (direction, local): (Direction, Local),
        handle: &RemoteHandle,
        offset: u64,
        access: Access,
    ) -> Result<Self> {
        let parts = handle.locate(offset, local.len as u64)?;
        if !handle.head().address.is_multiple_of(HEAD as u64) {
            return Err(HandleFault::Malformed("the object's address is not aligned".to_owned()).into());
        }
        let stage = Self::first(direction);
        let (ending, since, peer) = (Arc::default(), Instant::now(), handle.rank());
        let (keep, cell, posted, flying, broken, fault) = (None, None, 0, 0, 0, None);
        let handle = *handle;
        Ok(Self {
            peer,
            ending,
            since,
            direction,
            local,
            access,
            handle,
            parts,
            keep,
            cell,
            stage,
            posted,
            flying,
            broken,
            fault,
        })
    }

    /// An object to be kept until it has ended.
    pub(super) fn keep(&mut self, object: Option<Ldo>) {
        self.keep = object;
    }

    fn first(direction: Direction) -> Stage {
        if direction == Direction::Put { Stage::Look } else { Stage::Move }
    }

    /// The next work request, of at most `most` bytes; writes of at most `inline` need no registered memory. After the one
    /// for the head comes none, until that is done.
    pub(super) fn next(&mut self, staging: &mut Staging, most: usize, inline: usize) -> Next {
        match self.stage {
            Stage::Looking | Stage::Moved => return Next::Blocked,
            Stage::Look => return self.look(staging, Stage::Looking),
            Stage::Move if self.posted == self.local.len as u64 => return self.look(staging, Stage::Moved),
            Stage::Move => {}
        }
        let [first, second] = &self.parts;
        let (part, from) = if self.posted < first.len { (first, 0) } else { (second, first.len) };
        let within = self.posted - from;
        let through = matches!(self.access, Access::Slots);
        let len = (part.len - within).min(if through { most.min(SLOT) } else { most } as u64) as usize;
        // SAFETY: within the program's memory: the parts' lengths add up to its own.
        let at = unsafe { self.local.at.add(self.posted as usize) };
        let writes = self.direction == Direction::Put;
        let (local, key, slot) = match &self.access {
            Access::Known(key) => (at, *key, None),
            Access::Temporary(region) => (at, region.local_key(), None),
            Access::Slots if writes && len <= inline => (at, 0, None),
            Access::Slots => {
                let Some(slot) = staging.take_slot() else { return Next::Blocked };
                let through = staging.slot(slot).as_ptr();
                if writes {
                    // SAFETY: the program's memory is readable, and a slot has room for `len` bytes.
                    unsafe { memory::copy(at, through, len) };
                }
                (through, staging.key(), Some((slot, at, len)))
            }
        };
        self.posted += len as u64;
        self.flying += 1;
        let request = WorkRequest {
            id: 0,
            kind: if writes { Kind::Write } else { Kind::Read },
            local: local.expose_provenance() as u64,
            key,
            len: len as u32,
            remote: part.address + within,
            remote_key: part.key,
            signaled: false,
        };
        Next::Post(request, Piece::Bytes(slot))
    }

    /// Reads the head.
    fn look(&mut self, staging: &mut Staging, then: Stage) -> Next {
        let Some(cell) = self.cell.or_else(|| staging.take_cell()) else { return Next::Blocked };
        self.cell = Some(cell);
        self.stage = then;
        self.flying += 1;
        let (head, at) = (self.handle.head(), staging.cell(cell).as_ptr());
        let request = WorkRequest {
            id: 0,
            kind: Kind::Read,
            local: at.expose_provenance() as u64,
            key: staging.key(),
            len: HEAD as u32,
            remote: head.address,
            remote_key: head.key,
            signaled: false,
        };
        Next::Post(request, Piece::Head)
    }

    /// A work request of it was done.
    pub(super) fn done(&mut self, staging: &mut Staging, piece: Piece) -> Progress {
        self.flying -= 1;
        match (piece, self.cell) {
            (Piece::Bytes(Some((slot, at, len))), _) => {
                if self.direction == Direction::Get {
                    // SAFETY: the slot holds `len` bytes, for that much of the program's memory.
                    unsafe { memory::copy(staging.slot(slot).as_ptr(), at, len) };
                }
                staging.give_slot(slot);
            }
            (Piece::Head, Some(cell)) => {
                let during = self.stage == Stage::Moved;
                if let Err(error) = check_alive(staging.head(cell), &self.handle) {
                    self.fault.get_or_insert(match error {
                        Error::Handle(HandleFault::Stale(why)) if during && self.direction == Direction::Put => {
                            HandleFault::Stale(format!("{why} during the transfer")).into()
                        }
                        error => error,
                    });
                }
                if self.stage == Stage::Looking && self.fault.is_none() {
                    self.stage = Stage::Move;
                    return Progress::More;
                }
            }
            _ => {}
        }
        if self.flying == 0 && (self.fault.is_some() || self.stage == Stage::Moved) {
            Progress::Over
        } else {
            Progress::Some
        }
    }

    /// A work request of it will never be done.
    pub(super) fn lost(&mut self, staging: &mut Staging, piece: Piece) {
        self.flying -= 1;
        if let Piece::Bytes(Some((slot, ..))) = piece {
            staging.give_slot(slot);
        }
    }

    /// Begins anew on another connection; how many have broken under it.
    pub(super) fn restart(&mut self) -> u8 {
        debug_assert_eq!(self.flying, 0);
        (self.stage, self.posted, self.since) = (Self::first(self.direction), 0, Instant::now());
        self.broken += 1;
        self.broken
    }

    /// Whether anything of it was handed to the device.
    pub(super) fn was_begun(&self) -> bool {
        self.posted > 0 || self.stage != Self::first(self.direction)
    }

    pub(super) fn fail(&mut self, error: Error) {
        self.fault.get_or_insert(error);
    }

    pub(super) fn is_failed(&self) -> bool {
        self.fault.is_some()
    }

    /// Ends it, with its fault or well: nothing of it is used any more.
    pub(super) fn end(mut self, staging: &mut Staging) -> Ended {
        debug_assert_eq!(self.flying, 0);
        if let Some(cell) = self.cell.take() {
            staging.give_cell(cell);
        }
        // A registration for its time ends before anybody may give the memory back.
        drop(self.access);
        let (good, direction, len) = (self.fault.is_none(), self.direction, self.local.len);
        let (left, outcome) = match self.fault {
            None => (None, Ok(self.keep)),
            Some(error) => (self.keep, Err(error)),
        };
        self.ending.set(outcome);
        Ended { good, direction, len, _left: left, _ending: self.ending }
    }
}

/// What is left of a task. To be dropped where a function of the program's may run, which the end of an object may call.
pub(super) struct Ended {
    pub good: bool,
    pub direction: Direction,
    pub len: usize,
    _left: Option<Ldo>,
    _ending: Arc<Ending>,
}

/// How far a task is after one of its work requests was done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It waits for others.
    Some,
    /// It has more to hand to the device.
    More,
    Over,
}
