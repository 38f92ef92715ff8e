//! How two ranks agree on a connection: notes that travel by the `mpi` route, and what each makes the receiver do.
//!
//! Whoever wants a connection makes an end and asks; the other connects an end of its own to it and answers; the first then
//! connects too, and confirms. Only when it knows that the other end is connected does a side use its own. Both may ask at
//! once: each answers the other's ask with the end that it asked by, and nobody need confirm. When an end breaks, its owner
//! asks anew with a new one, and the other side renews its own for it.
//!
//! Notes of one rank to another arrive in the order in which they were written.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::verbs::Address;

const MAGIC: u32 = u32::from_le_bytes(*b"LVC1");

/// An end of a connection, as it travels: a name, since no two ends of a rank are alike, and how it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct End {
    gid: [u8; 16],
    queue_pair: u32,
    first_packet: u32,
    mtu: u32,
    lid: u16,
    reads: u16,
    /// Counted by its owner, from 1.
    number: u64,
}

impl End {
    pub(super) fn new(number: u64, address: &Address) -> Self {
        let &Address { queue_pair, first_packet, gid, lid, mtu, reads } = address;
        Self { gid, queue_pair, first_packet, mtu, lid, reads: reads.into(), number }
    }

    pub(super) fn address(&self) -> Address {
        let &Self { gid, queue_pair, first_packet, mtu, lid, reads, .. } = self;
        Address { queue_pair, first_packet, gid, lid, mtu, reads: u8::try_from(reads).unwrap_or(u8::MAX) }
    }
}

/// What a note says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Connect an end of yours to mine.
    Ask,
    /// I have connected mine to yours: connect yours.
    Answer,
    /// I have, too.
    Confirm,
    /// I cannot; the reason stands behind the note.
    Refuse,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Note {
    magic: u32,
    word: u32,
    mine: End,
    /// The receiver's end that this is about; zeros when it is about none.
    yours: End,
}

/// Writes a note.
pub(super) fn write(word: Word, mine: Option<End>, yours: Option<End>, reason: &str) -> Vec<u8> {
    let none = || End::read_from_bytes(&[0; size_of::<End>()]).ok();
    let (Some(mine), Some(yours)) = (mine.or_else(none), yours.or_else(none)) else { return Vec::new() };
    let mut note = Note { magic: MAGIC, word: word as u32, mine, yours }.as_bytes().to_vec();
    note.extend_from_slice(&reason.as_bytes()[..reason.len().min(1000)]);
    note
}

/// What a note says, the sender's end, the receiver's, and a reason; `None` when it is no note.
pub(super) fn read(message: &[u8]) -> Option<(Word, End, End, String)> {
    let (note, reason) = Note::read_from_prefix(message).ok()?;
    let words = [Word::Ask, Word::Answer, Word::Confirm, Word::Refuse];
    let word = *words.get(note.word as usize).filter(|_| note.magic == MAGIC)?;
    Some((word, note.mine, note.yours, String::from_utf8_lossy(reason).into_owned()))
}

/// The refusal of what a note asks; empty when it is no note.
pub(super) fn refusal(message: &[u8], reason: &str) -> Vec<u8> {
    read(message).map_or_else(Vec::new, |(_, theirs, ..)| write(Word::Refuse, None, Some(theirs), reason))
}

/// How far one side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Handshake {
    /// No end.
    #[default]
    Idle,
    /// An end that is connected to nothing, by which was asked.
    Asking,
    /// Connected to that end, of which it is not known whether it is connected too.
    Half(End),
    /// Connected, both.
    Whole(End),
}

/// What a note makes its receiver do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Step {
    /// Take a new end, whatever there was.
    pub renew: bool,
    /// Connect the end to that one.
    pub connect: Option<End>,
    /// Say this, about the sender's end.
    pub say: Option<Word>,
}

