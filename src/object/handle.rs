//! Remote handles: the name of an object (or a section) that another rank can get, put or fetch.
//!
//! 104 plain bytes, little-endian, self-contained and versioned by the magic number:
//!
//! ```text
//!   0 magic "LDO1"      4 rank of the owner    8 run (which instance of Lunasa)
//!  16 flags, section, 2 unused               20 type id
//!  24 metadata bytes   28 unused             32 data bytes
//!  40 tag of the object (serial number and flags)
//!  48 first segment:   slot, generation, remote key, unused (4 bytes each), owner's address of it (8)
//!  72 second segment:  likewise; all zero unless the object is a user object
//!  96 checksum of the 96 bytes before
//! ```
//!
//! The checksum finds damage and mistakes; whether a handle may be used is decided by the generation of its regions, the
//! object's tag and the bounds, on the side where the memory is.

use std::fmt;

use mpi::datatype::UserDatatype;
use mpi::traits::Equivalence;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::head::{META_IN_USER, Shape, USER};
use super::section::{Layout, Section};
use crate::error::{Error, HandleFault, Result};
use crate::registrar::{Region, RegionId};

const MAGIC: u32 = u32::from_le_bytes(*b"LDO1");
/// Flag: the handle allows writing.
const WRITABLE: u8 = 1;

/// One segment as the handle carries it.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RemoteSegment {
    slot: U32,
    generation: U32,
    key: U32,
    unused: U32,
    address: U64,
}

/// Names an object on another rank: plain bytes that any message can carry.
///
/// It is valid while its object lives on its owner. What does not fit is refused by the call that uses it, with
/// [`Error::Handle`]; nothing is read or written then.
///
/// As an MPI datatype ([`Equivalence`]) it is [`RemoteHandle::SIZE`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RemoteHandle {
    magic: U32,
    rank: U32,
    run: U64,
    flags: u8,
    section: u8,
    unused: [u8; 2],
    type_id: U32,
    meta_len: U32,
    unused_too: U32,
    data_len: U64,
    tag: U64,
    piece: RemoteSegment,
    user: RemoteSegment,
    checksum: U64,
}

/// A range of one region on the owner's side: where a part of an object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub id: RegionId,
    pub key: u32,
    pub address: u64,
    pub len: u64,
}

impl RemoteSegment {
    fn new(region: &Region, address: u64) -> Self {
        let (slot, generation, key) = (region.id.slot, region.id.generation, region.keys.remote);
        let (slot, generation) = (U32::new(slot), U32::new(generation));
        Self { slot, generation, key: U32::new(key), unused: U32::ZERO, address: U64::new(address) }
    }

    #[inline]
    fn part(&self, offset: u64, len: u64) -> Part {
        let id = RegionId { slot: self.slot.get(), generation: self.generation.get() };
        Part { id, key: self.key.get(), address: self.address.get().wrapping_add(offset), len }
    }
}

/// Who an object belongs to, and where its parts are, for making a handle.
pub(crate) struct Origin {
    pub rank: u32,
    pub run: u64,
    pub tag: u64,
    pub shape: Shape,
    pub piece: (Region, u64),
    pub user: Option<(Region, u64)>,
    pub writable: bool,
}

impl RemoteHandle {
    /// Bytes of a handle.
    pub const SIZE: usize = size_of::<Self>();

    pub(crate) fn new(origin: &Origin) -> Self {
        let segment = |(region, address): &(Region, u64)| RemoteSegment::new(region, *address);
        let none = RemoteSegment::new_zeroed_segment();
        Self {
            magic: U32::new(MAGIC),
            rank: U32::new(origin.rank),
            run: U64::new(origin.run),
            flags: if origin.writable { WRITABLE } else { 0 },
            section: Section::Data as u8,
            unused: [0; 2],
            type_id: U32::new(origin.shape.type_id),
            meta_len: U32::new(origin.shape.meta_len),
            unused_too: U32::ZERO,
            data_len: U64::new(origin.shape.data_len),
            tag: U64::new(origin.tag),
            piece: segment(&origin.piece),
            user: origin.user.as_ref().map_or(none, segment),
            checksum: U64::ZERO,
        }
        .sealed()
    }

