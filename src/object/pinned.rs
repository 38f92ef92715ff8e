//! Objects that are kept alive while they are served to a peer.

use std::ptr::NonNull;

use super::end::destroy;
use super::handle::RemoteHandle;
use super::head::Head;
use super::parts::{sections_of, user_part_of};
use crate::error::{HandleFault, Result};
use crate::memory;
use crate::registrar::Regions;

/// An object of this rank that is kept alive while it is served to a peer.
#[derive(Debug)]
pub(crate) struct PinnedObject(NonNull<Head>);

// SAFETY: a pin may be dropped on any thread; counts are atomic.
unsafe impl Send for PinnedObject {}

impl PinnedObject {
    /// The object that a handle names, if it is alive and as the handle says.
    pub(crate) fn acquire(regions: &Regions, handle: &RemoteHandle) -> Result<Self> {
        let at = handle.head();
        let gone = || {
            HandleFault::Stale("the region it points into is not registered, or not with its key or size".to_owned())
        };
        let dropped = || HandleFault::Stale("the object was dropped by its owner".to_owned());
        let head = NonNull::new(std::ptr::with_exposed_provenance_mut::<Head>(at.address as usize))
            .filter(|head| head.is_aligned())
            .ok_or_else(|| HandleFault::Malformed("the object's address is not aligned".to_owned()))?;
        let pinned = regions.with((at.id, at.key), at.address, at.len, || {
            // SAFETY: in a region that stays registered, hence mapped, meanwhile; any bits are valid for its atomics.
            let head = unsafe { head.as_ref() };
            head.is_sound() && head.life.pin(handle.tag())
        });
        if !pinned.ok_or_else(gone)? {
            return Err(dropped().into());
        }
        let pinned = Self(head);
        // Between the look at the tag and the pin the memory may have come to another object.
        if pinned.head().tag() != handle.tag() {
            return Err(dropped().into());
        }
        if pinned.head().shape() != handle.shape() {
            return Err(HandleFault::Stale("the object was resized or given another type since".to_owned()).into());
        }
        // The check word does not cover the sizes, and a stray write may have changed them.
        if sections_of(pinned.head()).is_err() {
            return Err(HandleFault::Stale("the object's header was written over".to_owned()).into());
        }
        Ok(pinned)
    }

    /// The object of this head, if it ever gave out a handle or is a user object: only such can be pinned. None when it has
    /// ended. The head is one that a walk keeps mapped.
    pub(super) fn of(head: &Head) -> Option<Self> {
        let tag = head.tag();
        let pinned = head.is_sound() && head.life.pin(tag);
        let pinned = pinned.then(|| Self(NonNull::from(head)))?;
        (pinned.head().tag() == tag).then_some(pinned)
    }

    fn head(&self) -> &Head {
        // SAFETY: pinned.
        unsafe { self.0.as_ref() }
    }

    /// Where `len` bytes from `offset` of the handle's section are: addresses and lengths.
    pub(crate) fn ranges(&self, handle: &RemoteHandle, offset: u64, len: u64) -> Result<[(*mut u8, usize); 2]> {
        // By the sizes that the handle and the object agreed on: its owner may be changing them meanwhile.
        let [(in_piece, piece_len), (in_user, user_len)] = handle.offsets(offset, len)?;
        let user = user_part_of(self.head())?.map_or(std::ptr::null_mut(), |part| part.memory.base().as_ptr());
        let piece = self.0.as_ptr().cast::<u8>();
        Ok([
            (piece.wrapping_add(in_piece as usize), piece_len as usize),
            (user.wrapping_add(in_user as usize), user_len as usize),
        ])
    }
}

impl Drop for PinnedObject {
    fn drop(&mut self) {
        if !memory::in_forked_child() && self.head().life.unpin() {
            // SAFETY: that was the last of everything.
            unsafe { destroy(self.0) };
        }
    }
}
