//! A shared mapping of a file that is unmapped when dropped.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// Mappings of at least this size begin at a multiple of it, so that huge pages fit.
pub(super) const HUGE: usize = 2 << 20;

/// `len` bytes mapped at `base`; owned.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; only raw pointers to it are given out.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method touches the mapped bytes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`, whose pages have `page` bytes (a power of two, at least an ordinary page):
    /// shared, at a multiple of `page`, and of [`HUGE`] when it is that long.
    pub(super) fn shared(file: BorrowedFd<'_>, len: usize, page: usize, writable: bool) -> io::Result<Self> {
        let align = if len >= HUGE { page.max(HUGE) } else { page };
        let slack = align - page_size();
        let room = len.checked_add(slack).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // Room with slack is reserved first, so that an aligned part of it can be taken.
        let reserved = Self { base: map(None, room, libc::PROT_NONE, libc::MAP_PRIVATE | RESERVE, -1)?, len: room };
        let lead = reserved.base.as_ptr().align_offset(align);
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: `lead` is at most `slack`, so the result is within the reserved room.
        let at = unsafe { reserved.base.add(lead) };
        map(Some(at), len, protection, libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd())?;
        std::mem::forget(reserved);
        // SAFETY: both are the parts of the reserved room that the mapping did not take; nothing points into them.
        unsafe {
            unmap(at.sub(lead), lead);
            unmap(at.add(len), slack - lead);
        }
        Ok(Self { base: at, len })
    }

    /// The first byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives the kernel `advice` (one that leaves contents alone) about the bytes from `from` on.
    pub(super) fn advise(&self, from: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        assert!(from + len <= self.len);
        #[cfg(test)]
        super::faults::pass()?;
        // SAFETY: the range is within this mapping; the advices that are used keep its contents.
        let code = unsafe { libc::madvise(self.base.as_ptr().add(from).cast(), len, advice) };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping; whoever dereferences a pointer into it vouches that this value lives.
        unsafe { unmap(self.base, self.len) }
    }
}

/// Flags of a mapping that only holds a place.
const RESERVE: libc::c_int = libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

fn map(at: Option<NonNull<u8>>, len: usize, prot: i32, flags: i32, file: i32) -> io::Result<NonNull<u8>> {
    #[cfg(test)]
    super::faults::pass()?;
    let hint = at.map_or(ptr::null_mut(), |at| at.as_ptr().cast());
    // SAFETY: without MAP_FIXED the kernel chooses free room; with it, the caller owns the room at `at`.
    let base = unsafe { libc::mmap(hint, len, prot, flags, file, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave the null address"))
}

/// Unmaps `len` bytes, if any.
///
/// # Safety
/// The range is mapped, owned by the caller, and no longer used.
unsafe fn unmap(base: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(base.as_ptr().cast(), len) };
    }
}

/// Bytes of an ordinary page.
pub(super) fn page_size() -> usize {
    // SAFETY: `sysconf` only returns a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
