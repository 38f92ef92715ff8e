//! Locking memory into RAM, with an error that names the limit.

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
    let ((limit, hard), locked) = (resource_limits(libc::RLIMIT_MEMLOCK), locked_bytes());
    let said = |limit: Option<u64>| limit.map_or("unlimited".into(), bytes);
    let fits = limit.is_none_or(|limit| locked + len as u64 <= limit);
    let reason = if fits && error.raw_os_error() == Some(libc::ENOMEM) {
        "some of the range is not mapped, or the process has too many mappings (vm.max_map_count)".to_owned()
    } else {
        format!(
            "raise the limit: `ulimit -l unlimited` in the shell, `memlock` in /etc/security/limits.conf, or \
             LimitMEMLOCK of the service; under Slurm set LimitMEMLOCK=infinity for slurmd and \
             PropagateResourceLimits so that the login node's limit is not taken over (hard limit {})",
            said(hard)
        )
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

/// What this process has locked now.
fn locked_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib_after(&status, "VmLck:").unwrap_or(0)
}
