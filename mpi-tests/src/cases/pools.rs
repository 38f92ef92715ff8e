//! Eager and lazy objects, with either memory manager behind either pool.

use super::support::*;
use lunasa::{Error, Ldo, Lunasa, Registration};
use mpi::topology::SimpleCommunicator;

const MANAGERS: [&str; 2] = ["tcmalloc", "malloc"];

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for eager in MANAGERS {
        for lazy in MANAGERS {
            let config = config(&["self", "shm", "mpi"])?
                .set("lunasa.eager_memory_manager", eager)?
                .set("lunasa.lazy_memory_manager", lazy)?;
            let lunasa = Lunasa::start(world, config)?;
            let found: Vec<String> = lunasa.snapshot().pools.into_iter().map(|pool| pool.manager).collect();
            assert_eq!(found, [eager, lazy]);
            objects_of_both_are_served(world, &lunasa, seed)?;
            memory_is_registered_when_its_pool_says(&lunasa, eager, lazy)?;
            racing_threads_register_once(&lunasa)?;
            everything_comes_back(&lunasa);
            finish(lunasa)?;
        }
    }
    done(world, "pools")
}

fn objects_of_both_are_served(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let mut numbers = numbers(seed, lunasa.rank() as usize, usize::MAX);
    for number in 0..3 {
        let sample = Sample::of(seed, lunasa.rank() as usize, number);
        let objects = [sample.object(lunasa)?, sample.lazy_object(lunasa)?];
        assert_eq!(objects[0].registration()?, Registration::Eager);
        assert_eq!(objects[1].registration()?, Registration::Lazy);
        for object in &objects {
            let handles = everybodys(world, lunasa, object.handle()?);
            for peer in peers(lunasa) {
                Sample::of(seed, peer, number).check_remote(lunasa, &handles[peer], &mut numbers)?;
            }
            meet(world, lunasa);
        }
    }
    Ok(())
}

fn registrations(lunasa: &Lunasa) -> (u64, u64) {
    let info = lunasa.snapshot().registrations;
    (info.done, info.regions)
}

fn memory_is_registered_when_its_pool_says(lunasa: &Lunasa, eager: &str, lazy: &str) -> Result<(), Error> {
    // Room in the blocks first, so that none is mapped while we count.
    drop((lunasa.object().data(1000)?, lunasa.object().lazy().data(1000)?));
    until_nothing_is_alive(lunasa);
    let (done, regions) = registrations(lunasa);
    let object = lunasa.object().data(1000)?;
    assert!(object.is_registered());
    let own = u64::from(eager == "malloc");
    assert_eq!(registrations(lunasa), (done + own, regions + own), "eager, {eager}");
    object.handle()?;
    assert_eq!(registrations(lunasa), (done + own, regions + own), "a handle of an eager object registers nothing");
    drop(object);
    assert_eq!(registrations(lunasa), (done + own, regions));

    let object = lunasa.object().lazy().data(1000)?;
    assert!(!object.is_registered(), "lazy, {lazy}");
    assert_eq!(registrations(lunasa), (done + own, regions));
    object.handle()?;
    object.handle()?;
    assert!(object.is_registered());
    assert_eq!(registrations(lunasa), (done + own + 1, regions + 1));
    drop(object);
    assert_eq!(registrations(lunasa), (done + own + 1, regions), "a region goes with its object");
    Ok(())
}

fn racing_threads_register_once(lunasa: &Lunasa) -> Result<(), Error> {
    for _ in 0..20 {
        let object = lunasa.object().lazy().data(5000)?;
        let (done, _) = registrations(lunasa);
        let handles = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| object.handle())).collect();
            threads.into_iter().map(|thread| thread.join().expect("a panic has ended the job")).collect::<Vec<_>>()
        });
        let handles = handles.into_iter().collect::<Result<Vec<_>, Error>>()?;
        assert!(handles.iter().all(|handle| *handle == handles[0]));
        assert_eq!(registrations(lunasa).0, done + 1);
    }
    Ok(())
}

fn everything_comes_back(lunasa: &Lunasa) {
    let many: Vec<Ldo> = (0..50).flat_map(|n| lunasa.object().data(n * 1000)).collect();
    assert_eq!(many.len(), 50);
    drop(many);
    until_nothing_is_alive(lunasa);
    for pool in lunasa.snapshot().pools {
        let what = format!("{} by {}", pool.name, pool.manager);
        assert_eq!((pool.live_objects, pool.allocated_bytes, pool.used_bytes), (0, 0, 0), "{what}");
    }
}
