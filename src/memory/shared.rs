//! A small shared mapping without NUMA wishes: the table of regions, the directory. Sparse until it is written.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use crate::error::{Error, Result, os_error};

/// A named memfd, mapped shared. Peers on this host open it with [`super::PeerMapping`].
#[derive(Debug)]
pub(crate) struct Shared {
    base: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
}

// SAFETY: a mapping may be used from any thread; what lies in it is atomic or has its own rules.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps `len` zeroed bytes under `name`.
    pub(crate) fn create(name: &str, len: usize) -> Result<Self> {
        let failed = |call: &str| {
            Error::Memory(format!("{call} of {len} bytes for {name}: {}; see `ulimit -v` and `ulimit -n`", os_error()))
        };
        let text = CString::new(name).map_err(|_| Error::Memory(format!("{name:?} cannot be a name")))?;
        // SAFETY: a terminated string; the result is checked.
        let raw = unsafe { libc::memfd_create(text.as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(failed("memfd_create"));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: our own descriptor.
        if unsafe { libc::ftruncate(raw, len as libc::off_t) } != 0 {
            return Err(failed("ftruncate"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping where the system likes; the result is checked.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED | libc::MAP_NORESERVE, raw, 0) };
        if base == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| failed("mmap"))?;
        Ok(Self { base, len, fd })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped in `create` with this length, and nobody borrows from it longer than it lives.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
