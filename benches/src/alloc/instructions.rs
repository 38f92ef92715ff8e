//! Instructions of a pair, counted by valgrind: they do not wobble.

use std::process::{Command, Stdio};

use super::contenders::{Allocator, Job, LUNASA, names, with_named};
use super::sizes;
use crate::Outcome;
use crate::report::Row;

const SIZES: [usize; 2] = [256, 4 << 10];
/// Pairs of the shorter run and of the longer one: what they differ by is what pairs cost.
const COUNTS: [u32; 2] = [1_000, 101_000];

struct Pairs {
    size: usize,
    count: u32,
}

impl Job for Pairs {
    type Made = ();

    fn run<A: Allocator>(&self, _: &'static str, allocator: A) {
        for _ in 0..self.count {
            allocator.release(allocator.allocate(self.size));
        }
    }
}

/// `alloc-pair CONTENDER SIZE COUNT`: so many pairs, to be counted.
pub fn pairs(arguments: &[String]) -> Outcome {
    let [name, size, count] = arguments else { return Err("usage: alloc-pair CONTENDER SIZE COUNT".into()) };
    with_named(name, None, &Pairs { size: size.parse()?, count: count.parse()? })
}

/// The rows; none, and a word about it, where there is no valgrind.
pub fn rows() -> Outcome<Vec<Row>> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("alloc: no valgrind here, so no instructions are counted");
        return Ok(Vec::new());
    }
    SIZES.into_iter().map(row).collect()
}

fn row(size: usize) -> Outcome<Row> {
    let mut row = Row::new(&format!("pair, {}", sizes::named(size)), "instructions", per_pair(LUNASA, size)?);
    for name in names().into_iter().filter(|&name| name != LUNASA) {
        match per_pair(name, size) {
            Ok(count) => row = row.peer(name, count),
            // Some map more than valgrind has room for.
            Err(why) => println!("alloc: the instructions of {name} are not counted: {why}"),
        }
    }
    Ok(row)
}

fn per_pair(name: &str, size: usize) -> Outcome<f64> {
    let [few, many] = [collected(name, size, COUNTS[0])?, collected(name, size, COUNTS[1])?];
    Ok((many as f64 - few as f64) / f64::from(COUNTS[1] - COUNTS[0]))
}

/// All instructions of a run of [`pairs`].
fn collected(name: &str, size: usize, count: u32) -> Outcome<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["alloc-pair", name, &size.to_string(), &count.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let found = said.lines().find_map(|line| line.split_once("Collected :").map(|(_, number)| number.trim()));
    match found {
        Some(number) if output.status.success() => Ok(number.parse()?),
        _ => {
            let own = said.lines().filter(|line| !line.is_empty() && !line.starts_with("=="));
            let own = own.collect::<Vec<_>>().join("; ");
            Err(format!("under valgrind it ended with {}: {own}", output.status).into())
        }
    }
}
