//! Aids to find what a program does wrong, and the recording of its allocations. A pool that has any takes the slow way for
//! every object, and tells it here.
//!
//! - **poison**: freed memory is filled with a pattern; what was written into it since is found when it is used again.
//! - **quarantine**: freed memory waits, first in, first out, before it goes back to the manager.
//! - **call sites**: where each object was allocated.
//! - **trace**: allocations and drops go to a file; see [`crate::trace`].

mod freed;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::snapshot::{LateWrite, LateWrites};
use crate::trace::Recorder;
use freed::{Freed, Had, fill};

/// Where in the program an object was allocated.
pub(crate) type CallSite = &'static Location<'static>;

/// Late writes that are kept to be shown; all are counted.
const KEPT: usize = 64;

/// Which aids are on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub poison: bool,
    /// Objects that wait; 0 for none.
    pub quarantine: usize,
    pub call_sites: bool,
    pub recorder: Option<Arc<Recorder>>,
}

impl Settings {
    pub(crate) fn any(&self) -> bool {
        self.poison || self.quarantine > 0 || self.call_sites || self.recorder.is_some()
    }
}

/// What an object was, told when its memory comes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    pub serial: u64,
    pub type_id: u32,
    pub type_name: Option<&'static str>,
    pub meta_len: u32,
    pub data_len: u64,
}

/// Memory on its way back to the manager: address and length.
pub(super) type Returned = (NonNull<u8>, usize);

/// The aids of one pool.
#[derive(Debug)]
pub(super) struct Aids {
    settings: Settings,
    pool: Arc<str>,
    lazy: bool,
    /// Whether freed memory stays mapped and untouched by the manager, and so can be looked at when it is used again.
    stays: bool,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    sites: HashMap<usize, CallSite>,
    /// Addresses and lengths of what waits.
    waiting: VecDeque<(usize, usize)>,
    waiting_bytes: u64,
    freed: Freed,
    late: LateWrites,
    closed: bool,
}

impl Aids {
    pub(super) fn new(settings: Settings, pool: Arc<str>, lazy: bool, stays: bool) -> Self {
        Self { settings, pool, lazy, stays, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece comes to a new object.
    ///
    /// # Safety
    /// The `len` bytes are the manager's fresh piece, which nobody uses yet, and what came back before is mapped still.
    pub(super) unsafe fn hand_out(&self, piece: NonNull<u8>, len: usize, serial: u64, site: CallSite) {
        let from = piece.as_ptr().expose_provenance();
        let mut found = Vec::new();
        {
            let mut books = self.books();
            // SAFETY: the caller's promise.
            unsafe { books.freed.claim(from, from + len, &mut found) };
            if self.settings.call_sites {
                books.sites.insert(from, site);
            }
        }
        self.report(found);
        if let Some(recorder) = &self.settings.recorder {
            recorder.allocated(self.lazy, serial, len);
        }
    }

    /// The piece of an object that is no more; what the manager gets back now.
    ///
    /// # Safety
    /// The `len` bytes are a piece of the pool's that nobody uses any more, whose first word is zero; what came back before
    /// is mapped still.
    pub(super) unsafe fn take_back(&self, piece: NonNull<u8>, len: usize, past: Past) -> Option<Returned> {
        if let Some(recorder) = &self.settings.recorder {
            recorder.dropped(self.lazy, past.serial);
        }
        let address = piece.as_ptr().expose_provenance();
        let mut books = self.books();
        let site = books.sites.remove(&address);
        if books.closed {
            return Some((piece, len));
        }
        if self.settings.poison {
            // SAFETY: the caller's promise.
            unsafe { fill(address, len) };
            if self.stays || self.settings.quarantine > 0 {
                books.freed.note(len, Had { pool: self.pool.clone(), address, past, site });
            }
        }
        if self.settings.quarantine == 0 {
            return Some((piece, len));
        }
        books.waiting.push_back((address, len));
        books.waiting_bytes += len as u64;
        if books.waiting.len() <= self.settings.quarantine {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe { self.let_go(books) }
    }

    /// What waits longest, on its way to the manager.
    ///
    /// # Safety
    /// What came back is mapped still.
    unsafe fn let_go(&self, mut books: MutexGuard<'_, Books>) -> Option<Returned> {
        let (address, len) = books.waiting.pop_front()?;
        books.waiting_bytes -= len as u64;
        let mut found = Vec::new();
        // SAFETY: the caller's promise.
        unsafe {
            if self.stays {
                books.freed.check(address, address + len, &mut found);
            } else {
                books.freed.claim(address, address + len, &mut found);
            }
        }
        drop(books);
        self.report(found);
        NonNull::new(std::ptr::with_exposed_provenance_mut(address)).map(|piece| (piece, len))
    }

    /// Ends the quarantine of what waits longest, to make room.
    ///
    /// # Safety
    /// As for [`Aids::take_back`].
    pub(super) unsafe fn give_up_one(&self) -> Option<Returned> {
        // SAFETY: the caller's promise.
        unsafe { self.let_go(self.books()) }
    }

    /// From now on nothing waits any more, and nothing is filled.
    pub(super) fn close(&self) {
        self.books().closed = true;
    }

    /// Looks at all freed memory.
    ///
    /// # Safety
    /// What came back is mapped still.
    pub(super) unsafe fn sweep(&self) {
        let mut found = Vec::new();
        // SAFETY: the caller's promise.
        unsafe { self.books().freed.check(0, usize::MAX, &mut found) };
        self.report(found);
    }

    fn report(&self, found: Vec<LateWrite>) {
        if found.is_empty() {
            return;
        }
        found.iter().for_each(|write| tracing::error!("late write: {write}"));
        let late = &mut self.books().late;
        late.count += found.len() as u64;
        let room = KEPT.saturating_sub(late.first.len());
        late.first.extend(found.into_iter().take(room));
    }

    pub(super) fn late_writes(&self) -> LateWrites {
        self.books().late.clone()
    }

    /// Objects that wait, and their bytes.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let books = self.books();
        (books.waiting.len() as u64, books.waiting_bytes)
    }

    /// Addresses of the pieces that wait.
    pub(super) fn waiting_pieces(&self) -> HashSet<usize> {
        self.books().waiting.iter().map(|&(address, _)| address).collect()
    }

    pub(super) fn call_site(&self, address: usize) -> Option<CallSite> {
        self.books().sites.get(&address).copied()
    }
}
