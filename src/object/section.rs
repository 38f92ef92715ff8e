//! The sections of an object, and the segments of registered memory that they lie in.

use std::fmt;

use crate::registrar::{Region, RegionKeys};

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Section {
    /// All of it, from the local header on.
    Base = 0,
    /// The local header: 48 bytes of bookkeeping.
    LocalHeader = 1,
    /// The header: type and sizes, 16 bytes.
    Header = 2,
    /// Header, metadata and data: what travels.
    Object = 3,
    /// The metadata.
    Meta = 4,
    /// The data.
    Data = 5,
}

impl Section {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Base, Self::LocalHeader, Self::Header, Self::Object, Self::Meta, Self::Data].get(byte as usize).copied()
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::LocalHeader => "local header",
            Self::Header => "header",
            Self::Object => "object",
            Self::Meta => "metadata",
            Self::Data => "data",
        })
    }
}

/// A part of an object in one region: what a scatter/gather entry needs.
///
/// With the `verbs` registrar the keys are the device's, for memory at its own addresses. A program with verbs code of its
/// own makes the registrar in its protection domain ([`VerbsRegistrar::from_domain`](crate::VerbsRegistrar::from_domain)),
/// and then sends, reads and writes objects itself:
///
/// ```
/// # use lunasa::{Config, Lunasa, Section};
/// # let lunasa = Lunasa::local(Config::new().ignore_environment().set("lunasa.status.enabled", false)?)?;
/// let object = lunasa.object().meta(64).data(1000)?;
/// let gather: Vec<rdma_sys::ibv_sge> = object
///     .segments(Section::Object)?
///     .iter()
///     .map(|part| rdma_sys::ibv_sge {
///         addr: part.address().addr() as u64,
///         length: part.len() as u32,
///         lkey: part.keys().local, // a peer that reads or writes it needs the address and `keys().remote`
///     })
///     .collect();
/// assert_eq!(gather[0].length, 16 + 64 + 1000);
/// # Ok::<(), lunasa::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub(crate) region: Region,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl Segment {
    /// The region it lies in.
    #[inline]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Where it begins in the region, in bytes.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a length in bytes, not a container")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its first address.
    #[inline]
    pub fn address(&self) -> *mut u8 {
        self.region.base().wrapping_add(self.offset)
    }

    /// The keys of its region.
    #[inline]
    pub fn keys(&self) -> RegionKeys {
        self.region.keys()
    }
}

/// The one or two segments of a section, in the order of its bytes; none of an empty one.
#[derive(Debug, Clone, Copy)]
pub struct Segments {
    parts: [Segment; 2],
    count: usize,
}

impl Segments {
    /// Of what lies in the first region and in the second, each segment as its region, and offset and length in it.
    #[inline(always)]
    pub(crate) fn new(first: (Region, usize, usize), second: Option<(Region, usize, usize)>) -> Self {
        let segment = |(region, offset, len)| Segment { region, offset, len };
        let (first, second) = (segment(first), second.map(segment).filter(|second| second.len > 0));
        match (first.len > 0, second) {
            (true, None) => Self { parts: [first, first], count: 1 },
            (true, Some(second)) => Self { parts: [first, second], count: 2 },
            (false, Some(second)) => Self { parts: [second, second], count: 1 },
            (false, None) => Self { parts: [first, first], count: 0 },
        }
    }

    /// One after another.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.parts.iter().take(self.count)
    }

    /// Their number: 0 (an empty section), 1 or 2.
    #[expect(clippy::len_without_is_empty, reason = "iter() serves")]
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.iter().map(Segment::len).sum()
    }
}

/// Where the bytes of an object lie: the piece of the pool first, then (of a user object) the program's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes of the piece in use, from the local header on.
    pub piece: u64,
    /// Bytes in the program's memory.
    pub user: u64,
    pub meta_len: u64,
    pub data_len: u64,
}

impl Layout {
    /// Of an object with these sections; `user` and `meta_in_user` as its flags say. `None` when the sum overflows.
    #[inline]
    pub(crate) fn new(meta_len: u32, data_len: u64, user: bool, meta_in_user: bool) -> Option<Self> {
        let (head, meta_len) = (super::head::HEAD as u64, u64::from(meta_len));
        let all = meta_len.checked_add(data_len)?;
        head.checked_add(all)?;
        let (piece, user) = match (user, meta_in_user) {
            (false, _) => (head + all, 0),
            (true, false) => (head + meta_len, data_len),
            (true, true) => (head, all),
        };
        Some(Self { piece, user, meta_len, data_len })
    }

    /// Of an ordinary object; the sections fit its capacity.
    #[inline]
    pub(crate) fn ordinary(meta_len: u64, data_len: u64) -> Self {
        Self { piece: super::head::HEAD as u64 + meta_len + data_len, user: 0, meta_len, data_len }
    }

    /// First byte and length of a section, counted from the local header through piece and user memory.
    #[inline]
    pub(crate) fn section(&self, section: Section) -> (u64, u64) {
        let (local, head) = (super::head::LOCAL as u64, super::head::HEAD as u64);
        let all = self.meta_len + self.data_len;
        match section {
            Section::Base => (0, head + all),
            Section::LocalHeader => (0, local),
            Section::Header => (local, head - local),
            Section::Object => (local, head - local + all),
            Section::Meta => (head, self.meta_len),
            Section::Data => (head + self.meta_len, self.data_len),
        }
    }

    /// Cuts `len` bytes from `start` (counted as above) at the end of the piece: `(offset, length)` in the piece and in the
    /// program's memory. The caller has checked that they are there.
    #[inline]
    pub(crate) fn cut(&self, start: u64, len: u64) -> [(u64, u64); 2] {
        let in_piece = self.piece.saturating_sub(start).min(len);
        [(start.min(self.piece), in_piece), (start.saturating_sub(self.piece), len - in_piece)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_section_is_in_exactly_one_part() {
        for (user, meta_in_user) in [(false, false), (true, false), (true, true)] {
            for (meta, data) in [(0, 0), (5, 0), (0, 7), (16, 100)] {
                let Some(layout) = Layout::new(meta, data, user, meta_in_user) else { panic!("fits") };
                assert_eq!(layout.piece + layout.user, layout.section(Section::Base).1);
                for section in (0..6).filter_map(Section::from_byte) {
                    let (start, len) = layout.section(section);
                    let [(a, in_piece), (b, in_user)] = layout.cut(start, len);
                    assert_eq!(in_piece + in_user, len, "{section}");
                    assert!(a + in_piece <= layout.piece && b + in_user <= layout.user, "{section}");
                }
            }
        }
        assert_eq!(Layout::new(1, u64::MAX, false, false), None);
        assert_eq!(Layout::new(0, u64::MAX - 10, false, false), None);
    }
}
