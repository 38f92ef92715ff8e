//! Endings that are not good ones: these are started by tests that judge how the job ends, not by the matrix.

use super::support::*;
use lunasa::{Error, Lunasa};
use mpi::topology::SimpleCommunicator;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `panic WHERE`: the last rank panics while the others are in `finish`, in a `get`, or in a `barrier`.
pub fn panic(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let lunasa = start(world, &["self", "mpi"])?;
    let object = lunasa.object().zeroed().data(1_000_000)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    let last = lunasa.ranks() - 1;
    if lunasa.rank() == last {
        std::thread::sleep(Duration::from_millis(300));
        println!("panics at {:.3}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
        panic!("rank {last} has had enough");
    }
    match arguments.first().map(String::as_str) {
        Some("finish") => drop(lunasa.finish()?),
        Some("get") => loop {
            lunasa.fetch(&handles[last as usize])?;
        },
        Some("barrier") => meet(world, &lunasa),
        other => return Err(format!("no place {other:?} to be while a rank panics").into()),
    }
    // Nobody gets here: the job has ended.
    Err("a job went on after a panic".into())
}

/// `split`: started so that each rank is a job of its own; every one of them says so.
pub fn split(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    match Lunasa::start(world, config(ROUTES[0])?) {
        Err(Error::Start { rank: 0, reason, .. }) if reason.starts_with("launch: ") => {
            println!("ok split: {reason}");
            Ok(())
        }
        other => Err(format!("a job that was split by its launcher: {other:?}").into()),
    }
}
