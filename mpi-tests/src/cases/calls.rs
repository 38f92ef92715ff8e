//! Progress by calls: peers are served inside Lunasa's own calls and by `progress`, with `MPI_THREAD_MULTIPLE` and
//! without it; a thread of Lunasa's own is then refused on all ranks.

use super::support::*;
use lunasa::{Config, Error, Lunasa};
use mpi::Threading;
use mpi::topology::SimpleCommunicator;
use std::time::{Duration, Instant};

/// With all threads allowed, but no thread wanted.
pub fn multiple(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in ROUTES {
        served_by_calls(world, config(routes)?.set("lunasa.mpi.progress", "calls")?, seed)?;
    }
    done(world, "calls")
}

/// On an MPI that was initialised for less than all threads.
pub fn funneled(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let given = mpi::environment::threading_support();
    assert!(given < Threading::Multiple, "MPI gives {given:?}, so this cannot be tested");
    let seed = seed(world, arguments)?;
    for routes in ROUTES {
        served_by_calls(world, config(routes)?, seed)?;
    }
    a_thread_is_refused(world)?;
    other_threads_are_refused(world)?;
    done(world, "funneled")
}

fn has_thread() -> Result<bool, std::io::Error> {
    for task in std::fs::read_dir("/proc/self/task")? {
        // A thread may end while it is looked at.
        let name = std::fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        if name.trim().starts_with("lunasa-progress") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn served_by_calls(world: &SimpleCommunicator, config: Config, seed: u64) -> Outcome {
    let lunasa = Lunasa::start(world, config)?;
    assert!(!has_thread()?, "there is a thread, though calls were to make progress");
    let mut numbers = numbers(seed, lunasa.rank() as usize, usize::MAX);
    for number in 0..3 {
        let sample = Sample::of(seed, lunasa.rank() as usize, number);
        let object = sample.object(&lunasa)?;
        let handles = everybodys(world, &lunasa, object.handle()?);
        // All ask each other at once: each is served while the other waits for its own.
        for peer in peers(&lunasa) {
            Sample::of(seed, peer, number).check_remote(&lunasa, &handles[peer], &mut numbers)?;
        }
        meet(world, &lunasa);
    }
    a_rank_that_computes_serves_by_progress(world, &lunasa)?;
    // Whoever comes first to finish serves the others there.
    let object = lunasa.object().zeroed().data(100_000)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    if lunasa.rank() > 0 {
        std::thread::sleep(Duration::from_millis(5 * u64::from(lunasa.rank())));
        lunasa.fetch(&handles[0])?;
    }
    lunasa.finish()?;
    Ok(())
}

fn a_rank_that_computes_serves_by_progress(world: &SimpleCommunicator, lunasa: &Lunasa) -> Result<(), Error> {
    let object = lunasa.object().zeroed().data(300_000)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    if lunasa.rank() == 0 {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            lunasa.progress();
        }
    } else {
        let start = Instant::now();
        lunasa.fetch(&handles[0])?;
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    meet(world, lunasa);
    Ok(())
}

fn a_thread_is_refused(world: &SimpleCommunicator) -> Outcome {
    match Lunasa::start(world, config(ROUTES[0])?.set("lunasa.mpi.progress", "thread")?) {
        Err(Error::Start { rank: 0, reason, .. }) => {
            assert!(reason.contains("lunasa.mpi.progress") && reason.contains("MPI_THREAD_MULTIPLE"), "{reason}");
        }
        other => panic!("a progress thread without MPI_THREAD_MULTIPLE: {other:?}"),
    }
    served_by_calls(world, config(ROUTES[0])?, 1)
}

/// Only the thread that initialised MPI may use the `mpi` route; others are told so, and may use the other routes.
fn other_threads_are_refused(world: &SimpleCommunicator) -> Outcome {
    let lunasa = start(world, &["self", "mpi"])?;
    let object = lunasa.object().zeroed().data(1000)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    let peers = lunasa.peers();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(!lunasa.progress());
            for peer in &peers {
                match lunasa.fetch(&handles[peer.rank as usize]) {
                    Ok(_) => assert_ne!(peer.route, "mpi"),
                    Err(Error::Transfer { reason, .. }) => {
                        assert!(peer.route == "mpi" && reason.contains("MPI_THREAD_MULTIPLE"), "{reason}");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
    });
    meet(world, &lunasa);
    drop(object);
    Ok(finish(lunasa)?)
}
