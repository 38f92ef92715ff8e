//! Memory used for what is alive, after traces of allocation that leave holes.
//!
//! Each contender runs in a process of its own, and touches every page that it is given. Two measures, both as growth
//! since before the allocator began, over the bytes that the program asked for and still holds: **resident**, and
//! **mapped** (writable mappings; of Lunasa the bytes of its blocks). And of Lunasa the bytes of its books, over those of
//! its blocks.

use std::ops::Range;
use std::process::Command;
use std::sync::LazyLock;

use lunasa::trace::{Action, Trace as Recording};

use super::contenders::{Allocator, Job, LUNASA, names, with_named};
use super::sizes;
use crate::Outcome;
use crate::report::Row;

const PAGE: usize = 4096;
/// What books may take of the blocks.
const BOOKS_GOAL: f64 = 0.01;

/// A trace of allocation.
#[derive(Clone)]
struct Shape {
    name: &'static str,
    trace: Trace,
    range: Range<usize>,
}

#[derive(Clone, Copy)]
enum Trace {
    /// Random ones of a working set are replaced.
    Replacement { set: usize, steps: usize },
    /// Again and again many come, and only some stay.
    Bursts { bursts: usize, each: usize, stays: usize },
    /// They come and go first in, first out, and one of some stays.
    SlowGrowth { all: usize, young: usize, stays: usize },
    /// Threads that leave some to others, and end.
    Threads { threads: usize, at_once: usize, each: usize, stays: usize },
    /// A recorded one, up to where most is alive.
    Recorded(&'static Recorded),
}

/// A recording, read when it is needed.
type Recorded = LazyLock<Result<Recording, lunasa::Error>>;

/// Rank 0 of `make demo`.
static DEMO: Recorded = LazyLock::new(|| Recording::parse(include_bytes!("../../traces/demo.trace")));

const SHAPES: [Shape; 6] = [
    Shape {
        name: "random replacement",
        trace: Trace::Replacement { set: 10_000, steps: 200_000 },
        range: 64..64 << 10,
    },
    Shape {
        name: "random replacement, large",
        trace: Trace::Replacement { set: 5_000, steps: 50_000 },
        range: 64..1 << 20,
    },
    Shape { name: "bursts", trace: Trace::Bursts { bursts: 10, each: 20_000, stays: 10 }, range: 64..64 << 10 },
    Shape {
        name: "slow growth, long-lived between",
        trace: Trace::SlowGrowth { all: 200_000, young: 2_000, stays: 5 },
        range: 64..16 << 10,
    },
    Shape {
        name: "threads that end",
        trace: Trace::Threads { threads: 64, at_once: 8, each: 2_000, stays: 10 },
        range: 64..64 << 10,
    },
    Shape { name: "recorded, demo", trace: Trace::Recorded(&DEMO), range: 64..64 << 10 },
];

/// What is held, and what it comes to.
struct Holder<A: Allocator> {
    allocator: A,
    held: Vec<(A::Held, usize)>,
    live: usize,
}

impl<A: Allocator> Holder<A> {
    fn new(allocator: A) -> Self {
        Self { allocator, held: Vec::new(), live: 0 }
    }

    fn hold(&mut self, size: usize) {
        let held = self.allocator.allocate(size);
        let at = A::bytes(&held);
        for offset in (0..size).step_by(PAGE) {
            // SAFETY: within the memory that is held, and nobody else's.
            unsafe { at.add(offset).write_volatile(1) };
        }
        self.held.push((held, size));
        self.live += size;
    }

    fn release(&mut self, index: usize) {
        let (held, size) = self.held.swap_remove(index);
        self.allocator.release(held);
        self.live -= size;
    }

    /// Keeps one of `stays` from the `first` on, and releases the others.
    fn thin(&mut self, first: usize, stays: usize) {
        let young = self.held.split_off(first);
        for (index, (held, size)) in young.into_iter().enumerate() {
            if index % stays == 0 {
                self.held.push((held, size));
            } else {
                self.allocator.release(held);
                self.live -= size;
            }
        }
    }
}

struct Traced {
    shape: Shape,
    before: Footprint,
}

impl Job for Traced {
    type Made = Outcome<Used>;

