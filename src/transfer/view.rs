//! Views: a peer's object on this host, read where it lies.

use std::fmt;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::shm::Peer;
use crate::error::{Error, HandleFault, Result};
use crate::memory::{self, PeerMapping};
use crate::object::{PinnedObject, RemoteHandle, Section};

/// What keeps the memory of a view mapped.
pub(super) enum Keep {
    /// The object is this rank's own.
    Own(#[expect(dead_code, reason = "held, not looked at")] PinnedObject),
    /// The peer, and the mappings of its blocks.
    Peer(Arc<Peer>, #[expect(dead_code, reason = "held, not looked at")] Vec<Arc<PeerMapping>>),
}

/// A peer's object on the same host, not copied.
///
/// The peer may write to it at any time, so there are no slices of it: [`View::read`] copies out, [`View::value`] reads
/// one value. The memory stays readable as long as the view lives; when the peer drops the object, it may come to hold
/// another ([`View::is_current`] tells).
pub struct View {
    handle: RemoteHandle,
    meta: (*mut u8, usize),
    data: (*mut u8, usize),
    keep: Keep,
}

// SAFETY: the memory is only read, by copies that allow for writers; what keeps it is Send and Sync.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Both ranges are readable as long as `keep` lives.
    pub(super) fn new(handle: RemoteHandle, meta: (*mut u8, usize), data: (*mut u8, usize), keep: Keep) -> Self {
        Self { handle, meta, data, keep }
    }

    /// Bytes of metadata.
    pub fn meta_len(&self) -> usize {
        self.meta.1
    }

    /// Bytes of data.
    pub fn data_len(&self) -> usize {
        self.data.1
    }

    fn section(&self, section: Section) -> Result<(*mut u8, usize)> {
        match section {
            Section::Meta => Ok(self.meta),
            Section::Data => Ok(self.data),
            other => Err(Error::Object(format!("a view shows metadata and data, not the {other}"))),
        }
    }

    /// Copies `into.len()` bytes from `offset` of the metadata or the data.
    ///
    /// # Errors
    /// [`Error::Handle`] when they are not within the section, or when the object is no longer the one that was viewed;
    /// [`Error::Object`] for another section.
    pub fn read(&self, section: Section, offset: usize, into: &mut [u8]) -> Result<()> {
        let (at, len) = self.section(section)?;
        if offset > len || into.len() > len - offset {
            let end = offset.saturating_add(into.len());
            return Err(
                HandleFault::OutOfBounds(format!("bytes {offset}..{end} of the {section}, which has {len}")).into()
            );
        }
        // SAFETY: within the section, which is readable as long as `self`.
        unsafe { memory::copy(at.add(offset), into.as_mut_ptr(), into.len()) };
        if self.is_current() {
            Ok(())
        } else {
            Err(HandleFault::Stale("the object was dropped by its owner".to_owned()).into())
        }
    }

    /// Value number `index` of the data, seen as values of `T`, read with one copy of its bytes.
    ///
    /// # Errors
    /// As for [`View::read`].
    pub fn value<T: FromBytes>(&self, index: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        let offset = index.saturating_mul(size_of::<T>());
        // SAFETY: the bytes of a value that is ours; any bytes are valid for T.
        let bytes = unsafe { std::slice::from_raw_parts_mut((&raw mut value).cast::<u8>(), size_of::<T>()) };
        self.read(Section::Data, offset, bytes)?;
        Ok(value)
    }

    /// Whether the peer still has the object there.
    pub fn is_current(&self) -> bool {
        match &self.keep {
            Keep::Own(_) => true,
            Keep::Peer(peer, _) => peer.has(&self.handle),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({:?})", self.handle)
    }
}