impl Handshake {
    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// Takes a note about the receiver's end `yours`, when its end is `own`.
    pub(super) fn take(&mut self, word: Word, theirs: End, yours: End, own: Option<End>) -> Step {
        let about_ours = own == Some(yours);
        match (word, *self) {
            (Word::Ask, state) => {
                *self = Self::Half(theirs);
                let renew = state != Self::Asking;
                Step { renew, connect: Some(theirs), say: Some(Word::Answer) }
            }
            (Word::Answer, Self::Asking) if about_ours => {
                *self = Self::Whole(theirs);
                Step { renew: false, connect: Some(theirs), say: Some(Word::Confirm) }
            }
            (Word::Answer | Word::Confirm, Self::Half(end)) if about_ours && end == theirs => {
                *self = Self::Whole(theirs);
                Step::default()
            }
            // About an end that is no more.
            _ => Step::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn end(owner: u64, number: u64) -> End {
        let address = Address { queue_pair: 7, first_packet: 1, gid: [owner as u8; 16], lid: 3, mtu: 1024, reads: 16 };
        End::new(number, &address)
    }

    /// One side: its handshake, its end and what that is connected to.
    #[derive(Default)]
    struct Side {
        name: u64,
        state: Handshake,
        ends: u64,
        own: Option<(End, Option<End>)>,
        outbox: VecDeque<Vec<u8>>,
    }

    impl Side {
        fn ask(&mut self) {
            if self.state == Handshake::Idle {
                self.ends += 1;
                self.own = Some((end(self.name, self.ends), None));
                self.state = Handshake::Asking;
                self.outbox.push_back(write(Word::Ask, self.own.map(|own| own.0), None, ""));
            }
        }

        /// Breaks an end in use, as a failing request does, and asks anew.
        fn fail(&mut self) {
            if self.state.is_whole() {
                (self.state, self.own) = (Handshake::Idle, None);
                self.ask();
            }
        }

        fn take(&mut self, note: &[u8]) {
            let (word, theirs, yours, _) = read(note).unwrap();
            let step = self.state.take(word, theirs, yours, self.own.map(|own| own.0));
            if step.renew {
                self.ends += 1;
                self.own = Some((end(self.name, self.ends), None));
            }
            if let (Some(to), Some(own)) = (step.connect, &mut self.own) {
                assert_eq!(own.1, None, "an end is connected once");
                own.1 = Some(to);
            }
            if let Some(word) = step.say {
                self.outbox.push_back(write(word, self.own.map(|own| own.0), Some(theirs), ""));
            }
        }
    }

    #[test]
    fn a_note_survives_its_bytes() {
        let (mine, yours) = (end(1, 2), end(3, 4));
        let note = write(Word::Refuse, Some(mine), Some(yours), "no room");
        assert_eq!(read(&note), Some((Word::Refuse, mine, yours, "no room".to_owned())));
        assert_eq!(mine.address(), end(1, 9).address());
        assert!(read(&note[..50]).is_none() && read(&[0; 200]).is_none());
    }

    proptest! {
        #[test]
        fn whoever_asks_or_breaks_both_sides_end_connected_to_each_other(
            turns in prop::collection::vec((0..2usize, 0..4u8), 1..60)
        ) {
            let mut sides = [Side::default(), Side { name: 1, ..Side::default() }];
            let mut was_used = false;
            let deliver = |sides: &mut [Side; 2], to: usize| {
                let note = sides[1 - to].outbox.pop_front();
                if let Some(note) = &note { sides[to].take(note) }
                note.is_some()
            };
            for (who, what) in turns {
                match what {
                    0 => sides[who].ask(),
                    1 => sides[who].fail(),
                    _ => drop(deliver(&mut sides, who)),
                }
                was_used |= sides[who].state != Handshake::Idle;
                // Whoever may use its end has it connected to one that is connected to it, or to one that is no more.
                for at in 0..2 {
                    if let (Handshake::Whole(to), Some((own, _))) = (sides[at].state, sides[at].own)
                        && let Some((theirs, connected)) = sides[1 - at].own
                        && theirs == to
                    {
                        prop_assert_eq!(connected, Some(own));
                    }
                }
            }
            while deliver(&mut sides, 0) | deliver(&mut sides, 1) {}
            if was_used {
                let ends = [0, 1].map(|at| sides[at].own.unwrap());
                prop_assert!(sides.iter().all(|side| side.state.is_whole()), "{:?}", sides.map(|side| side.state));
                prop_assert_eq!((ends[0].1, ends[1].1), (Some(ends[1].0), Some(ends[0].0)));
            }
        }

        #[test]
        fn garbage_is_no_note(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&bytes).is_none());
        }
    }
}
