//! Four threads on every rank, all directions and all operations at once.

use super::support::*;
use lunasa::{Error, Ldo, Lunasa, RemoteHandle};
use mpi::topology::SimpleCommunicator;
use rand::RngExt;

const THREADS: usize = 4;
/// Operations of each thread.
const OPERATIONS: usize = 24;
/// Random objects per rank that everybody reads.
const OBJECTS: usize = 4;
/// Bytes in each rank's target that belong to one thread of one rank.
const SLOT: usize = 20_000;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in &choices(arguments) {
        let lunasa = start(world, routes)?;
        all_at_once(world, &lunasa, seed)?;
        finish(lunasa)?;
    }
    done(world, "threads")
}

fn all_at_once(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let (rank, ranks) = (lunasa.rank() as usize, lunasa.ranks() as usize);
    let samples: Vec<Vec<Sample>> =
        (0..ranks).map(|rank| (0..OBJECTS).map(|number| Sample::of(seed, rank, number)).collect()).collect();
    let objects = samples[rank].iter().map(|sample| sample.object(lunasa)).collect::<Result<Vec<Ldo>, Error>>()?;
    let mut handles = Vec::new();
    for object in &objects {
        handles.push(everybodys(world, lunasa, object.handle()?));
    }
    let target = lunasa.object().zeroed().data(SLOT * ranks * THREADS)?;
    // SAFETY: no slice of the target is taken while peers write.
    let targets = everybodys(world, lunasa, unsafe { target.handle_mut() }?);
    let worker = Worker { lunasa, samples: &samples, handles: &handles, targets: &targets, seed };
    let ended = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || worker.work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a panic has ended the job")).collect::<Vec<_>>()
    });
    ended.into_iter().collect::<Result<(), Error>>()?;
    meet(world, lunasa);
    for peer in 0..ranks {
        for thread in 0..THREADS {
            let start = SLOT * (peer * THREADS + thread);
            same(&target.data()?[start..start + SLOT], &last_words(seed, peer, thread, rank));
        }
    }
    meet(world, lunasa);
    Ok(())
}

/// What a thread of a rank writes last into another rank's target.
fn last_words(seed: u64, rank: usize, thread: usize, to: usize) -> Vec<u8> {
    any_bytes(&mut numbers(seed, rank * THREADS + thread, 5000 + to), SLOT)
}

#[derive(Clone, Copy)]
struct Worker<'a> {
    lunasa: &'a Lunasa,
    samples: &'a [Vec<Sample>],
    /// By object, then rank.
    handles: &'a [Vec<RemoteHandle>],
    targets: &'a [RemoteHandle],
    seed: u64,
}

impl Worker<'_> {
    fn work(&self, thread: usize) -> Result<(), Error> {
        let Self { lunasa, seed, .. } = *self;
        let (rank, ranks) = (lunasa.rank() as usize, lunasa.ranks() as usize);
        let mut random = numbers(seed, rank, 9000 + thread);
        let slot = SLOT * (rank * THREADS + thread);
        for _ in 0..OPERATIONS {
            let (peer, number) = (random.random_range(0..ranks), random.random_range(0..OBJECTS));
            let (handle, sample) = (&self.handles[number][peer], &self.samples[peer][number]);
            match random.random_range(0..4) {
                0 => sample.check(&lunasa.fetch(handle)?)?,
                1 => {
                    let (one, two) = (lunasa.start_fetch(handle)?, lunasa.start_fetch(handle)?);
                    sample.check(&two.wait()?)?;
                    sample.check(&one.wait()?)?;
                }
                2 => {
                    let (from, to) = any_range(&mut random, sample.data.len());
                    let mut bytes = vec![0; to - from];
                    lunasa.get_bytes(handle, from, &mut bytes)?;
                    same(&bytes, &sample.data[from..to]);
                }
                _ => {
                    let (from, to) = any_range(&mut random, SLOT);
                    let bytes = any_bytes(&mut random, to - from);
                    lunasa.put_bytes(&bytes, &self.targets[peer], slot + from)?;
                    let mut back = vec![0; to - from];
                    lunasa.get_bytes(&self.targets[peer], slot + from, &mut back)?;
                    same(&back, &bytes);
                }
            }
        }
        (0..ranks).try_for_each(|to| lunasa.put_bytes(&last_words(seed, rank, thread, to), &self.targets[to], slot))
    }
}
