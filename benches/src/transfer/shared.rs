//! Memory that two processes of a host share, without any of Lunasa: what the peers move their bytes from and to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use crate::Outcome;

/// A mapping of a memfd, touched.
pub struct SharedMemory {
    file: File,
    at: *mut u8,
    len: usize,
}

impl SharedMemory {
    /// Fresh memory of `len` bytes.
    pub fn create(len: usize) -> Outcome<Self> {
        // SAFETY: a terminated string.
        let fd = unsafe { libc::memfd_create(c"lunasa-bench".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(len as u64)?;
        Self::map(file, len)
    }

    /// The same memory, as another process on this host made it.
    pub fn open(pid: u32, fd: i32, len: usize) -> Outcome<Self> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| format!("{path}: {error}"))?;
        Self::map(file, len)
    }

    fn map(file: File, len: usize) -> Outcome<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping, wherever the system puts it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        Ok(Self { file, at: at.cast(), len })
    }

    /// The descriptor by which another process opens it.
    pub fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// The first byte. The other process may read and write the bytes too.
    pub fn at(&self) -> *mut u8 {
        self.at
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody uses it any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
