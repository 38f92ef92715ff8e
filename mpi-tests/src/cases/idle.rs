//! An idle rank: its progress thread leaves the core alone, and still answers soon.

use super::support::*;
use lunasa::{Error, Lunasa};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::time::{Duration, Instant};

/// How long the ranks idle.
const IDLE: Duration = Duration::from_millis(700);
/// Least share of a core that is too much for an idle process, MPI's own threads included.
const TOO_MUCH: f64 = 0.10;
/// Gets of an idle peer whose median is taken.
const GETS: usize = 15;

pub fn run(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    let lunasa = start(world, &["mpi"])?;
    an_idle_process_leaves_the_core_alone(world, &lunasa);
    an_idle_peer_answers(world, &lunasa)?;
    finish(lunasa)?;
    done(world, "idle")
}

/// Processor time that this process has used.
fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the result; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn an_idle_process_leaves_the_core_alone(world: &SimpleCommunicator, lunasa: &Lunasa) {
    meet(world, lunasa);
    // Until the slowest has left the meeting.
    std::thread::sleep(Duration::from_millis(100));
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(IDLE);
    let share = (used() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!("rank {}: {:.1} % of a core while idle", lunasa.rank(), 100.0 * share);
    assert!(share < TOO_MUCH, "an idle rank uses {:.1} % of a core", 100.0 * share);
    meet(world, lunasa);
}

fn an_idle_peer_answers(world: &SimpleCommunicator, lunasa: &Lunasa) -> Result<(), Error> {
    let object = lunasa.object().zeroed().data(8)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    let last = lunasa.ranks() - 1;
    // The last rank asks the first; all others sleep until it has its answers.
    if lunasa.rank() == last {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..GETS {
            std::thread::sleep(Duration::from_millis(5));
            let start = Instant::now();
            lunasa.get_bytes(&handles[0], 0, &mut [0; 8])?;
            times.push(start.elapsed());
        }
        times.sort();
        println!("8 bytes of an idle peer: median {:?}, longest {:?}", times[GETS / 2], times[GETS - 1]);
        assert!(times[GETS / 2] < Duration::from_secs(1), "an idle peer answers after {:?}", times[GETS / 2]);
    }
    let mut barrier = world.immediate_barrier();
    while let Err(pending) = barrier.test() {
        barrier = pending;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