    /// The 104 bytes.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        zerocopy::transmute!(*self)
    }

    /// A handle from its bytes.
    ///
    /// # Errors
    /// [`Error::Handle`] when there are more or fewer than 104, or when they are not a handle or were damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let handle = Self::read_from_bytes(bytes)
            .map_err(|_| HandleFault::Malformed(format!("{} bytes instead of {}", bytes.len(), Self::SIZE)))?;
        handle.check()?;
        Ok(handle)
    }

    /// The same handle for another section: what `get` and `put` mean by offset 0. A fresh handle names the data.
    pub fn section(&self, section: Section) -> Self {
        Self { section: section as u8, ..*self }.sealed()
    }

    /// The rank that owns the object.
    pub fn rank(&self) -> u32 {
        self.rank.get()
    }

    /// The object's type.
    pub fn type_id(&self) -> u32 {
        self.type_id.get()
    }

    /// Bytes of metadata.
    pub fn meta_len(&self) -> usize {
        self.meta_len.get() as usize
    }

    /// Bytes of data.
    pub fn data_len(&self) -> usize {
        self.data_len.get() as usize
    }

    /// Whether a peer may write through it.
    pub fn is_writable(&self) -> bool {
        self.flags & WRITABLE != 0
    }

    pub(crate) fn run(&self) -> u64 {
        self.run.get()
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag.get()
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape { type_id: self.type_id.get(), meta_len: self.meta_len.get(), data_len: self.data_len.get() }
    }

    /// The piece's local header: region and address.
    pub(crate) fn head(&self) -> Part {
        self.piece.part(0, super::head::HEAD as u64)
    }

    #[inline]
    fn layout(&self) -> Result<Layout> {
        let tag = self.tag();
        Layout::new(self.meta_len.get(), self.data_len.get(), tag & USER != 0, tag & META_IN_USER != 0)
            .ok_or_else(|| HandleFault::Malformed("its sections' sizes overflow".to_owned()).into())
    }

    /// First byte and length of the handle's section, counted through piece and user memory.
    #[inline]
    pub(crate) fn section_range(&self) -> Result<(u64, u64)> {
        let section = Section::from_byte(self.section)
            .ok_or_else(|| HandleFault::Malformed(format!("section number {}", self.section)))?;
        Ok(self.layout()?.section(section))
    }

    /// Where `len` bytes from `offset` of the handle's section lie: offset and length in the piece, then in the program's
    /// memory.
    // Always inlined: returned through memory, written narrow and read back wide, the parts would cost more than the copy of
    // a few bytes.
    #[inline(always)]
    pub(crate) fn offsets(&self, offset: u64, len: u64) -> Result<[(u64, u64); 2]> {
        let (start, section_len) = self.section_range()?;
        if offset > section_len || len > section_len - offset {
            return Err(self.out_of_bounds(offset, len, section_len));
        }
        Ok(self.layout()?.cut(start + offset, len))
    }

    /// As [`RemoteHandle::offsets`], as parts of the owner's memory; a part of length 0 is to be skipped.
    // Always inlined, as `offsets` is.
    #[inline(always)]
    pub(crate) fn locate(&self, offset: u64, len: u64) -> Result<[Part; 2]> {
        let [(in_piece, piece_len), (in_user, user_len)] = self.offsets(offset, len)?;
        Ok([self.piece.part(in_piece, piece_len), self.user.part(in_user, user_len)])
    }

    /// Whether a peer may write `len` bytes from `offset` of the handle's section: only metadata and data, never the headers.
    pub(crate) fn check_put(&self, offset: u64, len: u64) -> Result<()> {
        if !self.is_writable() {
            return Err(HandleFault::ReadOnly.into());
        }
        let (start, _) = self.section_range()?;
        if len > 0 && start.saturating_add(offset) < super::head::HEAD as u64 {
            let why = "the headers are written by their owner only; put into metadata and data";
            return Err(HandleFault::OutOfBounds(why.to_owned()).into());
        }
        Ok(())
    }

    #[cold]
    fn out_of_bounds(&self, offset: u64, len: u64, section_len: u64) -> Error {
        let name = Section::from_byte(self.section).map_or_else(String::new, |section| section.to_string());
        let end = offset.saturating_add(len);
        HandleFault::OutOfBounds(format!("bytes {offset}..{end} of the {name}, which has {section_len}")).into()
    }

    /// Whether the bytes are a handle of this version, undamaged.
    pub(crate) fn check(&self) -> Result<()> {
        let why = if self.magic.get() != MAGIC {
            "it does not begin with \"LDO1\" (is the peer of another version of Lunasa?)"
        } else if self.checksum.get() != self.expected_checksum() {
            "its checksum does not fit"
        } else if Section::from_byte(self.section).is_none() {
            "it names no section"
        } else {
            return Ok(());
        };
        Err(HandleFault::Malformed(why.to_owned()).into())
    }

    /// Any bytes, sealed: what a peer can send that means ill.
    pub(crate) fn forged(bytes: [u8; Self::SIZE]) -> Self {
        let handle: Self = zerocopy::transmute!(bytes);
        handle.sealed()
    }

    fn sealed(mut self) -> Self {
        self.checksum = U64::new(self.expected_checksum());
        self
    }

    /// Four lanes of multiply and rotate over twelve words: it has to be quick, not to keep out an enemy.
    fn expected_checksum(&self) -> u64 {
        let words: [U64; Self::SIZE / 8] = zerocopy::transmute!(*self);
        let mut lanes = [0x243f_6a88_85a3_08d3u64, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];
        for four in words[..words.len() - 1].chunks_exact(4) {
            for (lane, word) in lanes.iter_mut().zip(four) {
                *lane = (*lane ^ word.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            }
        }
        lanes[0] ^ lanes[1].rotate_left(16) ^ lanes[2].rotate_left(32) ^ lanes[3].rotate_left(48)
    }
}

