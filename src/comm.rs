//! The MPI calls that Lunasa makes, each checked: the only room that calls MPI.
//!
//! rsmpi's high-level calls ignore MPI's return codes, so these go to `mpi::ffi` on a duplicate of the program's
//! communicator whose error handler returns. Messages are bytes. The rule for threads is MPI's own: with less than
//! `MPI_THREAD_MULTIPLE` only the thread that initialised MPI calls (see [`Comm::may_call`]).

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use mpi::ffi;
use mpi::traits::Communicator;

use crate::error::{Error, Result};
use crate::memory;

/// Longest message in one MPI call: counts are `int`.
pub(crate) const MAX_MESSAGE: usize = 1 << 30;

/// A communicator of our own: a duplicate, so that our messages never meet the program's.
#[derive(Debug)]
pub(crate) struct Comm {
    raw: ffi::MPI_Comm,
    rank: u32,
    size: u32,
    multiple: bool,
}

// SAFETY: the handle is plain data for MPI, which allows calls from any thread under MPI_THREAD_MULTIPLE; below that
// level, callers keep to the main thread, as the module's rule says and `may_call` tells.
unsafe impl Send for Comm {}
// SAFETY: as above.
unsafe impl Sync for Comm {}

/// A message or a barrier under way. Test it until it is done; dropping one that is not leaks MPI's request.
#[derive(Debug)]
pub(crate) struct Pending(ffi::MPI_Request);

// SAFETY: a request handle may be tested from any thread under the same rule as the communicator.
unsafe impl Send for Pending {}

/// Where a message came from, and its length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub source: u32,
    pub len: usize,
}

fn check(call: &'static str, code: c_int) -> Result<()> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut len: c_int = 0;
    // SAFETY: the buffer has MPI_MAX_ERROR_STRING bytes, as MPI_Error_string demands.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &raw mut len) };
    let text = String::from_utf8_lossy(&text[..(len.max(0) as usize).min(text.len())]).into_owned();
    Err(Error::Mpi { call, code, text })
}

fn byte() -> ffi::MPI_Datatype {
    // SAFETY: a constant of the bindings, set before main. (MPI_BYTE itself is not bound on MPICH.)
    unsafe { ffi::RSMPI_UINT8_T }
}

impl Comm {
    /// Duplicates the program's communicator. Collective.
    pub(crate) fn duplicate(comm: &impl Communicator) -> Result<Self> {
        // SAFETY: `comm` is a live communicator; `raw` is written by the call.
        let raw = unsafe {
            let mut raw = ffi::RSMPI_COMM_NULL;
            check("MPI_Comm_dup", ffi::MPI_Comm_dup(comm.as_raw(), &raw mut raw))?;
            raw
        };
        Self::own(raw)
    }

    /// Splits by colour; ranks keep their order. Collective.
    pub(crate) fn split(&self, color: u32) -> Result<Self> {
        let mut raw = self.raw;
        let color = (color & 0x7fff_ffff) as c_int;
        // SAFETY: `self.raw` is live; `raw` is written by the call.
        check("MPI_Comm_split", unsafe { ffi::MPI_Comm_split(self.raw, color, self.rank as c_int, &raw mut raw) })?;
        Self::own(raw)
    }

    fn own(raw: ffi::MPI_Comm) -> Result<Self> {
        let (mut rank, mut size, mut level) = (0, 0, 0);
        // SAFETY: `raw` is a live communicator that we own; the others are written by the calls.
        unsafe {
            check("MPI_Comm_set_errhandler", ffi::MPI_Comm_set_errhandler(raw, ffi::RSMPI_ERRORS_RETURN))?;
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(raw, &raw mut rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(raw, &raw mut size))?;
            check("MPI_Query_thread", ffi::MPI_Query_thread(&raw mut level))?;
        }
        // SAFETY: a constant of the bindings.
        let multiple = level == unsafe { ffi::RSMPI_THREAD_MULTIPLE };
        Ok(Self { raw, rank: rank as u32, size: size as u32, multiple })
    }

    /// Frees the communicator. Collective, and the last use of it.
    pub(crate) fn free(&self) -> Result<()> {
        let mut raw = self.raw;
        // SAFETY: we own it, and the caller makes this its last use.
        check("MPI_Comm_free", unsafe { ffi::MPI_Comm_free(&raw mut raw) })
    }

