//! The 64 bytes in front of every object: the local header (48 bytes), then the header (16 bytes) that travels with it.
//!
//! ```text
//!  0 check      hash of the fields that never change, of the address and of a secret; 0 when there is no object
//!  8 counts     references (low half); above them pins by transfers that serve the object to a peer; the highest bit says
//!               that a handle was given out
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

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::life::Life;
use crate::pool::Pool;

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
    type_id: AtomicU32,
    meta_len: AtomicU32,
    data_len: AtomicU64,
}

const _: () = assert!(size_of::<Head>() == HEAD && std::mem::offset_of!(Head, type_id) == LOCAL);

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
        self.life.begin(tag);
        self.owner.store(owner, Ordering::Relaxed);
        self.capacity.store(birth.capacity, Ordering::Relaxed);
        self.extra.store(birth.extra, Ordering::Relaxed);
        self.set_shape(shape);
        self.life.publish(self.check_of(tag, owner, birth.capacity, birth.extra));
    }

    /// Four products that do not wait for one another; a field that changed changes the sum, and nobody outside knows the
    /// secret.
    #[inline(always)]
    fn check_of(&self, tag: u64, owner: u64, capacity: u64, extra: u64) -> u64 {
        let extra = if tag & USER != 0 { extra } else { 0 };
        let sum = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ owner.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            ^ capacity.wrapping_mul(0x1656_67b1_9e37_79f9)
            ^ extra.wrapping_mul(0x27d4_eb2f_1656_67c5);
        (sum ^ SECRET.load(Ordering::Relaxed) ^ std::ptr::from_ref(self).addr() as u64) | 1
    }

    #[inline(always)]
    fn expected_check(&self) -> u64 {
        let (owner, extra) = (self.owner.load(Ordering::Relaxed), self.extra.load(Ordering::Relaxed));
        self.check_of(self.tag(), owner, self.capacity(), extra)
    }

    /// Whether there is an object here and nothing that must not change was written over.
    #[inline(always)]
    pub(crate) fn is_sound(&self) -> bool {
        let check = self.life.check();
        check != 0 && check == self.expected_check()
    }

    /// Whether there is no object here at all.
    pub(crate) fn is_vacant(&self) -> bool {
        self.life.check() == 0
    }

    /// Serial number and flags.
    pub(crate) fn tag(&self) -> u64 {
        self.life.tag()
    }

    pub(crate) fn is_user(&self) -> bool {
        self.tag() & USER != 0
    }

    /// The pool. To be followed only when the head is sound.
    pub(crate) fn owner(&self) -> *const Pool {
        std::ptr::with_exposed_provenance(self.owner.load(Ordering::Relaxed) as usize)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape {
            type_id: self.type_id.load(Ordering::Relaxed),
            meta_len: self.meta_len.load(Ordering::Relaxed),
            data_len: self.data_len.load(Ordering::Relaxed),
        }
    }

    #[inline(always)]
    pub(crate) fn set_shape(&self, shape: Shape) {
        self.type_id.store(shape.type_id, Ordering::Relaxed);
        self.meta_len.store(shape.meta_len, Ordering::Relaxed);
        self.data_len.store(shape.data_len, Ordering::Relaxed);
    }

    /// Whether the sections fit the capacity, as they always do unless somebody wrote over the header.
    pub(crate) fn fits(&self, shape: Shape) -> bool {
        shape.data_len.checked_add(u64::from(shape.meta_len)).is_some_and(|sum| sum <= self.capacity())
    }
}
