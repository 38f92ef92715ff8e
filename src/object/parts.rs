//! From a head to what belongs to it: its pool, its user part, its sections; each only after the check word was seen to fit.

use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::head::{HEAD, Head, META_IN_USER};
use super::section::{Layout, Section};
use super::user::UserPart;
use crate::error::{Error, Result};
use crate::pool::Pool;

/// Where the sections lie: address and length.
#[derive(Clone, Copy)]
pub(super) struct Sections {
    pub meta: (*mut u8, usize),
    pub data: (*mut u8, usize),
}

#[cold]
pub(super) fn damaged(head: &Head) -> Error {
    let address = std::ptr::from_ref(head).addr();
    Error::Object(format!(
        "the local header at {address:#x} was written over (by a peer's put beyond its target, or by a stray pointer); its \
         memory is left alone"
    ))
}

#[inline(always)]
pub(super) fn pool_of(head: &Head) -> Result<&Pool> {
    if !head.is_sound() {
        return Err(damaged(head));
    }
    // SAFETY: sound, so this is the pool that made the object; a pool outlives its objects.
    Ok(unsafe { &*head.owner() })
}

pub(super) fn user_part_of(head: &Head) -> Result<Option<&UserPart>> {
    if !head.is_user() {
        return Ok(None);
    }
    if !head.is_sound() {
        return Err(damaged(head));
    }
    let extra = head.extra.load(Ordering::Relaxed) as usize;
    // SAFETY: sound and flagged, so this is the part leaked for the object, which lives as long.
    Ok(Some(unsafe { &*std::ptr::with_exposed_provenance::<UserPart>(extra) }))
}

pub(super) fn layout_of(head: &Head) -> Result<Layout> {
    let shape = head.shape();
    Layout::new(shape.meta_len, shape.data_len, head.is_user(), head.tag() & META_IN_USER != 0)
        .ok_or_else(|| damaged(head))
}

pub(super) fn sections_of(head: &Head) -> Result<Sections> {
    let shape = head.shape();
    if !head.fits(shape) {
        return Err(damaged(head));
    }
    let (meta_len, data_len) = (shape.meta_len as usize, shape.data_len as usize);
    // SAFETY: the head is followed by its metadata (if any lies in the piece), so this is at most one past the end.
    let behind = unsafe { std::ptr::from_ref(head).cast::<u8>().cast_mut().add(HEAD) };
    let Some(part) = user_part_of(head)? else {
        return Ok(Sections {
            meta: (behind, meta_len),
            // SAFETY: both sections fit the capacity, which the piece has behind the head.
            data: (unsafe { behind.add(meta_len) }, data_len),
        });
    };
    let (user, room) = (part.memory.base().as_ptr(), part.memory.len());
    if head.tag() & META_IN_USER != 0 {
        // SAFETY: both sections fit the capacity, which is the user memory's length.
        return Ok(Sections { meta: (user, meta_len), data: (unsafe { user.add(meta_len) }, data_len) });
    }
    if meta_len > part.piece_len - HEAD || data_len > room {
        return Err(damaged(head));
    }
    Ok(Sections { meta: (behind, meta_len), data: (user, data_len) })
}

pub(super) fn misfit<T>(len: usize, section: Section) -> Error {
    let (size, align, name) = (size_of::<T>(), align_of::<T>(), std::any::type_name::<T>());
    Error::Object(format!(
        "{len} bytes of {section} cannot be seen as values of {name}: their length must be a multiple of {size} and their \
         address one of {align} (data begin right behind the metadata)"
    ))
}

pub(super) fn elements<T>(at: *const u8, len: usize, section: Section) -> Result<usize> {
    let size = size_of::<T>();
    if size == 0 || !len.is_multiple_of(size) || !at.addr().is_multiple_of(align_of::<T>()) {
        return Err(misfit::<T>(len, section));
    }
    Ok(len / size)
}

/// # Safety
/// The range is mapped, and nobody writes there as long as the slice lives.
pub(super) unsafe fn typed<'a, T: FromBytes + Immutable>(
    (at, len): (*mut u8, usize),
    section: Section,
) -> Result<&'a [T]> {
    let count = elements::<T>(at, len, section)?;
    // SAFETY: size and alignment were checked, any bytes are valid for T, and the caller promises the rest.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), count) })
}

/// # Safety
/// The range is mapped, and nobody else reads or writes there as long as the slice lives.
pub(super) unsafe fn typed_mut<'a, T: FromBytes + IntoBytes>(
    (at, len): (*mut u8, usize),
    section: Section,
) -> Result<&'a mut [T]> {
    let count = elements::<T>(at, len, section)?;
    // SAFETY: size and alignment were checked, any bytes are valid for T and T's for bytes, and the caller promises the rest.
    Ok(unsafe { std::slice::from_raw_parts_mut(at.cast(), count) })
}
