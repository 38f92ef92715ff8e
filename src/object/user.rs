//! Memory that the program brings: it becomes the data of a user object, and goes back through a cleanup function.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use zerocopy::{FromBytes, IntoBytes};

use super::region::Shared;
use crate::registrar::{Region, Regions};

/// The program's memory, and what to do when Lunasa no longer needs it.
///
/// The cleanup function runs exactly once: when the last reference to the object is dropped, or when the object could not
/// be made. When a peer is being served from the memory at that moment, it runs when that is through, on the thread that
/// serves.
pub struct UserMemory {
    base: NonNull<u8>,
    len: usize,
    cleanup: Option<Box<dyn FnOnce() + Send>>,
    /// What this is a part of, when that is registered as a whole.
    within: Option<Arc<Shared>>,
}

// SAFETY: made from owners that are Send, or by `from_raw`, whose caller promises it.
unsafe impl Send for UserMemory {}
// SAFETY: through a shared reference only its address and its length can be had.
unsafe impl Sync for UserMemory {}

impl UserMemory {
    /// Any owner of a slice, such as a `Vec<f64>` or a `Box<[u32]>`; it is dropped when Lunasa is done.
    ///
    /// ```
    /// let memory = lunasa::UserMemory::owned::<f64, _>(vec![1.0; 1000]);
    /// assert_eq!(memory.len(), 8000);
    /// ```
    pub fn owned<T, O>(owner: O) -> Self
    where
        T: FromBytes + IntoBytes,
        O: AsMut<[T]> + Send + 'static,
    {
        // On the heap, where an owner that holds its elements inline does not move any more.
        let mut owner = Box::new(owner);
        let bytes = (*owner).as_mut();
        let len = size_of_val(bytes);
        let base = NonNull::from(bytes).cast();
        let owner = Box::into_raw(owner).expose_provenance();
        let cleanup = move || {
            // SAFETY: made by Box::into_raw above, and this runs once.
            drop(unsafe { Box::<O>::from_raw(std::ptr::with_exposed_provenance_mut(owner)) });
        };
        Self { base, len, cleanup: Some(Box::new(cleanup)), within: None }
    }

    /// `len` bytes at `base`, and a function that is called with the same two when Lunasa is done.
    ///
    /// # Safety
    /// The memory is initialised, valid for reads and writes, and used by nobody but through Lunasa, from any thread, until
    /// `cleanup` is called; `base` is not null.
    pub unsafe fn from_raw(base: *mut u8, len: usize, cleanup: impl FnOnce(*mut u8, usize) + Send + 'static) -> Self {
        let address = base.expose_provenance();
        let cleanup = move || cleanup(std::ptr::with_exposed_provenance_mut(address), len);
        // SAFETY: not null, by the caller's promise.
        let base = unsafe { NonNull::new_unchecked(base) };
        Self { base, len, cleanup: Some(Box::new(cleanup)), within: None }
    }

    /// A part of memory that is registered as a whole, and kept by `within`.
    pub(super) fn part(
        base: NonNull<u8>,
        len: usize,
        within: Arc<Shared>,
        cleanup: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { base, len, cleanup: Some(Box::new(cleanup)), within: Some(within) }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The region of these that it is a part of, registered with it.
    pub(super) fn region_in(&self, regions: &Regions) -> Option<Region> {
        self.within.as_ref().and_then(|within| within.region_of(regions))
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl<T: FromBytes + IntoBytes + Send + 'static> From<Vec<T>> for UserMemory {
    fn from(owner: Vec<T>) -> Self {
        Self::owned(owner)
    }
}

impl<T: FromBytes + IntoBytes + Send + 'static> From<Box<[T]>> for UserMemory {
    fn from(owner: Box<[T]>) -> Self {
        Self::owned(owner)
    }
}

impl fmt::Debug for UserMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserMemory({} bytes)", self.len)
    }
}

impl Drop for UserMemory {
    fn drop(&mut self) {
        if let Some(cleanup) = self.cleanup.take() {
            cleanup();
        }
    }
}

/// What a user object has besides its head: kept out of line.
#[derive(Debug)]
pub(crate) struct UserPart {
    pub memory: UserMemory,
    /// Region of the program's memory by itself; 0 for none yet, or none because it is part of a registered whole.
    pub region: AtomicU64,
    /// Region of the piece that holds the head, when it needed one of its own.
    pub piece_region: AtomicU64,
    /// Bytes of that piece.
    pub piece_len: usize,
}
