//! The C library's malloc as a memory manager, with a list of what is handed out.

use std::collections::HashMap;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{ALIGN, Counts, Holdings, Marks};
use crate::error::{Error, Result};

const SHARDS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Malloc {
    /// Length of every piece, by address.
    pieces: [Mutex<HashMap<usize, usize>>; SHARDS],
    allocations: AtomicU64,
    drops: AtomicU64,
    bytes: AtomicU64,
    total: AtomicU64,
    marks: Marks,
    /// Bytes handed out, with rounding, and the most that ever were.
    managed: [AtomicU64; 2],
}

impl Malloc {
    fn shard(&self, address: usize) -> MutexGuard<'_, HashMap<usize, usize>> {
        self.pieces[(address >> 6) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn allocate(&self, len: usize) -> Result<(NonNull<u8>, u64)> {
        let refused = || Error::Memory(format!("malloc refused {len} bytes; see `free` and `ulimit -v`"));
        let rounded = len.max(1).checked_next_multiple_of(ALIGN).ok_or_else(refused)?;
        // SAFETY: the alignment is a power of two and divides the length.
        let piece = unsafe { libc::aligned_alloc(ALIGN, rounded) };
        // What it holds is somebody's old bytes, not "uninitialised" in the language's sense: hide where it came from.
        let piece = NonNull::new(black_box(piece).cast::<u8>()).ok_or_else(refused)?;
        // SAFETY: at least 64 bytes, ours alone, aligned. A zero word says that no object begins there yet, to a walk that
        // finds the piece in the list.
        unsafe { piece.cast::<u64>().write(0) };
        self.shard(piece.as_ptr().addr()).insert(piece.as_ptr().addr(), rounded);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.total.fetch_add(len as u64, Ordering::Relaxed);
        self.marks.tell(1, len as i64);
        let managed = self.managed[0].fetch_add(rounded as u64, Ordering::Relaxed) + rounded as u64;
        self.managed[1].fetch_max(managed, Ordering::Relaxed);
        Ok((piece, self.allocations.fetch_add(1, Ordering::Relaxed) + 1))
    }

    /// # Safety
    /// As for [`super::Manager::release`].
    pub(crate) unsafe fn release(&self, piece: NonNull<u8>, len: usize) {
        let address = piece.as_ptr().addr();
        let Some(rounded) = self.shard(address).remove(&address) else {
            tracing::error!(
                "released {address:#x}, which malloc did not hand out or which was released before; left alone"
            );
            return;
        };
        self.managed[0].fetch_sub(rounded as u64, Ordering::Relaxed);
        self.marks.tell(-1, -(len as i64));
        self.drops.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_sub(len as u64, Ordering::Relaxed);
        // SAFETY: it was in the list, so it came from aligned_alloc and was not freed since.
        unsafe { libc::free(piece.as_ptr().cast()) };
    }

    pub(crate) fn walk(&self, visit: &mut dyn FnMut(NonNull<u8>) -> bool) {
        for shard in &self.pieces {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for &address in shard.keys() {
                let piece = NonNull::new(std::ptr::with_exposed_provenance_mut(address));
                if !piece.is_none_or(&mut *visit) {
                    return;
                }
            }
        }
    }

    pub(crate) fn is_piece(&self, piece: NonNull<u8>) -> bool {
        self.shard(piece.as_ptr().addr()).contains_key(&piece.as_ptr().addr())
    }

    pub(crate) fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            allocations: get(&self.allocations),
            drops: get(&self.drops),
            bytes: get(&self.bytes),
            total: get(&self.total),
        }
    }

    pub(crate) fn check(&self, is_live: &dyn Fn(NonNull<u8>) -> bool) -> Result<(), String> {
        let mut lost = None;
        self.walk(&mut |piece| {
            lost = (!is_live(piece)).then_some(piece);
            lost.is_none()
        });
        lost.map_or(Ok(()), |piece| Err(format!("{piece:?} is handed out, but holds no object")))
    }

    pub(crate) fn holdings(&self) -> Holdings {
        let [used, most_managed] = [0, 1].map(|index: usize| self.managed[index].load(Ordering::Relaxed));
        let (most_objects, most_bytes) = self.marks.most(&self.counts());
        Holdings { managed: used, most_managed, used, most_objects, most_bytes, ..Holdings::default() }
    }
}
