//! Traces of allocation: recorded by a run (`lunasa.trace.record`), read, and played again with any allocator, so that
//! settings are chosen on a program's own traffic. `docs/traces.md` has the format.

mod format;
mod play;
mod read;
mod record;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::error::{Error, Result};

pub(crate) use format::HEADERS;
pub use play::{Player, Script};
pub(crate) use record::Recorder;

/// What one rank allocated and dropped, in the order of time.
///
/// ```no_run
/// let trace = lunasa::trace::Trace::read("run.trace.0".as_ref())?;
/// println!("{} objects on {} threads", trace.objects(), trace.threads());
/// # Ok::<(), lunasa::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    rank: u32,
    threads: usize,
    objects: usize,
    whole: bool,
    events: Vec<Event>,
}

/// An allocation or a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the trace began.
    pub time_ns: u64,
    /// The thread, counted from 0.
    pub thread: u32,
    /// The object, counted from 0.
    pub object: u32,
    /// What was done with it.
    pub action: Action,
}

/// What an [`Event`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The object was allocated.
    Allocate {
        /// Bytes for metadata and data: its capacity. Its headers of 64 bytes are not counted.
        bytes: usize,
        /// Whether in the lazy pool.
        lazy: bool,
    },
    /// Its last reference was dropped.
    Drop,
}

impl Trace {
    /// Reads a trace file.
    ///
    /// # Errors
    /// [`Error::Trace`] when it cannot be read, and as for [`Trace::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let named = |error: &dyn std::fmt::Display| Error::Trace(format!("{}: {error}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| named(&error))?;
        Self::parse(&bytes).map_err(|error| match error {
            Error::Trace(why) => named(&why),
            other => other,
        })
    }

    /// The rank that recorded it.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of threads that allocated or dropped something.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Number of objects allocated.
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// Whether it was recorded to its end. Otherwise drops are missing at the end, and so are objects whose allocation was
    /// not written.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What happened; no drop comes before its allocation.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// How many events it takes until most bytes are alive, and how many bytes those are.
    pub fn peak(&self) -> (usize, u64) {
        let mut sizes = vec![0; self.objects];
        let (mut live, mut peak) = (0, (0, 0));
        for (index, event) in self.events.iter().enumerate() {
            match event.action {
                Action::Allocate { bytes, .. } => {
                    sizes[event.object as usize] = bytes as u64;
                    live += bytes as u64;
                }
                Action::Drop => live -= sizes[event.object as usize],
            }
            if live > peak.1 {
                peak = (index + 1, live);
            }
        }
        peak
    }

    /// Makes it ready to be played.
    pub fn script(&self) -> Script {
        Script::new(self)
    }

    /// Plays it on this thread until most bytes are alive, and gives what is held then.
    ///
    /// # Errors
    /// The first that the player has; what was held is released.
    pub fn play_to_peak<P: Player>(&self, player: &P) -> Result<Vec<P::Held>> {
        let mut held: Vec<Option<P::Held>> = (0..self.objects).map(|_| None).collect();
        let mut done = Ok(());
        for event in &self.events[..self.peak().0] {
            let place = &mut held[event.object as usize];
            match event.action {
                Action::Allocate { bytes, lazy } => match player.allocate(bytes, lazy) {
                    Ok(made) => *place = Some(made),
                    Err(error) => {
                        done = Err(error);
                        break;
                    }
                },
                Action::Drop => place.take().into_iter().for_each(|held| player.release(held)),
            }
        }
        let held = held.into_iter().flatten();
        match done {
            Ok(()) => Ok(held.collect()),
            Err(error) => {
                held.for_each(|held| player.release(held));
                Err(error)
            }
        }
    }
}
