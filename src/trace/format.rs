//! The bytes of a trace, written and read: see `docs/traces.md`.

use crate::error::{Error, Result};

/// The first bytes of a trace; the version is the last of them.
pub(super) const MAGIC: [u8; 8] = *b"LUNATRC1";
/// Bytes in front of the first chunk: the magic, the rank, and bytes of an object's headers (4 each).
pub(super) const START: usize = 16;
/// Bytes in front of each chunk's events: the thread, and the length of the events (4 each).
pub(super) const CHUNK_HEAD: usize = 8;
/// The thread of the mark that ends a whole trace.
pub(super) const END: u32 = u32::MAX;
/// Bytes of events of the longest chunk.
pub(super) const MOST_EVENTS: usize = 8 << 10;
/// Bytes of the longest event: three numbers of at most ten.
pub(super) const LONGEST: usize = 30;
/// Bytes of an object's headers, which the sizes in a trace include.
pub(crate) const HEADERS: usize = 64;
/// The largest size that is believed.
const MOST_BYTES: u64 = 1 << 47;

/// What a trace begins with.
pub(super) fn start_of(rank: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(rank.to_le_bytes());
    bytes.extend((HEADERS as u32).to_le_bytes());
    bytes
}

/// An allocation or a drop, as it is written: an object is known by its pool and its serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// Nanoseconds since the trace began.
    pub time: u64,
    pub lazy: bool,
    pub serial: u64,
    /// Bytes of an allocation, headers included; `None` for a drop.
    pub bytes: Option<u64>,
}

/// What the numbers of an event are relative to. A chunk begins with zeros.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    time: u64,
    /// The serial numbers last allocated and last dropped, of each pool.
    serials: [[u64; 2]; 2],
}

impl Before {
    pub(super) fn write(&mut self, event: Written, bytes: &mut Vec<u8>) {
        let step = event.time.saturating_sub(self.time);
        self.time += step;
        put_number(step << 2 | u64::from(event.lazy) << 1 | u64::from(event.bytes.is_none()), bytes);
        let last = &mut self.serials[usize::from(event.lazy)][usize::from(event.bytes.is_none())];
        let change = event.serial.wrapping_sub(*last) as i64;
        *last = event.serial;
        put_number((change << 1 ^ change >> 63) as u64, bytes);
        if let Some(size) = event.bytes {
            put_number(size, bytes);
        }
    }

    pub(super) fn read(&mut self, cursor: &mut Cursor) -> Result<Written> {
        let at = cursor.at;
        let word = cursor.number("an event's time")?;
        let time = self.time.checked_add(word >> 2).ok_or_else(|| wrong(at, "an event's time is beyond 64 bits"))?;
        let (lazy, drop) = (word & 2 != 0, word & 1 != 0);
        let change = cursor.number("an event's serial number")?;
        let last = &mut self.serials[usize::from(lazy)][usize::from(drop)];
        let serial = last.wrapping_add((change >> 1) ^ (change & 1).wrapping_neg());
        let bytes = if drop { None } else { Some(read_size(cursor)?) };
        (*last, self.time) = (serial, time);
        Ok(Written { time, lazy, serial, bytes })
    }
}

fn read_size(cursor: &mut Cursor) -> Result<u64> {
    let at = cursor.at;
    let bytes = cursor.number("an allocation's size")?;
    if (HEADERS as u64..=MOST_BYTES).contains(&bytes) {
        return Ok(bytes);
    }
    Err(wrong(at, &format!("an allocation of {bytes} bytes; it must be {HEADERS} (headers) to {MOST_BYTES}")))
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put_number(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A place in a trace that is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub at: usize,
    /// Reading ends here.
    end: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, end: bytes.len() }
    }

    pub(super) fn left(&self) -> usize {
        self.end - self.at
    }

    /// The next `len` bytes, to be read by themselves.
    pub(super) fn part(&self, len: usize) -> Self {
        Self { end: self.at + len, ..*self }
    }

    /// The next bytes, if there are so many.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.bytes[self.at..self.end].first_chunk().copied()?;
        self.at += N;
        Some(taken)
    }

    fn number(&mut self, what: &str) -> Result<u64> {
        let (at, mut number) = (self.at, 0u64);
        for shift in (0..64).step_by(7) {
            let [byte] = self.take().ok_or_else(|| wrong(at, &format!("{what} ends in the middle")))?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(wrong(at, &format!("{what} is longer than 64 bits")))
    }
}

/// What is wrong at this byte of a trace.
pub(super) fn wrong(at: usize, what: &str) -> Error {
    Error::Trace(format!("byte {at}: {what}; it was written over, or is no trace of Lunasa's"))
}
