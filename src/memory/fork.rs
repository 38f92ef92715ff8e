//! Knowing, without a system call, that this process is a forked child of one that used Lunasa.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static IN_CHILD: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// Makes [`in_forked_child`] true in every process forked from this one from now on. Calling it again does nothing.
pub fn install_fork_guard() {
    at_fork_in_child(&INSTALL, mark_child);
}

/// Whether this process was forked from one that had called [`install_fork_guard`]: it shares that process's blocks, but
/// is no rank, and must leave registrations alone. One load from memory.
///
/// ```
/// lunasa::memory::install_fork_guard();
/// assert!(!lunasa::memory::in_forked_child());
/// ```
#[inline]
pub fn in_forked_child() -> bool {
    IN_CHILD.load(Ordering::Relaxed)
}

/// # Errors
/// [`Error::Closed`] in a forked child.
#[inline]
pub(crate) fn not_in_forked_child() -> Result<()> {
    if in_forked_child() { Err(closed()) } else { Ok(()) }
}

#[cold]
fn closed() -> Error {
    Error::Closed(
        "this process was forked from a rank, and is none: it may read what objects it holds, and no more".to_owned(),
    )
}

extern "C" fn mark_child() {
    IN_CHILD.store(true, Ordering::Relaxed);
}

/// Has `handler` run in every process forked from this one from now on; `once` sees to it that it is entered once.
///
/// It may do only what the child of a process with many threads may: no locks, no allocator.
pub(crate) fn at_fork_in_child(once: &Once, handler: extern "C" fn()) {
    once.call_once(|| {
        // SAFETY: the handler keeps to the rule above, by the caller's word.
        let code = unsafe { libc::pthread_atfork(None, None, Some(handler)) };
        if code != 0 {
            // Only memory for the handler's record can be missing; without the guard, forking is as it is without Lunasa.
            tracing::warn!("pthread_atfork failed with error {code}: a forked child will not find Lunasa closed");
        }
    });
}
