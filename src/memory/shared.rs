//! A small shared mapping without NUMA wishes: the table of regions, the directory, the ledger of what is pinned. Sparse
//! until it is written.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use super::PeerMapping;
use super::limits::Limits;
use super::mapping::{Mapping, page_size};
use crate::error::{Error, Result, os_error};

/// A named memfd, mapped shared. Peers on this host open it with [`super::PeerMapping`].
#[derive(Debug)]
pub(crate) struct Shared {
    mapping: Mapping,
    fd: OwnedFd,
}

impl Shared {
    /// Maps `len` zeroed bytes under `name`.
    pub(crate) fn create(name: &str, len: usize) -> Result<Self> {
        let failed = |call: &str, why: String| {
            Error::Memory(format!("{call} of {len} bytes for {name}: {why}; see `ulimit -n -v`"))
        };
        if let Some(why) = Limits::read().file_refusal(len as u64) {
            return Err(failed("memfd", why));
        }
        let text = CString::new(name).map_err(|_| Error::Memory(format!("{name:?} cannot be a name")))?;
        // SAFETY: a terminated string; the result is checked.
        let raw = unsafe { libc::memfd_create(text.as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(failed("memfd_create", os_error()));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: our own descriptor.
        if unsafe { libc::ftruncate(raw, len as libc::off_t) } != 0 {
            return Err(failed("ftruncate", os_error()));
        }
        let mapping =
            Mapping::shared(fd.as_fd(), len, page_size(), true).map_err(|error| failed("mmap", error.to_string()))?;
        Ok(Self { mapping, fd })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Memory that the ranks of a host share: the one that made it has it as its own, the others map it.
#[derive(Debug)]
pub(crate) enum OfHost {
    Own(Shared),
    Peer(PeerMapping),
}

impl OfHost {
    pub(crate) fn base(&self) -> NonNull<u8> {
        match self {
            Self::Own(shared) => shared.base(),
            Self::Peer(mapping) => mapping.base(),
        }
    }

    /// The descriptor by which the others open it; -1 when it is another rank's.
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            Self::Own(shared) => shared.fd(),
            Self::Peer(_) => -1,
        }
    }
}