    pub(crate) fn rank(&self) -> u32 {
        self.rank
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Whether MPI lets every thread call it.
    pub(crate) fn multiple(&self) -> bool {
        self.multiple
    }

    /// Whether the calling thread may call MPI: one of a forked child never may.
    pub(crate) fn may_call(&self) -> bool {
        !memory::in_forked_child()
            && (self.multiple || {
                let mut main = 0;
                // SAFETY: allowed from every thread at every level; `main` is written by the call.
                unsafe { ffi::MPI_Is_thread_main(&raw mut main) == ffi::MPI_SUCCESS as c_int && main != 0 }
            })
    }

    pub(crate) fn barrier_start(&self) -> Result<Pending> {
        let mut request = null_request();
        // SAFETY: live communicator; `request` is written by the call.
        check("MPI_Ibarrier", unsafe { ffi::MPI_Ibarrier(self.raw, &raw mut request) })?;
        Ok(Pending(request))
    }

    /// The least of everybody's values. Collective.
    pub(crate) fn all_min(&self, value: u64) -> Result<u64> {
        let mut least = 0u64;
        let buffers = ((&raw const value).cast(), (&raw mut least).cast());
        // SAFETY: both buffers are one u64.
        check("MPI_Allreduce", unsafe {
            ffi::MPI_Allreduce(buffers.0, buffers.1, 1, ffi::RSMPI_UINT64_T, ffi::RSMPI_MIN, self.raw)
        })?;
        Ok(least)
    }

    /// Rank `root`'s bytes, on every rank; the others' `mine` is ignored. Collective.
    pub(crate) fn broadcast(&self, root: u32, mine: Vec<u8>) -> Result<Vec<u8>> {
        let mut len = mine.len() as u64;
        // SAFETY: the buffer is one u64.
        check("MPI_Bcast", unsafe {
            ffi::MPI_Bcast((&raw mut len).cast(), 1, ffi::RSMPI_UINT64_T, root as c_int, self.raw)
        })?;
        let mut bytes = if self.rank == root { mine } else { vec![0; len as usize] };
        for piece in bytes.chunks_mut(MAX_MESSAGE) {
            // SAFETY: the buffer is `piece.len()` bytes, the same on every rank.
            check("MPI_Bcast", unsafe {
                ffi::MPI_Bcast(piece.as_mut_ptr().cast(), piece.len() as c_int, byte(), root as c_int, self.raw)
            })?;
        }
        Ok(bytes)
    }

    /// Everybody's bytes, one after another by rank, on rank 0; nothing elsewhere. All lengths are equal. Collective.
    pub(crate) fn gather(&self, mine: &[u8]) -> Result<Vec<u8>> {
        let mut all = vec![0u8; if self.rank == 0 { mine.len() * self.size as usize } else { 0 }];
        // SAFETY: the send buffer is `mine`; on the root `all` holds `size` times as much.
        check("MPI_Gather", unsafe {
            let len = mine.len() as c_int;
            ffi::MPI_Gather(mine.as_ptr().cast(), len, byte(), all.as_mut_ptr().cast(), len, byte(), 0, self.raw)
        })?;
        Ok(all)
    }

    /// Everybody's bytes (of any length), on every rank, with the place where each rank's begin. Collective.
    pub(crate) fn all_gather(&self, mine: &[u8]) -> Result<(Vec<u8>, Vec<usize>)> {
        let too_long = |n: usize| Error::Launch(format!("{n} bytes to exchange at start; MPI counts end at 2^31 - 1"));
        let len = c_int::try_from(mine.len()).map_err(|_| too_long(mine.len()))?;
        let mut lens = vec![0 as c_int; self.size as usize];
        // SAFETY: one int from each rank into `size` ints (sent as bytes of the same width).
        check("MPI_Allgather", unsafe {
            let width = size_of::<c_int>() as c_int;
            ffi::MPI_Allgather(
                (&raw const len).cast(),
                width,
                byte(),
                lens.as_mut_ptr().cast(),
                width,
                byte(),
                self.raw,
            )
        })?;
        let mut starts = Vec::with_capacity(lens.len() + 1);
        let mut total = 0usize;
        for &len in &lens {
            starts.push(total);
            total += len as usize;
        }
        starts.push(total);
        if c_int::try_from(total).is_err() {
            return Err(too_long(total));
        }
        let displacements: Vec<c_int> = starts.iter().map(|&s| s as c_int).collect();
        let mut all = vec![0u8; total];
        // SAFETY: `all` holds the sum of `lens`, and each displacement is where its part begins.
        check("MPI_Allgatherv", unsafe {
            let (lens, places) = (lens.as_ptr(), displacements.as_ptr());
            ffi::MPI_Allgatherv(
                mine.as_ptr().cast(),
                len,
                byte(),
                all.as_mut_ptr().cast(),
                lens,
                places,
                byte(),
                self.raw,
            )
        })?;
        Ok((all, starts))
    }

    /// Begins to send.
    ///
    /// # Safety
    /// `data` is readable for `len` bytes until the returned request is done.
    pub(crate) unsafe fn send_start(&self, data: *const u8, len: usize, to: u32, tag: i32) -> Result<Pending> {
        debug_assert!(len <= MAX_MESSAGE);
        let mut request = null_request();
        // SAFETY: the caller keeps the buffer; its length fits an int.
        check("MPI_Isend", unsafe {
            ffi::MPI_Isend(data.cast::<c_void>(), len as c_int, byte(), to as c_int, tag, self.raw, &raw mut request)
        })?;
        Ok(Pending(request))
    }

    /// Begins to receive.
    ///
    /// # Safety
    /// `data` is writable for `len` bytes, and nobody else uses them, until the returned request is done.
    pub(crate) unsafe fn receive_start(&self, data: *mut u8, len: usize, from: u32, tag: i32) -> Result<Pending> {
        debug_assert!(len <= MAX_MESSAGE);
        let mut request = null_request();
        // SAFETY: the caller keeps the buffer; its length fits an int.
        check("MPI_Irecv", unsafe {
            ffi::MPI_Irecv(data.cast::<c_void>(), len as c_int, byte(), from as c_int, tag, self.raw, &raw mut request)
        })?;
        Ok(Pending(request))
    }

    /// Receives a message with this tag from anybody, if one has arrived.
    pub(crate) fn poll(&self, tag: i32) -> Result<Option<(Envelope, Vec<u8>)>> {
        let mut flag = 0;
        let mut status = MaybeUninit::<ffi::MPI_Status>::uninit();
        // SAFETY: a constant of the bindings, then values written by the call.
        let mut message = unsafe { ffi::RSMPI_MESSAGE_NULL };
        // SAFETY: all three are written by the call.
        check("MPI_Improbe", unsafe {
            let from = ffi::RSMPI_ANY_SOURCE;
            ffi::MPI_Improbe(from, tag, self.raw, &raw mut flag, &raw mut message, status.as_mut_ptr())
        })?;
        if flag == 0 {
            return Ok(None);
        }
        // SAFETY: with the flag set the status is filled.
        let envelope = unsafe { envelope(status.assume_init_ref()) }?;
        let mut data = vec![0u8; envelope.len];
        // SAFETY: the buffer is as long as the matched message.
        check("MPI_Mrecv", unsafe {
            let len = envelope.len as c_int;
            ffi::MPI_Mrecv(data.as_mut_ptr().cast(), len, byte(), &raw mut message, ffi::RSMPI_STATUS_IGNORE)
        })?;
        Ok(Some((envelope, data)))
    }
}

impl Pending {
    /// Whether it is done, and then what arrived. Not to be called again after that.
    pub(crate) fn test(&mut self) -> Result<Option<Envelope>> {
        let mut flag = 0;
        let mut status = MaybeUninit::<ffi::MPI_Status>::zeroed();
        // SAFETY: the request is ours; flag and status are written by the call.
        check("MPI_Test", unsafe { ffi::MPI_Test(&raw mut self.0, &raw mut flag, status.as_mut_ptr()) })?;
        if flag == 0 {
            return Ok(None);
        }
        // SAFETY: the status is zeroed (all-zero is valid) or filled.
        unsafe { envelope(status.assume_init_ref()) }.map(Some)
    }

