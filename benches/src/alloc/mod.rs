//! `alloc [--quick]`: an eager object against a `malloc` of the same size by the best general allocators.
//!
//! Times of the patterns of allocation and of what else is done with objects; instructions of a pair; memory used after
//! traces. The size is the user's: an object takes 64 bytes of headers more. Each peer writes 64 bytes, as the headers do.

mod contenders;
mod instructions;
mod memory;
mod objects;
mod partner;
mod patterns;
mod sizes;

use serde_json::Value;

use crate::Outcome;
use crate::measure::{Contender, compare};
use crate::report::{self, Row};
use contenders::{Eager, Job, names, with_each};
use patterns::{Batch, Pair, PairOnTwo, ProducerConsumer, RING, Replace, WORKING_SET, ring_alone};

pub use instructions::pairs;
pub use memory::shape;

const SIZES: [usize; 10] = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
const QUICK_SIZES: [usize; 3] = [64, 4 << 10, 1 << 20];
/// Objects of a batch, unless they would exceed [`BATCH_BYTES`].
const BATCH: usize = 1000;
const BATCH_BYTES: usize = 2 << 30;

/// Runs it; see the module.
pub fn run(arguments: &[String]) -> Outcome {
    let quick = match arguments {
        [] => false,
        [word] if word == "--quick" => true,
        other => return Err(format!("alloc knows the argument --quick, not {other:?}").into()),
    };
    let sizes = if quick { &QUICK_SIZES[..] } else { &SIZES[..] };
    let mut rows = Vec::new();
    for &size in sizes {
        rows.push(row("pair", size.into(), 1, 1, &Pair(size), 1)?);
    }
    for &size in sizes {
        let count = BATCH.min(BATCH_BYTES / size);
        rows.push(row("batch, then all released", size.into(), 1, count, &Batch { size, count }, count)?);
    }
    for range in [64..1 << 10, 64..64 << 10, 64..1 << 20].into_iter().take(if quick { 1 } else { 3 }) {
        let named = sizes::named_range(&range).into();
        rows.push(row("random replacement", named, 1, WORKING_SET, &Replace::new(range), 1)?);
    }
    for &size in sizes {
        rows.push(row("producer and consumer", size.into(), 2, RING, &ProducerConsumer(size), 1)?);
    }
    for &size in sizes {
        rows.push(row("two threads, each its own", size.into(), 2, 2, &PairOnTwo(size), 1)?);
    }
    rows.extend(objects::rows()?);
    rows.extend(instructions::rows()?);
    rows.extend(memory::rows(quick)?);
    let ring = compare(&mut [ring_alone()])?;
    let about = [
        ("contenders", names().join(", ")),
        ("missing", missing()),
        ("ring_alone_ns", format!("{:.1}", ring.first().copied().unwrap_or(f64::NAN))),
    ];
    report::write("alloc", &about, &rows)
}

/// Compares all contenders at a job; one time of it is `parts` allocations and releases.
fn row<J>(case: &str, bytes: Value, threads: usize, objects: usize, job: &J, parts: usize) -> Outcome<Row>
where
    J: Job<Made = Contender<'static>>,
{
    let lunasa = Eager::new()?;
    let mut contenders = with_each(&lunasa, job)?;
    let times = compare(&mut contenders)?;
    let mut named = contenders.iter().map(Contender::name).zip(times.iter().map(|time| time / parts as f64));
    let (_, own) = named.next().ok_or("no contenders")?;
    let row = Row::new(case, "ns", own).with("bytes", bytes).with("threads", threads).with("objects", objects);
    let row = named.fold(row, |row, (name, time)| row.peer(name, time));
    drop(contenders);
    lunasa.finish()?;
    Ok(row)
}

/// The peers that are not there, and why.
fn missing() -> String {
    let there = names();
    let known =
        [("snmalloc", "built without the feature snmalloc"), ("gperftools", "libtcmalloc-minimal4 is not installed")];
    let missing = known.iter().filter(|(name, _)| !there.contains(name));
    missing.map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; ")
}
