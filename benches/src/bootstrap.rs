//! `bootstrap`: what a start costs beyond telling everybody 64 bytes about everybody, and what the directory takes.

use std::time::Instant;

use lunasa::{Config, Lunasa};
use mpi::collective::SystemOperation;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

use crate::Outcome;
use crate::measure::median;
use crate::report::{self, Row};

/// Starts in one job, of which the median is taken.
const STARTS: usize = 15;
/// Bytes that every rank tells the others.
const ENTRY: usize = 64;

/// Runs it; see the module.
pub fn run(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    let mut rows = Vec::new();
    let mut pages = String::new();
    for (case, block) in [("start, default blocks", "64 MiB"), ("start, smallest blocks", "1 MiB")] {
        let config =
            Config::new().set("lunasa.status.enabled", false)?.set("lunasa.tcmalloc.min_system_alloc", block)?;
        let (mut starts, mut bare, mut directory) = (Vec::new(), Vec::new(), 0);
        for _ in 0..STARTS {
            bare.push(slowest(world, || {
                let mut all = vec![0u8; ENTRY * world.size() as usize];
                world.barrier();
                world.all_gather_into(&[world.rank() as u8; ENTRY], &mut all[..]);
                Ok(())
            })?);
            let mut started = None;
            starts.push(slowest(world, || {
                started = Some(Lunasa::start(world, config.clone())?);
                Ok(())
            })?);
            if let Some(lunasa) = started {
                directory = lunasa.directory_bytes();
                pages = lunasa.snapshot().blocks.first().map_or_else(String::new, |block| block.page_kind.clone());
                lunasa.finish()?;
            }
        }
        let bare = median(bare);
        let row = Row::new(case, "s", median(starts) - bare)
            .with("ranks", world.size())
            .with("directory_bytes_per_host", directory)
            .with("directory_bytes_per_rank_of_the_job_and_host", directory as f64 / f64::from(world.size()))
            .with("directory_bytes_of_a_rank's_own", 0)
            .peer("MPI barrier and allgather of 64 B a rank", bare);
        rows.push(row);
    }
    if world.rank() == 0 {
        report::write("bootstrap", &[("pages_of_blocks", pages)], &rows)?;
    }
    Ok(())
}

/// Seconds from when all ranks are there until the slowest has done it.
fn slowest(world: &SimpleCommunicator, once: impl FnOnce() -> Outcome) -> Outcome<f64> {
    world.barrier();
    let start = Instant::now();
    once()?;
    let mine = start.elapsed().as_secs_f64();
    let mut slowest = 0.0;
    world.all_reduce_into(&mine, &mut slowest, SystemOperation::max());
    Ok(slowest)
}