    /// Asks MPI to give up a receive; it still has to be tested until it is done.
    pub(crate) fn cancel(&mut self) -> Result<()> {
        // SAFETY: the request is ours and not done.
        check("MPI_Cancel", unsafe { ffi::MPI_Cancel(&raw mut self.0) })
    }
}

/// Ends the whole job. Returns only when MPI does not obey.
pub(crate) fn abort_job(code: i32) {
    let (mut up, mut down) = (0, 0);
    // SAFETY: both calls are allowed at any time; MPI_Abort only between init and finalize.
    unsafe {
        if ffi::MPI_Initialized(&raw mut up) == 0 && ffi::MPI_Finalized(&raw mut down) == 0 && up != 0 && down == 0 {
            ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code);
        }
    }
}

/// Size of `MPI_COMM_WORLD`.
pub(crate) fn world_size() -> u32 {
    let mut size = 0;
    // SAFETY: MPI is up whenever a program has a communicator to start with; `size` is written by the call.
    unsafe { ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &raw mut size) };
    size.max(0) as u32
}

/// First line of the MPI library's own version text.
pub(crate) fn library_version() -> String {
    mpi::environment::library_version()
        .map(|text| {
            text.lines().next().unwrap_or_default().split(", package").next().unwrap_or_default().trim().to_owned()
        })
        .unwrap_or_else(|_| "MPI".to_owned())
}

fn null_request() -> ffi::MPI_Request {
    // SAFETY: a constant of the bindings.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

fn envelope(status: &ffi::MPI_Status) -> Result<Envelope> {
    let mut len = 0;
    // SAFETY: `status` is a filled status; the result is written by the call.
    check("MPI_Get_count", unsafe { ffi::MPI_Get_count(ptr::from_ref(status), byte(), &raw mut len) })?;
    Ok(Envelope { source: status.MPI_SOURCE.max(0) as u32, len: len.max(0) as usize })
}
