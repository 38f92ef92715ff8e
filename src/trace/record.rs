//! Recording: each thread writes into a chunk of its own, and whole chunks go to the file.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::format::{Before, CHUNK_HEAD, END, LONGEST, MOST_EVENTS, Written, start_of};
use crate::error::{Error, Result, os_error};
use crate::memory;

/// Writes one rank's trace.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    began: Instant,
    /// Gone when it is finished, or could not be written.
    file: Mutex<Option<File>>,
    open: AtomicBool,
    threads: Mutex<Threads>,
    /// For threads that are ending and have no chunk any more.
    ending: Mutex<Chunk>,
}

#[derive(Debug, Default)]
struct Threads {
    /// How many there were.
    count: u32,
    /// The chunks of those that run.
    chunks: Vec<Arc<Mutex<Chunk>>>,
}

/// Events of one thread that are not in the file yet, behind room for the chunk's head.
#[derive(Debug)]
struct Chunk {
    thread: u32,
    bytes: Vec<u8>,
    before: Before,
}

impl Chunk {
    fn new(thread: u32) -> Self {
        let mut bytes = Vec::with_capacity(CHUNK_HEAD + MOST_EVENTS);
        bytes.resize(CHUNK_HEAD, 0);
        Self { thread, bytes, before: Before::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This thread's chunks, by recorder.
struct Mine(Vec<(Weak<Recorder>, Arc<Mutex<Chunk>>)>);

thread_local! {
    static MINE: RefCell<Mine> = const { RefCell::new(Mine(Vec::new())) };
}

impl Drop for Mine {
    fn drop(&mut self) {
        for (recorder, chunk) in self.0.drain(..) {
            if let Some(recorder) = recorder.upgrade() {
                recorder.flush(&mut lock(&chunk));
                lock(&recorder.threads).chunks.retain(|known| !Arc::ptr_eq(known, &chunk));
            }
        }
    }
}

/// The file of a rank: `%r` in the name stands for the rank; where there is none, `.RANK` is appended.
fn path_of(name: &Path, rank: u32) -> PathBuf {
    let (name, rank) = (name.to_string_lossy(), rank.to_string());
    if name.contains("%r") { name.replace("%r", &rank).into() } else { format!("{name}.{rank}").into() }
}

impl Recorder {
    /// Begins a rank's trace.
    ///
    /// # Errors
    /// [`Error::Trace`] when its file cannot be made, or is being written by somebody else.
    pub(crate) fn create(name: &Path, rank: u32) -> Result<Arc<Self>> {
        let path = path_of(name, rank);
        let failed = |what: &str, why: String| {
            Error::Trace(format!("lunasa.trace.record: {} {what}: {why}; choose another file", path.display()))
        };
        let mut file = (OpenOptions::new().create(true).truncate(false).write(true).open(&path))
            .map_err(|error| failed("cannot be made", error.to_string()))?;
        // SAFETY: a descriptor that is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(failed("cannot be had alone (two instances of a process need two names)", os_error()));
        }
        let begun = file.set_len(0).and_then(|()| file.write_all(&start_of(rank)));
        begun.map_err(|error| failed("cannot be written", error.to_string()))?;
        Ok(Arc::new(Self {
            path,
            began: Instant::now(),
            file: Mutex::new(Some(file)),
            open: AtomicBool::new(true),
            threads: Mutex::default(),
            ending: Mutex::new(Chunk::new(0)),
        }))
    }

    /// An object of `len` bytes, headers included, was allocated.
    pub(crate) fn allocated(self: &Arc<Self>, lazy: bool, serial: u64, len: usize) {
        self.note(lazy, serial, Some(len as u64));
    }

    /// An object was dropped.
    pub(crate) fn dropped(self: &Arc<Self>, lazy: bool, serial: u64) {
        self.note(lazy, serial, None);
    }

    fn note(self: &Arc<Self>, lazy: bool, serial: u64, bytes: Option<u64>) {
        if !self.open.load(Ordering::Relaxed) {
            return;
        }
        let add = |chunk: &Mutex<Chunk>| {
            let mut chunk = lock(chunk);
            let Chunk { bytes: events, before, .. } = &mut *chunk;
            // Read under the chunk's lock, so that the events of a chunk are in the order of their times.
            let time = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            before.write(Written { time, lazy, serial, bytes }, events);
            if events.len() > CHUNK_HEAD + MOST_EVENTS - LONGEST {
                self.flush(&mut chunk);
            }
        };
        let noted = MINE.try_with(|mine| {
            let mut mine = mine.borrow_mut();
            let known = mine.0.iter().position(|(recorder, _)| std::ptr::eq(recorder.as_ptr(), Arc::as_ptr(self)));
            let index = known.unwrap_or_else(|| {
                mine.0.retain(|(recorder, _)| recorder.strong_count() > 0);
                mine.0.push((Arc::downgrade(self), self.new_chunk()));
                mine.0.len() - 1
            });
            add(&mine.0[index].1);
        });
        if noted.is_err() {
            add(&self.ending);
        }
    }

    fn new_chunk(&self) -> Arc<Mutex<Chunk>> {
        let mut threads = lock(&self.threads);
        threads.count += 1;
        let chunk = Arc::new(Mutex::new(Chunk::new(threads.count)));
        threads.chunks.push(chunk.clone());
        chunk
    }

    /// Puts a chunk's events into the file, and empties it.
    fn flush(&self, chunk: &mut Chunk) {
        let len = chunk.bytes.len() - CHUNK_HEAD;
        if len > 0 {
            chunk.bytes[..4].copy_from_slice(&chunk.thread.to_le_bytes());
            chunk.bytes[4..CHUNK_HEAD].copy_from_slice(&(len as u32).to_le_bytes());
            self.write(&chunk.bytes);
            chunk.bytes.truncate(CHUNK_HEAD);
            chunk.before = Before::default();
        }
    }

    /// An error is reported, and ends the recording.
    fn write(&self, bytes: &[u8]) {
        // The file is the parent's.
        if memory::in_forked_child() {
            return;
        }
        let mut file = lock(&self.file);
        if let Some(open) = file.as_mut()
            && let Err(error) = open.write_all(bytes)
        {
            tracing::error!("{}: {error}; the trace ends here, the program goes on", self.path.display());
            self.open.store(false, Ordering::Relaxed);
            *file = None;
        }
    }

    /// Writes what all threads have, and the mark that says that the trace is whole.
    pub(crate) fn finish(&self) {
        self.open.store(false, Ordering::Relaxed);
        let chunks = lock(&self.threads).chunks.clone();
        chunks.iter().map(|chunk| &**chunk).chain([&self.ending]).for_each(|chunk| self.flush(&mut lock(chunk)));
        let mut mark = END.to_le_bytes().to_vec();
        mark.extend(0u32.to_le_bytes());
        self.write(&mark);
        *lock(&self.file) = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::trace::Trace;

    #[test]
    fn an_error_of_writing_ends_the_recording_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&directory.path().join("t"), 0).unwrap();
        let path = directory.path().join("t.0");
        (0..10_000).for_each(|serial| recorder.allocated(false, serial, 100));
        let written = std::fs::read(&path).unwrap();
        // As a full disk does: nothing can be written any more.
        *lock(&recorder.file) = Some(File::open(&path).unwrap());
        (10_000..20_000).for_each(|serial| recorder.allocated(false, serial, 100));
        assert!(!recorder.open.load(Ordering::Relaxed) && lock(&recorder.file).is_none());
        recorder.finish();
        assert_eq!(std::fs::read(&path).unwrap(), written);
        assert!(Trace::parse(&written).unwrap().objects() > 5000);
    }

    #[test]
    fn threads_that_come_and_go_leave_no_chunk_behind() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&directory.path().join("t"), 0).unwrap();
        for serial in 0..100 {
            std::thread::scope(|scope| {
                scope.spawn(|| recorder.allocated(false, serial, 100)).join().unwrap();
            });
        }
        assert_eq!(lock(&recorder.threads).chunks.len(), 0);
        recorder.finish();
        let trace = Trace::read(&directory.path().join("t.0")).unwrap();
        assert_eq!((trace.threads(), trace.objects()), (100, 100));
    }

    #[test]
    fn each_rank_has_a_file_of_its_own() {
        assert_eq!(path_of(Path::new("a/t.trace"), 3), Path::new("a/t.trace.3"));
        assert_eq!(path_of(Path::new("a%r/t%r.trace"), 12), Path::new("a12/t12.trace"));
    }
}
