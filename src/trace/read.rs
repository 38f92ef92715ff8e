//! Reading a trace: nothing in it is believed before it was looked at.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::format::{Before, CHUNK_HEAD, Cursor, END, HEADERS, MAGIC, MOST_EVENTS, START, Written, wrong};
use super::{Action, Event, Trace};
use crate::error::{Error, Result};

/// An event, and where in the file it is.
type Placed = (usize, Written);

impl Trace {
    /// Reads the bytes of a trace file. One that ends early, as that of a run that was killed does, gives what it holds; then
    /// [`Trace::is_whole`] is false.
    ///
    /// # Errors
    /// [`Error::Trace`] with the offset of the first byte that cannot be right.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let rank = read_start(&mut cursor)?;
        let mut threads: BTreeMap<u32, Vec<Placed>> = BTreeMap::new();
        let mut whole = false;
        while let Some(head) = cursor.take::<CHUNK_HEAD>() {
            let at = cursor.at - CHUNK_HEAD;
            let [thread, len] = [0, 4].map(|from| u32::from_le_bytes([0, 1, 2, 3].map(|byte| head[from + byte])));
            if thread == END {
                if len != 0 || cursor.left() > 0 {
                    return Err(wrong(at, "the mark of the end is followed by something"));
                }
                whole = true;
                break;
            }
            let len = len as usize;
            if len == 0 || len > MOST_EVENTS {
                return Err(wrong(at, &format!("a chunk of {len} bytes; it must be 1 to {MOST_EVENTS}")));
            }
            if len > cursor.left() {
                break;
            }
            let mut chunk = cursor.part(len);
            let (mut before, events) = (Before::default(), threads.entry(thread).or_default());
            while chunk.left() > 0 {
                let at = chunk.at;
                let event = before.read(&mut chunk)?;
                if events.last().is_some_and(|(_, last)| last.time > event.time) {
                    return Err(wrong(at, "an event is earlier than the one before it on its thread"));
                }
                events.push((at, event));
            }
            cursor.at += len;
        }
        let threads: Vec<Vec<Placed>> = threads.into_values().collect();
        let mut merge = Merge { whole, ..Merge::default() };
        merge.run(&threads)?;
        Ok(Self { rank, threads: threads.len(), objects: merge.objects.len(), whole, events: merge.events })
    }
}

fn read_start(cursor: &mut Cursor) -> Result<u32> {
    if cursor.left() < START {
        return Err(Error::Trace(format!("{} bytes; a trace has at least {START}", cursor.left())));
    }
    if cursor.take() != Some(MAGIC) {
        return Err(wrong(0, "it does not begin with \"LUNATRC1\""));
    }
    let mut word = || cursor.take().map(u32::from_le_bytes).unwrap_or_default();
    match [word(), word()] {
        [rank, headers] if headers as usize == HEADERS => Ok(rank),
        [_, headers] => Err(wrong(12, &format!("objects have headers of {headers} bytes, not of {HEADERS}"))),
    }
}

/// The events of all threads in one order: that of their times, and no drop before its allocation.
#[derive(Default)]
struct Merge {
    whole: bool,
    /// Each object's number, and whether it was dropped.
    objects: HashMap<(bool, u64), (u32, bool)>,
    events: Vec<Event>,
    /// Threads whose next event is the drop of an object that is not there yet.
    waiting: HashMap<(bool, u64), Vec<usize>>,
    /// The others, the one with the earliest next event first.
    ready: BinaryHeap<Reverse<(u64, usize)>>,
    next: Vec<usize>,
}

impl Merge {
    fn run(&mut self, threads: &[Vec<Placed>]) -> Result<()> {
        self.next = vec![0; threads.len()];
        (0..threads.len()).for_each(|thread| self.queue(threads, thread));
        loop {
            while let Some(Reverse((_, thread))) = self.ready.pop() {
                self.take(threads, thread)?;
            }
            // What is left waits for allocations that are not in the trace.
            let waiting =
                self.waiting.iter().flat_map(|(&key, threads)| threads.iter().map(move |&thread| (key, thread)));
            let earliest = waiting.min_by_key(|&(_, thread)| threads[thread][self.next[thread]].1.time);
            let Some((key, thread)) = earliest else { return Ok(()) };
            if self.whole {
                let at = threads[thread][self.next[thread]].0;
                return Err(wrong(at, &format!("object {} is dropped, but never allocated", key.1)));
            }
            // They were in a chunk that did not get into the file.
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.retain(|&other| other != thread);
                if waiting.is_empty() {
                    self.waiting.remove(&key);
                }
            }
            self.next[thread] += 1;
            self.queue(threads, thread);
        }
    }

    fn queue(&mut self, threads: &[Vec<Placed>], thread: usize) {
        if let Some((_, event)) = threads[thread].get(self.next[thread]) {
            self.ready.push(Reverse((event.time, thread)));
        }
    }

    /// Takes the next event of a thread.
    fn take(&mut self, threads: &[Vec<Placed>], thread: usize) -> Result<()> {
        let (at, event) = threads[thread][self.next[thread]];
        let key = (event.lazy, event.serial);
        let (object, action) = match (event.bytes, self.objects.get_mut(&key)) {
            (Some(_), Some(_)) => return Err(wrong(at, &format!("object {} is allocated twice", event.serial))),
            (Some(bytes), None) => {
                let object = u32::try_from(self.objects.len()).map_err(|_| wrong(at, "more than 2^32 objects"))?;
                self.objects.insert(key, (object, false));
                for waiting in self.waiting.remove(&key).unwrap_or_default() {
                    self.queue(threads, waiting);
                }
                (object, Action::Allocate { bytes: bytes as usize - HEADERS, lazy: event.lazy })
            }
            (None, Some((_, true))) => return Err(wrong(at, &format!("object {} is dropped twice", event.serial))),
            (None, Some((object, dropped))) => {
                *dropped = true;
                (*object, Action::Drop)
            }
            (None, None) => {
                self.waiting.entry(key).or_default().push(thread);
                return Ok(());
            }
        };
        self.events.push(Event { time_ns: event.time, thread: thread as u32, object, action });
        self.next[thread] += 1;
        self.queue(threads, thread);
        Ok(())
    }
}
