//! Mapping a peer's block: opened through `/proc`, and proved to be the block meant before it is mapped.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;

use super::limits::Limits;
use super::mapping::Mapping;
use crate::error::{Error, Result};
use crate::sizes::bytes;

/// A block of another process on this host, mapped; unmapped when dropped. It outlives the peer.
#[derive(Debug)]
pub struct PeerMapping {
    mapping: Mapping,
}

impl PeerMapping {
    /// Maps the block `name` of `len` bytes that the process `pid` (as this process's PID namespace counts) holds as its
    /// descriptor `fd`.
    ///
    /// PIDs and descriptors are reused, and coincide between PID namespaces. So the file is first opened without any
    /// effect on it, and only one that is a memfd of that very name and length is mapped.
    ///
    /// # Errors
    /// [`Error::Memory`] when the process or the descriptor is not there, may not be looked at, or is something else.
    pub fn open(pid: u32, fd: i32, name: &str, len: usize, writable: bool) -> Result<Self> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let failed = |why: String| Error::Memory(format!("peer's block {name:?} at {path}: {why}"));
        let unread = |error: io::Error| failed(error.to_string());
        let reference = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path);
        let reference = reference.map_err(|error| failed(advice(&error)))?;
        let own = format!("/proc/self/fd/{}", reference.as_raw_fd());
        let found = fs::read_link(&own).map_err(unread)?;
        let page = page_bytes(&reference).map_err(unread)?;
        let expected = format!("/memfd:{name} (deleted)");
        let Some(page) = page.filter(|_| found.as_os_str().as_bytes() == expected.as_bytes()) else {
            return Err(failed(format!("is {found:?}, another file; the peer has ended or released the block")));
        };
        let size = reference.metadata().map_err(unread)?.len();
        if size != len as u64 || len == 0 {
            return Err(failed(format!("has {}, not the {} that were told", bytes(size), bytes(len as u64))));
        }
        let file = OpenOptions::new().read(true).write(writable).open(&own).map_err(|error| failed(advice(&error)))?;
        let mapping = Mapping::shared(file.as_fd(), len, page, writable)
            .map_err(|error| failed(format!("mmap of {}: {error}. Limits: {}", bytes(size), Limits::read())))?;
        Ok(Self { mapping })
    }

    /// The first byte. The bytes stay mapped as long as this value lives; the peer may write them at any time.
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// The length in bytes.
    #[allow(clippy::len_without_is_empty)] // a block is never empty
    pub fn len(&self) -> usize {
        self.mapping.len()
    }
}

/// Bytes of one page of a file in memory (tmpfs or hugetlbfs, which memfds are of); `None` for any other file.
fn page_bytes(file: &File) -> io::Result<Option<usize>> {
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let in_memory = stat.f_type == libc::TMPFS_MAGIC || stat.f_type == libc::HUGETLBFS_MAGIC;
    Ok(in_memory.then_some(stat.f_bsize as usize))
}

/// An error of opening through `/proc`, with what it means there.
fn advice(error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::ENOENT) => "no such process or descriptor; the peer has ended or released the block",
        Some(libc::EACCES | libc::EPERM) => {
            "may not be looked at: the peer must run as the same user and be dumpable (prctl PR_SET_DUMPABLE)"
        }
        _ => "cannot be opened",
    };
    format!("{meaning} ({error})")
}
