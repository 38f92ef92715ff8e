//! Faults for tests: the n-th step that this thread takes in mapping, binding, touching or looking fails as it would when
//! memory is short. Other crates' builds, and the threads of other tests, know nothing of it.

use std::cell::Cell;
use std::io;

thread_local! {
    /// Steps until one fails; 0 for never.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// The `n`-th step from now on (from 1) fails on this thread, and no other.
pub(crate) fn fail_at(n: usize) {
    LEFT.set(n);
}

/// Calls it off; whether it had failed.
pub(crate) fn called_off() -> bool {
    LEFT.replace(0) == 0
}

/// A step that could fail.
pub(crate) fn pass() -> io::Result<()> {
    match LEFT.get() {
        0 => Ok(()),
        left => {
            LEFT.set(left - 1);
            if left == 1 { Err(io::Error::from_raw_os_error(libc::ENOMEM)) } else { Ok(()) }
        }
    }
}