    fn run<A: Allocator>(&self, _: &'static str, allocator: A) -> Outcome<Used> {
        let mut holder = Holder::new(allocator);
        self.shape.follow(&mut holder)?;
        let now = Footprint::of_this_process()?;
        let account = holder.allocator.account();
        let grown = now.mapped.saturating_sub(self.before.mapped);
        let mapped = account.as_ref().map_or(grown, |account| account.mapped) as f64;
        let books = account.map_or(f64::NAN, |account| account.bookkeeping as f64 / mapped);
        let (resident, live) = (now.resident.saturating_sub(self.before.resident) as f64, holder.live as f64);
        holder.held.into_iter().for_each(|(held, _)| holder.allocator.release(held));
        Ok(Used { resident: resident / live, mapped: mapped / live, books })
    }
}

/// What an allocator uses at the end of a trace.
#[derive(Clone, Copy)]
struct Used {
    /// Resident and mapped, per live byte.
    resident: f64,
    mapped: f64,
    /// Books per byte of blocks; NaN where they are not known.
    books: f64,
}

impl Shape {
    fn follow<A: Allocator>(&self, holder: &mut Holder<A>) -> Outcome {
        let mut random = sizes::random();
        let size = |random: &mut fastrand::Rng| sizes::log_uniform(&self.range, random);
        match self.trace {
            Trace::Replacement { set, steps } => {
                (0..set).for_each(|_| holder.hold(size(&mut random)));
                for _ in 0..steps {
                    holder.release(random.usize(0..set));
                    holder.hold(size(&mut random));
                }
            }
            Trace::Bursts { bursts, each, stays } => {
                for _ in 0..bursts {
                    let first = holder.held.len();
                    (0..each).for_each(|_| holder.hold(size(&mut random)));
                    holder.thin(first, stays);
                }
            }
            Trace::SlowGrowth { all, young, stays } => {
                for _ in 0..all / young {
                    let first = holder.held.len();
                    (0..young).for_each(|_| holder.hold(size(&mut random)));
                    holder.thin(first, stays);
                }
            }
            Trace::Threads { threads, at_once, each, stays } => {
                for _ in 0..threads / at_once {
                    let begun: Vec<_> = (0..at_once)
                        .map(|_| {
                            let mut theirs = Holder::new(holder.allocator.clone());
                            let (range, mut random) = (self.range.clone(), random.fork());
                            std::thread::spawn(move || {
                                (0..each).for_each(|_| theirs.hold(sizes::log_uniform(&range, &mut random)));
                                theirs.thin(0, stays);
                                theirs
                            })
                        })
                        .collect();
                    for thread in begun {
                        let theirs = thread.join().map_err(|_| "a thread of the trace panicked")?;
                        holder.live += theirs.live;
                        holder.held.extend(theirs.held);
                    }
                }
            }
            Trace::Recorded(recorded) => {
                let recording = recorded.as_ref().map_err(Clone::clone)?;
                let mut held: Vec<_> = (0..recording.objects()).map(|_| None).collect();
                for event in &recording.events()[..recording.peak().0] {
                    let place = &mut held[event.object as usize];
                    match event.action {
                        Action::Allocate { bytes, .. } => {
                            holder.hold(bytes.max(self.range.start));
                            *place = holder.held.pop();
                        }
                        Action::Drop => {
                            if let Some((held, size)) = place.take() {
                                holder.allocator.release(held);
                                holder.live -= size;
                            }
                        }
                    }
                }
                holder.held.extend(held.into_iter().flatten());
            }
        }
        Ok(())
    }
}

/// What the system says of a process, in bytes.
#[derive(Clone, Copy)]
struct Footprint {
    resident: u64,
    mapped: u64,
}

impl Footprint {
    fn of_this_process() -> Outcome<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<u64>().map(|kib| kib << 10)
        };
        let resident = field("RssAnon:")? + field("RssShmem:")?;
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let writable = maps.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (start, end) = words.next()?.split_once('-')?;
            let bytes = u64::from_str_radix(end, 16).ok()? - u64::from_str_radix(start, 16).ok()?;
            words.next()?.contains('w').then_some(bytes)
        });
        Ok(Self { resident, mapped: writable.sum() })
    }
}

/// `alloc-memory CONTENDER SHAPE`: follows a trace, and says what [`Used`] holds.
pub fn shape(arguments: &[String]) -> Outcome {
    let [name, shape] = arguments else { return Err("usage: alloc-memory CONTENDER SHAPE".into()) };
    let known = SHAPES.into_iter().find(|known| known.name == shape);
    let shape = known.ok_or_else(|| format!("no shape '{shape}'"))?;
    if let Trace::Recorded(recorded) = shape.trace {
        // Read before anything is measured.
        recorded.as_ref().map_err(Clone::clone)?;
    }
    let before = Footprint::of_this_process()?;
    let used = with_named(name, None, &Traced { shape, before })??;
    println!("{} {} {}", used.resident, used.mapped, used.books);
    Ok(())
}

/// The rows.
pub fn rows(quick: bool) -> Outcome<Vec<Row>> {
    let (mut rows, mut books) = (Vec::new(), Vec::new());
    for shape in SHAPES.iter().take(if quick { 1 } else { SHAPES.len() }) {
        let lunasa = in_a_child(LUNASA, shape.name)?;
        let peers = names().into_iter().filter(|&name| name != LUNASA);
        let peers = peers.map(|name| Ok((name, in_a_child(name, shape.name)?))).collect::<Outcome<Vec<_>>>()?;
        let range = sizes::named_range(&shape.range);
        let row = |unit, value: f64| Row::new(shape.name, unit, value).with("bytes", range.clone());
        for (measure, of) in [("resident", (|used| used.resident) as fn(Used) -> f64), ("mapped", |used| used.mapped)] {
            let row = row("bytes per live byte", of(lunasa)).with("measure", measure);
            rows.push(peers.iter().fold(row, |row, &(name, used)| row.peer(name, of(used))));
        }
        books.push(row("bytes of books per byte of blocks", lunasa.books).peer("goal", BOOKS_GOAL));
    }
    rows.extend(books);
    Ok(rows)
}

fn in_a_child(name: &str, shape: &str) -> Outcome<Used> {
    let output = Command::new(std::env::current_exe()?).args(["alloc-memory", name, shape]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let numbers = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
    match numbers.as_deref() {
        Ok(&[resident, mapped, books]) if output.status.success() => Ok(Used { resident, mapped, books }),
        _ => Err(format!("{name} in {shape}: {said}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
