//! The end of an object: everything goes back, once, when neither references nor pins are left.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::head::{HEAD, Head};
use super::parts::damaged;
use super::user::UserPart;
use crate::memory;
use crate::pool::Pool;
use crate::registrar::RegionId;

/// Gives back an object that is its holder's alone: the common case, a piece of no large size that goes into the thread's
/// cache.
///
/// # Safety
/// The holder is the caller, and leaves. The class is that of the object's piece.
#[inline]
pub(super) unsafe fn destroy_quickly(at: NonNull<Head>, class: u8) {
    // SAFETY: the piece is still handed out.
    let head = unsafe { at.as_ref() };
    if let Some((pool, capacity)) = head.pool_and_capacity() {
        // SAFETY: sound, so this is the pool that made the object; a pool outlives its objects.
        let pool = unsafe { &*pool };
        if let Some(cache) = pool.cache_used_last()
            && cache.put_small(at.cast(), HEAD + capacity, class)
        {
            // Only this thread takes from its cache.
            return head.life.end();
        }
    }
    // SAFETY: the caller's promise.
    unsafe { destroy(at) };
}

/// Gives everything back, whatever the object is. In a forked child that does nothing.
///
/// # Safety
/// Neither references nor pins are left.
#[inline(never)]
pub(super) unsafe fn destroy(at: NonNull<Head>) {
    if memory::in_forked_child() {
        return;
    }
    // SAFETY: the piece is still handed out.
    let head = unsafe { at.as_ref() };
    if !head.is_sound() {
        return report_damaged(head);
    }
    // SAFETY: sound, so this is the pool that made the object; a pool outlives its objects.
    let pool = unsafe { &*head.owner() };
    if head.extra.load(Ordering::Relaxed) != 0 {
        // SAFETY: the caller's promise.
        return unsafe { destroy_registered(at, pool) };
    }
    let len = HEAD + head.capacity() as usize;
    head.life.end();
    // SAFETY: allocated with this length for this object, and nobody is left to use it.
    unsafe { pool.release(at.cast(), len, None, || head.past()) };
}

#[cold]
#[inline(never)]
fn report_damaged(head: &Head) {
    tracing::error!("{}", damaged(head));
}

/// As `destroy`, for an object with regions of its own, or with the program's memory.
///
/// # Safety
/// Neither references nor pins are left; the head is sound, and `pool` its owner.
#[cold]
#[inline(never)]
unsafe fn destroy_registered(at: NonNull<Head>, pool: &Pool) {
    // SAFETY: the piece is still handed out.
    let head = unsafe { at.as_ref() };
    let extra = head.extra.load(Ordering::Acquire);
    let (len, region) = if head.is_user() {
        // SAFETY: sound and flagged, so leaked for this object; taken back once, here.
        let part = unsafe { Box::<UserPart>::from_raw(std::ptr::with_exposed_provenance_mut(extra as usize)) };
        if let Some(id) = RegionId::unpack(part.region.load(Ordering::Acquire))
            && let Err(error) = pool.regions.deregister(id)
        {
            tracing::error!("{error}; the program's {} bytes are not given back", part.memory.len());
            std::mem::forget(part);
            return;
        }
        let own = RegionId::unpack(part.piece_region.load(Ordering::Acquire));
        (part.piece_len, own)
    } else {
        (HEAD + head.capacity() as usize, RegionId::unpack(extra))
    };
    // A region id that was written over names none, or one of another object: never end that.
    let region = region.filter(|&id| {
        pool.regions.get(id).is_none_or(|region| region.base == at.cast()) || {
            report_damaged(head);
            false
        }
    });
    head.life.end();
    // SAFETY: allocated with this length for this object, and nobody is left to use it.
    unsafe { pool.release(at.cast(), len, region, || head.past()) };
}
