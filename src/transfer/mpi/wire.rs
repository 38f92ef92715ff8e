//! What the two sides of the `mpi` route say to each other.
//!
//! The one that wants something sends an [`Ask`] under [`ASK`], to be followed by pieces of data under [`to_peer`] if it is
//! a large put; a small put's data come with it. The owner sends a [`Reply`] under [`reply`], with a small get's data or
//! with the words of an error, and a large get's pieces under [`from_peer`]. Pieces are cut at the borders of the object's
//! parts and at the size that the ask names. The slot in a tag belongs to one request of the asking rank at a time.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::Direction;
use crate::error::{Error, HandleFault, Result};
use crate::object::RemoteHandle;

/// Tag of every ask.
pub(super) const ASK: i32 = 1;
/// Most requests of one rank at one time. Three tags each stay under 32767, which every MPI has.
pub(super) const SLOTS: u32 = 8192;
/// Up to this many bytes travel in the ask or the reply itself.
pub(super) const INLINE: usize = 8192;

const MAGIC: u32 = u32::from_le_bytes(*b"LAS1");

pub(super) fn reply(slot: u32) -> i32 {
    2 + 3 * slot as i32
}

/// Tag of a get's pieces.
pub(super) fn from_peer(slot: u32) -> i32 {
    3 + 3 * slot as i32
}

/// Tag of a put's pieces.
pub(super) fn to_peer(slot: u32) -> i32 {
    4 + 3 * slot as i32
}

/// A request, as it travels.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Ask {
    magic: u32,
    direction: u32,
    slot: u32,
    pub unused: u32,
    pub piece: u64,
    pub offset: u64,
    pub len: u64,
    pub handle: RemoteHandle,
}

impl Ask {
    pub(super) fn new(
        direction: Direction,
        slot: u32,
        piece: usize,
        offset: u64,
        len: usize,
        handle: RemoteHandle,
    ) -> Self {
        let direction = u32::from(direction == Direction::Put);
        Self { magic: MAGIC, direction, slot, unused: 0, piece: piece as u64, offset, len: len as u64, handle }
    }

    /// The request in a message, and the data behind it. `None` when it cannot even be answered.
    pub(super) fn read(message: &[u8]) -> Option<(Self, &[u8])> {
        let (ask, data) = Self::read_from_prefix(message).ok()?;
        (ask.magic == MAGIC && ask.slot < SLOTS && ask.piece > 0 && ask.direction <= 1).then_some((ask, data))
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn direction(&self) -> Direction {
        if self.direction == 0 { Direction::Get } else { Direction::Put }
    }
}

/// How a request went, as it travels: 8 bytes, then data or words.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Reply {
    magic: u32,
    code: u32,
}

/// Bytes before the data of a small get.
pub(super) const REPLY: usize = size_of::<Reply>();

/// The message for a success, to which a small get's data may be added.
pub(super) fn success() -> Vec<u8> {
    Reply { magic: MAGIC, code: 0 }.as_bytes().to_vec()
}

/// The message for an error.
pub(super) fn failure(error: &Error) -> Vec<u8> {
    let (code, words) = match error {
        Error::Handle(HandleFault::Malformed(words)) => (1, words.clone()),
        Error::Handle(HandleFault::OtherRun) => (2, String::new()),
        Error::Handle(HandleFault::Stale(words)) => (3, words.clone()),
        Error::Handle(HandleFault::OutOfBounds(words)) => (4, words.clone()),
        Error::Handle(HandleFault::ReadOnly) => (5, String::new()),
        other => (6, other.to_string()),
    };
    let mut message = Reply { magic: MAGIC, code }.as_bytes().to_vec();
    message.extend_from_slice(&words.as_bytes()[..words.len().min(INLINE)]);
    message
}

/// Reads bytes as each of the messages.
pub(in crate::transfer) fn read_messages(bytes: &[u8]) {
    let _ = Ask::read(bytes);
    let _ = read_reply(0, bytes);
}

/// What a reply says: the data of a small get, or the error.
pub(super) fn read_reply(peer: u32, message: &[u8]) -> Result<&[u8]> {
    let broken = |reason: String| Error::Transfer { peer, reason };
    let (reply, rest) = Reply::read_from_prefix(message)
        .map_err(|_| broken(format!("a reply of {} bytes, shorter than any", message.len())))?;
    if reply.magic != MAGIC {
        return Err(broken("its reply is not of this version of Lunasa".to_owned()));
    }
    let words = || String::from_utf8_lossy(rest).into_owned();
    Err(match reply.code {
        0 => return Ok(rest),
        1 => HandleFault::Malformed(words()).into(),
        2 => HandleFault::OtherRun.into(),
        3 => HandleFault::Stale(words()).into(),
        4 => HandleFault::OutOfBounds(words()).into(),
        5 => HandleFault::ReadOnly.into(),
        _ => broken(words()),
    })
}

/// A range of memory in up to two parts, handed out in pieces.
#[derive(Debug)]
pub(super) struct Pieces {
    parts: [(*mut u8, usize); 2],
    size: usize,
}

// SAFETY: a description of memory; whoever made it promises that it may be used until the transfer is done.
unsafe impl Send for Pieces {}

impl Pieces {
    pub(super) fn new(parts: [(*mut u8, usize); 2], size: usize) -> Self {
        Self { parts, size: size.clamp(1, crate::comm::MAX_MESSAGE) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.iter().all(|&(_, len)| len == 0)
    }
}

impl Iterator for Pieces {
    type Item = (*mut u8, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let part = self.parts.iter_mut().find(|part| part.1 > 0)?;
        let piece = (part.0, part.1.min(self.size));
        part.0 = part.0.wrapping_add(piece.1);
        part.1 -= piece.1;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_error_survives_its_message() {
        let faults = [
            HandleFault::Malformed("m".into()),
            HandleFault::OtherRun,
            HandleFault::Stale("s".into()),
            HandleFault::OutOfBounds("o".into()),
            HandleFault::ReadOnly,
        ];
        for fault in faults {
            let error = Error::from(fault);
            assert_eq!(read_reply(1, &failure(&error)).unwrap_err(), error);
        }
        let other = failure(&Error::Memory("x".repeat(2 * INLINE)));
        assert!(other.len() <= REPLY + INLINE && read_reply(1, &other).is_err());
        assert_eq!(read_reply(1, &success()).unwrap(), b"");
    }

    proptest! {
        #[test]
        fn pieces_are_the_parts_in_order(a in 0usize..100, b in 0usize..100, size in 1usize..40) {
            let (first, second) = (std::ptr::without_provenance_mut::<u8>(1000), std::ptr::without_provenance_mut(9000));
            let pieces: Vec<_> = Pieces::new([(first, a), (second, b)], size).collect();
            prop_assert!(pieces.iter().all(|&(_, len)| len > 0 && len <= size));
            let bytes: Vec<usize> = pieces.iter().flat_map(|&(at, len)| at.addr()..at.addr() + len).collect();
            prop_assert_eq!(bytes, (1000..1000 + a).chain(9000..9000 + b).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_is_no_ask_and_no_reply(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Ask::read(&bytes).is_none());
            prop_assert!(read_reply(0, &bytes).is_err());
        }
    }
}
