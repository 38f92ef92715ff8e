//! Finish with live objects: they are reported by type and size, their data stay, and handles to them end; a rank that
//! finishes early goes on serving the others until they finish too.

use super::support::*;
use lunasa::{Error, HandleFault, Ldo, LeakGroup, Lunasa, TypeId, UserMemory};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in ROUTES {
        live_objects_are_reported_and_stay(world, routes)?;
        whoever_finishes_early_serves_on(world, routes, seed)?;
    }
    an_instance_that_is_dropped_leaves_live_objects_alone()?;
    done(world, "finish")
}

fn group(pool: &str, type_id: TypeId, meta_len: usize, data_len: usize, objects: u64) -> LeakGroup {
    LeakGroup { pool: pool.to_owned(), type_id, meta_len, data_len, call_site: None, objects }
}

fn live_objects_are_reported_and_stay(world: &SimpleCommunicator, routes: &[&str]) -> Outcome {
    let lunasa = start(world, routes)?;
    let returned = Arc::new(AtomicU32::new(0));
    let make = |n: u8| -> Result<Ldo, Error> {
        let mut object = lunasa.object().type_id("particles").meta(16).data(10_000)?;
        object.data_mut::<u8>()?.fill(n);
        Ok(object)
    };
    let particles: Vec<Ldo> = (0..3).map(make).collect::<Result<_, _>>()?;
    let lazy = lunasa.object().zeroed().lazy().type_id(9).data(500_000)?;
    let user = {
        let (returned, base) = (returned.clone(), Box::leak(vec![4u8; 200].into_boxed_slice()).as_mut_ptr());
        // SAFETY: leaked for good, and used by nobody else.
        let memory =
            unsafe { UserMemory::from_raw(base, 200, move |_, _| _ = returned.fetch_add(1, Ordering::SeqCst)) };
        lunasa.object().meta(8).user(memory)?
    };
    drop(lunasa.object().type_id("gone").data(77)?);
    let objects: Vec<&Ldo> = particles.iter().chain([&lazy, &user]).collect();
    let mut handles = Vec::new();
    for object in &objects {
        handles.extend(everybodys(world, &lunasa, object.handle()?));
    }
    let report = lunasa.finish()?;
    let expected = [
        group("lazy", TypeId(9), 0, 500_000, 1),
        group("eager", TypeId::named("particles"), 16, 10_000, 3),
        group("eager", TypeId(0), 8, 200, 1),
    ];
    assert_eq!((report.groups.as_slice(), report.damaged), (&expected[..], 0));
    assert_eq!((report.objects(), report.bytes()), (5, 500_000 + 3 * 10_016 + 208));
    assert!(report.to_string().contains("3 x particles, eager, 16 + 10000 bytes"), "{report}");

    // The memory is the holders' still; handles are no more, here or there.
    for (n, object) in particles.iter().enumerate() {
        assert!(object.data::<u8>()?.iter().all(|&byte| usize::from(byte) == n));
    }
    assert!(lazy.data::<u8>()?.iter().all(|&byte| byte == 0) && user.data::<u8>()?.iter().all(|&byte| byte == 4));
    for object in &objects {
        assert!(matches!(object.handle(), Err(Error::Closed(_))));
        assert!(matches!(object.deep_copy(), Err(Error::Closed(_))));
        assert!(!object.is_registered(), "{object:?} is registered after finish");
    }
    world.barrier();
    let later = start(world, routes)?;
    for handle in &handles {
        assert_eq!(refusal(later.fetch(handle)), HandleFault::OtherRun);
    }
    meet(world, &later);
    finish(later)?;
    assert_eq!(returned.load(Ordering::SeqCst), 0);
    drop((particles, lazy, user));
    assert_eq!(returned.load(Ordering::SeqCst), 1);
    Ok(())
}

fn whoever_finishes_early_serves_on(world: &SimpleCommunicator, routes: &[&str], seed: u64) -> Outcome {
    let lunasa = start(world, routes)?;
    let object = Sample::of(seed, lunasa.rank() as usize, 0).object(&lunasa)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    // Rank 0 finishes at once, the others one after another.
    std::thread::sleep(Duration::from_millis(10 * u64::from(lunasa.rank())));
    if lunasa.rank() > 0 {
        for peer in peers(&lunasa).filter(|&peer| handles[peer].rank() <= lunasa.rank()) {
            Sample::of(seed, peer, 0).check(&lunasa.fetch(&handles[peer])?)?;
        }
    }
    // A request that nobody waited for is ended by finish.
    let request = lunasa.start_fetch(&handles[0])?;
    lunasa.finish()?;
    Sample::of(seed, 0, 0).check(&request.wait()?)?;
    Sample::of(seed, object_rank(world), 0).check(&object)?;
    Ok(())
}

fn object_rank(world: &SimpleCommunicator) -> usize {
    world.rank() as usize
}

fn an_instance_that_is_dropped_leaves_live_objects_alone() -> Outcome {
    let lunasa = Lunasa::local(config(&["self"])?)?;
    let mut object = lunasa.object().zeroed().data(100_000)?;
    let handle = object.handle()?;
    drop(lunasa);
    object.data_mut::<u8>()?.fill(3);
    assert!(object.data::<u8>()?.iter().all(|&byte| byte == 3));
    assert!(matches!(object.handle(), Err(Error::Closed(_))));
    assert_eq!(refusal(Lunasa::local(config(&["self"])?)?.fetch(&handle)), HandleFault::OtherRun);
    Ok(())
}