impl RemoteSegment {
    fn new_zeroed_segment() -> Self {
        zerocopy::transmute!([0u8; size_of::<Self>()])
    }
}

impl fmt::Debug for RemoteHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RemoteHandle(rank {}, type {}, {} + {} bytes, {}{})",
            self.rank(),
            self.type_id(),
            self.meta_len(),
            self.data_len(),
            Section::from_byte(self.section).map_or_else(|| "no section".to_owned(), |section| section.to_string()),
            if self.is_writable() { ", writable" } else { "" }
        )
    }
}

// SAFETY: a handle is `SIZE` bytes without padding, and the datatype is that many bytes; any bytes are a valid value,
// which is checked before it is used.
unsafe impl Equivalence for RemoteHandle {
    type Out = UserDatatype;

    fn equivalent_datatype() -> Self::Out {
        UserDatatype::contiguous(Self::SIZE as i32, &u8::equivalent_datatype())
    }
}

impl TryFrom<&[u8]> for RemoteHandle {
    type Error = Error;

    fn try_from(bytes: &[u8]) -> Result<Self> {
        Self::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::ptr::NonNull;

    fn sample(meta_len: u32, data_len: u64) -> RemoteHandle {
        let region = |slot| Region {
            id: RegionId { slot, generation: 1 },
            base: NonNull::dangling(),
            len: 1 << 20,
            keys: Default::default(),
        };
        let shape = Shape { type_id: 7, meta_len, data_len };
        let (piece, user) = ((region(3), 0x1000), Some((region(4), 0x9000)));
        RemoteHandle::new(&Origin { rank: 2, run: 5, tag: 9 << 8 | USER, shape, piece, user, writable: false })
    }

    #[test]
    fn a_handle_is_104_bytes_and_survives_them() {
        assert_eq!(RemoteHandle::SIZE, 104);
        let handle = sample(16, 100).section(Section::Meta);
        assert_eq!(RemoteHandle::from_bytes(&handle.to_bytes()).unwrap(), handle);
        assert!(RemoteHandle::from_bytes(&handle.to_bytes()[..103]).is_err());
    }

    #[test]
    fn ranges_are_held_against_the_section() {
        let handle = sample(16, 100);
        let [piece, user] = handle.section(Section::Object).locate(0, 132).unwrap();
        assert_eq!((piece.address, piece.len), (0x1000 + 48, 32));
        assert_eq!((user.address, user.len), (0x9000, 100));
        assert_eq!(handle.locate(100, 0).unwrap()[1].len, 0);
        for (offset, len) in [(0, 101), (101, 0), (1, 100), (u64::MAX, 2), (2, u64::MAX)] {
            assert!(matches!(handle.locate(offset, len), Err(Error::Handle(HandleFault::OutOfBounds(_)))));
        }
    }

    proptest! {
        #[test]
        fn any_damage_is_found(byte in 0..RemoteHandle::SIZE, change in 1..=255u8) {
            let mut bytes = sample(16, 100).to_bytes();
            bytes[byte] ^= change;
            prop_assert!(RemoteHandle::from_bytes(&bytes).is_err());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(RemoteHandle::from_bytes(&bytes).is_err());
        }

        #[test]
        fn any_sealed_bytes_locate_without_a_panic(bytes in any::<[u8; 32]>(), offset in any::<u64>(), len in any::<u64>()) {
            let mut forged = [0; RemoteHandle::SIZE];
            for (place, byte) in forged.iter_mut().zip(bytes.iter().cycle()) { *place = *byte; }
            let forged = RemoteHandle::read_from_bytes(&forged).unwrap().sealed();
            let _ = forged.locate(offset, len);
        }
    }
}
