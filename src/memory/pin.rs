//! Locking memory into RAM, with an error that names the limit.

use std::fmt;
use std::fs;
use std::io;
use std::ptr::NonNull;

use super::limits::{bytes, kib_after, resource_limits};
use crate::error::{Error, Result};

/// Locks `len` bytes at `base` into RAM (`mlock`). Locks do not nest: one [`unlock`] undoes any number.
///
/// # Errors
/// [`Error::Memory`], naming RLIMIT_MEMLOCK and what to change, or saying that the range is not mapped.
pub fn lock(base: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the call reads and writes no memory of ours; a range that is not mapped gives an error.
    if unsafe { libc::mlock(base.as_ptr().cast(), len) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let ((limit, hard), locked) = (resource_limits(libc::RLIMIT_MEMLOCK), status_bytes("VmLck:"));
    let fits = limit.is_none_or(|limit| locked + len as u64 <= limit);
    let reason = if fits && error.raw_os_error() == Some(libc::ENOMEM) {
        "some of the range is not mapped, or the process has too many mappings (vm.max_map_count)".to_owned()
    } else {
        raise_memlock(hard)
    };
    Err(Error::Memory(format!(
        "cannot lock {} at {base:?}: {error}; RLIMIT_MEMLOCK is {}, {} locked already; {reason}",
        bytes(len as u64),
        said(limit),
        bytes(locked)
    )))
}

/// Undoes [`lock`] for `len` bytes at `base` (`munlock`).
///
/// # Errors
/// [`Error::Memory`] when some of the range is not mapped.
pub fn unlock(base: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: as in `lock`.
    if unsafe { libc::munlock(base.as_ptr().cast(), len) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(Error::Memory(format!("cannot unlock {} at {base:?}: {error}; is it still mapped?", bytes(len as u64))))
}

/// How much a device may keep in memory for this process (RLIMIT_MEMLOCK), and how much it does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pins {
    soft: Option<u64>,
    hard: Option<u64>,
    pinned: u64,
}

impl Pins {
    /// Reads them.
    pub(crate) fn read() -> Self {
        let (soft, hard) = resource_limits(libc::RLIMIT_MEMLOCK);
        Self { soft, hard, pinned: status_bytes("VmPin:") }
    }

    /// Whether the limit refuses `len` bytes more at `base`. It counts whole pages; and a process that holds more than
    /// the limit already is exempt from it.
    pub(crate) fn refuse(&self, base: NonNull<u8>, len: usize) -> bool {
        let (from, page) = (base.as_ptr().addr() as u64, 4096);
        let pages = (from + len as u64).next_multiple_of(page) - from / page * page;
        self.soft.is_some_and(|limit| self.pinned <= limit && self.pinned + pages > limit)
    }

    /// What to change when the limit is in the way.
    pub(crate) fn advice(&self) -> String {
        raise_memlock(self.hard)
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RLIMIT_MEMLOCK is {}, {} pinned already", said(self.soft), bytes(self.pinned))
    }
}

fn said(limit: Option<u64>) -> String {
    limit.map_or("unlimited".into(), bytes)
}

fn raise_memlock(hard: Option<u64>) -> String {
    format!(
        "raise the limit: `ulimit -l unlimited` in the shell, `memlock` in /etc/security/limits.conf, or LimitMEMLOCK of \
         the service; under Slurm set LimitMEMLOCK=infinity for slurmd and PropagateResourceLimits so that the login \
         node's limit is not taken over (hard limit {})",
        said(hard)
    )
}

/// A line of this process's status that counts bytes.
fn status_bytes(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib_after(&status, key).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_refuses_by_whole_pages_and_spares_who_is_exempt() {
        let at = |address| NonNull::new(std::ptr::without_provenance_mut(address)).unwrap_or(NonNull::dangling());
        let pins = |soft, pinned| Pins { soft, hard: None, pinned };
        assert!(!pins(Some(8192), 4096).refuse(at(0x10000), 4096));
        assert!(pins(Some(8192), 4096).refuse(at(0x10001), 4096), "on two pages");
        assert!(!pins(None, u64::MAX / 2).refuse(at(0x10000), 4096));
        assert!(!pins(Some(8192), 12288).refuse(at(0x10000), 1 << 30), "over the limit already");
    }
}
