//! Locking memory into RAM, with an error that names the limit.

use std::fmt;
use std::fs;
use std::io;
use std::ptr::NonNull;

use super::limits::{kib_after, resource_limits};
use crate::error::{Error, Result};
use crate::sizes::bytes;

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
    /// What `mlock` holds, which is counted by itself.
    locked: u64,
    /// CAP_IPC_LOCK, perhaps only within a user namespace.
    may_lock: bool,
}

/// Bytes of the pages that a range is on, which is what limits count.
pub(crate) fn in_pages(base: NonNull<u8>, len: usize) -> u64 {
    let (from, page) = (base.as_ptr().addr() as u64, 4096);
    (from + len as u64).next_multiple_of(page) - from / page * page
}

impl Pins {
    /// Reads them.
    pub(crate) fn read() -> Self {
        let (soft, hard) = resource_limits(libc::RLIMIT_MEMLOCK);
        // Read once: this is done for every registration with a device.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key| kib_after(&status, key).unwrap_or(0);
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        let may_lock = effective & 1 << CAP_IPC_LOCK != 0;
        Self { soft, hard, pinned: bytes("VmPin:"), locked: bytes("VmLck:"), may_lock }
    }

    /// The limit and what is left of it, unless the process is exempt.
    pub(crate) fn left(&self) -> Option<(u64, u64)> {
        self.soft
            .filter(|_| !(self.may_lock && on_the_host()))
            .map(|limit| (limit, limit.saturating_sub(self.pinned.max(self.locked))))
    }

    /// Whether the limit refuses `len` bytes more at `base`. It counts whole pages; and a process that holds more than
    /// the limit already is exempt from it.
    pub(crate) fn refuse(&self, base: NonNull<u8>, len: usize) -> bool {
        self.soft.is_some_and(|limit| self.pinned <= limit && self.pinned + in_pages(base, len) > limit)
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

/// Whether capabilities are those of the host: this is the first of all user namespaces.
fn on_the_host() -> bool {
    let ids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    ids.split_whitespace().eq(["0", "0", "4294967295"])
}

const CAP_IPC_LOCK: u32 = 14;

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
        let pins = |soft, pinned| Pins { soft, hard: None, pinned, locked: 0, may_lock: false };
        assert!(!pins(Some(8192), 4096).refuse(at(0x10000), 4096));
        assert!(pins(Some(8192), 4096).refuse(at(0x10001), 4096), "on two pages");
        assert!(!pins(None, u64::MAX / 2).refuse(at(0x10000), 4096));
        assert!(!pins(Some(8192), 12288).refuse(at(0x10000), 1 << 30), "over the limit already");
    }
}
