//! MPI's own one-sided memory, for comparison: a window of `MPI_Win_create`, locked for all by all the time.

use std::ffi::c_int;

use mpi::ffi;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

use crate::Outcome;

/// A window on one rank's memory.
pub struct Window(ffi::MPI_Win);

fn check(call: &str, code: c_int) -> Outcome {
    if code == ffi::MPI_SUCCESS as c_int { Ok(()) } else { Err(format!("{call} failed with code {code}").into()) }
}

impl Window {
    /// Collective.
    ///
    /// # Safety
    /// The memory stays as long as the window.
    pub unsafe fn create(world: &SimpleCommunicator, at: *mut u8, len: usize) -> Outcome<Self> {
        // SAFETY: a constant of the bindings, overwritten by the call.
        let mut raw = unsafe { ffi::RSMPI_WIN_NULL };
        // SAFETY: the caller's promise for the memory; the communicator is live.
        check("MPI_Win_create", unsafe {
            ffi::MPI_Win_create(at.cast(), len as isize, 1, ffi::RSMPI_INFO_NULL, world.as_raw(), &raw mut raw)
        })?;
        // SAFETY: a live window.
        check("MPI_Win_lock_all", unsafe { ffi::MPI_Win_lock_all(0, raw) })?;
        Ok(Self(raw))
    }

    /// Reads from the rank's window, and waits for it.
    pub fn get(&self, into: &mut [u8], rank: i32, offset: usize) -> Outcome {
        let (len, offset) = (into.len() as c_int, offset as isize);
        // SAFETY: the buffer is ours until the flush has returned; the window is live and locked.
        unsafe {
            let byte = ffi::RSMPI_UINT8_T;
            check("MPI_Get", ffi::MPI_Get(into.as_mut_ptr().cast(), len, byte, rank, offset, len, byte, self.0))?;
            check("MPI_Win_flush", ffi::MPI_Win_flush(rank, self.0))
        }
    }

    /// Writes to the rank's window, and waits until it is there.
    pub fn put(&self, from: &[u8], rank: i32, offset: usize) -> Outcome {
        let (len, offset) = (from.len() as c_int, offset as isize);
        // SAFETY: the buffer is ours until the flush has returned; the window is live and locked.
        unsafe {
            let byte = ffi::RSMPI_UINT8_T;
            check("MPI_Put", ffi::MPI_Put(from.as_ptr().cast(), len, byte, rank, offset, len, byte, self.0))?;
            check("MPI_Win_flush", ffi::MPI_Win_flush(rank, self.0))
        }
    }

    /// Collective.
    pub fn free(mut self) -> Outcome {
        // SAFETY: a live window that is not used again.
        unsafe {
            check("MPI_Win_unlock_all", ffi::MPI_Win_unlock_all(self.0))?;
            check("MPI_Win_free", ffi::MPI_Win_free(&raw mut self.0))
        }
    }
}
