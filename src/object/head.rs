//! The 64 bytes in front of every object: the local header (48 bytes), then the header (16 bytes) that travels with it.
//!
//! ```text
//!  0 check      hash of the fields that never change, of the address and of a secret; 0 when there is no object
//!  8 counts     references (low half); above them pins by transfers that serve the object to a peer; the highest bit says
//!               that the object is more than a piece of memory and one who holds it
//! 16 tag        serial number of the object << 8 | flags
//! 24 owner      its pool
//! 32 capacity   bytes that metadata and data may take
//! 40 extra      the region of its own (0: none); of a user object, its user part
//! 48 type_id, meta_len (4 bytes each)
//! 56 data_len
//! ```
//!
//! A peer can write here by mistake. So every field is read as an atomic, nothing is followed before the check word was
//! seen to fit, and lengths are held against the capacity.

use std::sync::atomic::{AtomicU64, Ordering};

use super::life::Life;
use super::types::TypeId;
use crate::pool::{Past, Pool};

#[cfg(target_endian = "big")]
compile_error!("the header travels as it lies in memory, little-endian; Lunasa runs on little-endian machines");

/// Bytes of both headers.
pub(crate) const HEAD: usize = 64;
/// Bytes of the local header.
pub(crate) const LOCAL: usize = 48;

/// Flag of an object whose data lie in the program's memory.
pub(crate) const USER: u64 = 1;
/// Flag of a user object whose metadata lie there too, in front of the data.
pub(crate) const META_IN_USER: u64 = 2;

#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Head {
    pub life: Life,
    owner: AtomicU64,
    capacity: AtomicU64,
    pub extra: AtomicU64,
    /// The type in the low half, the length of the metadata in the high one: as it lies in memory, one behind the other.
    type_and_meta_len: AtomicU64,
    data_len: AtomicU64,
}

const _: () = assert!(size_of::<Head>() == HEAD && std::mem::offset_of!(Head, type_and_meta_len) == LOCAL);

/// The sections' sizes and the type: the header, as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub type_id: u32,
    pub meta_len: u32,
    pub data_len: u64,
}

/// What an object is made with, and keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birth {
    pub owner: *const Pool,
    pub serial: u64,
    pub flags: u64,
    pub capacity: u64,
    pub extra: u64,
}

static SECRET: AtomicU64 = AtomicU64::new(0);

/// Chooses the secret of this process's check words. To be called before the first object is made; later calls change
/// nothing.
pub(crate) fn choose_secret() {
    // Losing the race leaves the winner's; either is as good.
    let _ = SECRET.compare_exchange(0, rand::random::<u64>() | 1, Ordering::Relaxed, Ordering::Relaxed);
}

impl Head {
    /// Makes these 64 bytes an object with one reference.
    #[inline(always)]
    pub(crate) fn begin(&self, birth: Birth, shape: Shape) {
        let (tag, owner) = (birth.serial << 8 | birth.flags, birth.owner.expose_provenance() as u64);
        self.life.begin(tag, birth.extra != 0);
        self.owner.store(owner, Ordering::Relaxed);
        self.capacity.store(birth.capacity, Ordering::Relaxed);
        self.extra.store(birth.extra, Ordering::Relaxed);
        self.set_shape(shape);
        let extra = if birth.flags & USER != 0 { birth.extra } else { 0 };
        self.life.publish(self.check_of(tag, owner, birth.capacity, extra));
    }

    /// The fields, each turned by another angle, and a secret that nobody outside knows: whatever is written over one field
    /// shows, and over several too, unless it happens to differ from them by the same bits turned.
    ///
    /// The lowest bit of each term is 0 whenever the field is right (addresses are even, the flags few, capacities less
    /// than 2^56), and that of the secret 1: so the check word of an object is never 0.
    #[inline(always)]
    fn check_of(&self, tag: u64, owner: u64, capacity: u64, extra: u64) -> u64 {
        let (here, secret) = (std::ptr::from_ref(self).addr() as u64, SECRET.load(Ordering::Relaxed));
        secret ^ here ^ owner ^ capacity.rotate_left(8) ^ tag.rotate_right(4) ^ extra.rotate_left(12)
    }

    /// Whether there is an object here and nothing that must not change was written over.
    #[inline(always)]
    pub(crate) fn is_sound(&self) -> bool {
        let tag = self.tag();
        let extra = if tag & USER != 0 { self.extra.load(Ordering::Relaxed) } else { 0 };
        let owner = self.owner.load(Ordering::Relaxed);
        !self.is_vacant() && self.life.check() == self.check_of(tag, owner, self.capacity(), extra)
    }

    /// Pool and capacity of an object that is its holder's alone, if it is sound.
    #[inline(always)]
    pub(crate) fn pool_and_capacity(&self) -> Option<(*const Pool, usize)> {
        // A user object, whose `extra` counts here, is never its holder's alone.
        let (owner, capacity) = (self.owner.load(Ordering::Relaxed), self.capacity());
        let sound = self.life.check() == self.check_of(self.tag(), owner, capacity, 0);
        sound.then_some((std::ptr::with_exposed_provenance(owner as usize), capacity as usize))
    }

    /// Whether there is no object here at all.
    #[inline]
    pub(crate) fn is_vacant(&self) -> bool {
        self.life.check() == 0
    }

    /// Serial number and flags.
    #[inline]
    pub(crate) fn tag(&self) -> u64 {
        self.life.tag()
    }

    #[inline]
    pub(crate) fn is_user(&self) -> bool {
        self.tag() & USER != 0
    }

    /// The pool. To be followed only when the head is sound.
    #[inline]
    pub(crate) fn owner(&self) -> *const Pool {
        std::ptr::with_exposed_provenance(self.owner.load(Ordering::Relaxed) as usize)
    }

    #[inline(always)]
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn shape(&self) -> Shape {
        let both = self.type_and_meta_len.load(Ordering::Relaxed);
        Shape { type_id: both as u32, meta_len: (both >> 32) as u32, data_len: self.data_len.load(Ordering::Relaxed) }
    }

    #[inline(always)]
    pub(crate) fn set_shape(&self, shape: Shape) {
        let both = u64::from(shape.meta_len) << 32 | u64::from(shape.type_id);
        self.type_and_meta_len.store(both, Ordering::Relaxed);
        self.data_len.store(shape.data_len, Ordering::Relaxed);
    }

    /// What the object is, or was before `end`.
    #[cold]
    pub(super) fn past(&self) -> Past {
        let Shape { type_id, meta_len, data_len } = self.shape();
        Past { serial: self.tag() >> 8, type_id, type_name: TypeId(type_id).name(), meta_len, data_len }
    }

    /// Whether the sections fit the capacity, as they always do unless somebody wrote over the header.
    #[inline]
    pub(crate) fn fits(&self, shape: Shape) -> bool {
        shape.data_len.checked_add(u64::from(shape.meta_len)).is_some_and(|sum| sum <= self.capacity())
    }
}
