//! Touching a block before it is used, with several threads near it, so that no later access waits for a page.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::mapping::Mapping;
use super::pages::{PageKind, Pages};
use crate::topology::CpuList;

/// How pages are made present. Only the first tells a shortage as an error for every kind of page, so the others are
/// for kernels that lack it (before 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `madvise(MADV_POPULATE_WRITE)`.
    Populate,
    /// A write to each page; for reserved huge pages after `fallocate`, without which a shortage would be a SIGBUS.
    Write,
}

impl Method {
    /// The best one that this kernel has.
    pub(super) fn best() -> Self {
        static BEST: OnceLock<Method> = OnceLock::new();
        *BEST.get_or_init(|| {
            // SAFETY: an empty range is looked at by no one; the call only says whether it knows the advice.
            let code = unsafe { libc::madvise(std::ptr::null_mut(), 0, libc::MADV_POPULATE_WRITE) };
            if code == 0 { Self::Populate } else { Self::Write }
        })
    }
}

/// At least this many bytes are worth a thread of their own.
const PER_THREAD: usize = 32 << 20;
/// More threads than this do not make a block come faster.
const MAX_AUTO_THREADS: usize = 16;
/// What one thread does before it looks whether another one failed.
const PIECE: usize = 64 << 20;

/// How many threads touch `len` bytes: `asked`, or by itself (0) as many as the block and the `cpus` near it are worth.
pub(super) fn threads(asked: usize, len: usize, cpus: usize) -> usize {
    let most = if asked == 0 { (len / PER_THREAD).min(cpus).min(MAX_AUTO_THREADS) } else { asked };
    most.max(1)
}

/// Makes every page of `mapping` (of `file`) present, from `threads` threads that keep to `cpus` (when there are any).
pub(super) fn touch(
    mapping: &Mapping,
    file: BorrowedFd<'_>,
    pages: Pages,
    method: Method,
    threads: usize,
    cpus: &CpuList,
) -> io::Result<()> {
    #[cfg(test)]
    super::faults::pass()?;
    let count = mapping.len() / pages.size;
    let threads = threads.min(count);
    let failed = AtomicBool::new(false);
    let share = |i: usize| {
        let (from, to) = (count * i / threads * pages.size, count * (i + 1) / threads * pages.size);
        let step = PIECE.next_multiple_of(pages.size);
        for at in (from..to).step_by(step) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            piece(mapping, file, pages, method, at, step.min(to - at))
                .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let spawn = |i| {
            let near = move || {
                keep_to(cpus);
                share(i)
            };
            thread::Builder::new().name("lunasa-touch".into()).spawn_scoped(scope, near)
        };
        let workers: Vec<_> = (0..threads).map(|i| (i, spawn(i))).collect();
        workers.into_iter().try_for_each(|(i, worker)| match worker {
            Ok(worker) => worker.join().unwrap_or_else(|_| Err(io::Error::other("a touching thread panicked"))),
            // No more threads to be had (RLIMIT_NPROC): this one does it.
            Err(_) => share(i),
        })
    })
}

/// Lets the calling thread run on `cpus` only. A wish: where the pages came to be is looked at afterwards.
fn keep_to(cpus: &CpuList) {
    let mask = cpus.to_mask();
    if !mask.is_empty() {
        // SAFETY: the mask has as many bytes as said; the call only reads it.
        unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(mask.as_slice()), mask.as_ptr().cast()) };
    }
}

fn piece(
    mapping: &Mapping,
    file: BorrowedFd<'_>,
    pages: Pages,
    method: Method,
    from: usize,
    len: usize,
) -> io::Result<()> {
    if method == Method::Populate {
        return mapping.advise(from, len, libc::MADV_POPULATE_WRITE).map_err(|error| match error.raw_os_error() {
            Some(libc::EFAULT) => io::Error::other(
                "the kernel has no page to give (an access would be a SIGBUS): is a hugetlb cgroup's limit reached?",
            ),
            _ => error,
        });
    }
    if pages.kind == PageKind::HugeReserved {
        // SAFETY: the call takes numbers only.
        let code = unsafe { libc::fallocate(file.as_raw_fd(), 0, from as libc::off_t, len as libc::off_t) };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for at in (from..from + len).step_by(pages.size) {
        // SAFETY: `at` is within the mapping, which is writable, new, and known to no one else yet.
        unsafe { mapping.base().as_ptr().add(at).write_volatile(0) };
    }
    Ok(())
}
