//! Handles that outlived what they name are refused by every route, and the route works on.

use super::support::*;
use lunasa::{Error, HandleFault, Ldo, Lunasa, RemoteHandle, Section};
use mpi::topology::SimpleCommunicator;

/// A use of a handle, which may be refused.
type Operation<'a> = &'a mut dyn FnMut(&RemoteHandle) -> Result<(), Error>;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    for routes in &choices(arguments) {
        for lazy in ["malloc", "tcmalloc"] {
            let lunasa = Lunasa::start(world, config(routes)?.set("lunasa.lazy_memory_manager", lazy)?)?;
            let good = lunasa.object().zeroed().data(30_000)?;
            // SAFETY: no slice of the object is taken.
            let good = Good { handles: everybodys(world, &lunasa, unsafe { good.handle_mut() }?), _object: good };
            dropped(world, &lunasa, &good)?;
            memory_of_another_object(world, &lunasa, &good, lazy)?;
            resized(world, &lunasa, &good)?;
            of_another_instance(world, &lunasa, &good, routes)?;
            meet(world, &lunasa);
            drop(good);
            finish(lunasa)?;
        }
    }
    done(world, "stale")
}

/// An object on every rank that is good, to see that a route works on after a refusal.
struct Good {
    handles: Vec<RemoteHandle>,
    _object: Ldo,
}

/// Every operation refuses the handles in this way, and after each refusal a good handle of that peer still works.
fn refused(lunasa: &Lunasa, handles: &[RemoteHandle], good: &Good, fits: impl Fn(&HandleFault) -> bool) {
    for peer in peers(lunasa) {
        let (handle, good) = (&handles[peer], &good.handles[peer]);
        let mut bytes = vec![0; handle.data_len().max(30_000)];
        let operations: [Operation<'_>; 6] = [
            &mut |handle| lunasa.get_bytes(handle, 0, &mut bytes[..handle.data_len()]),
            &mut |handle| lunasa.get_bytes(&handle.section(Section::Header), 0, &mut [0; 16]),
            &mut |handle| lunasa.put_bytes(&[1; 5], handle, 1),
            &mut |handle| lunasa.put_bytes(&vec![1; handle.data_len()], handle, 0),
            &mut |handle| lunasa.fetch(handle).map(drop),
            &mut |handle| lunasa.start_fetch(handle).and_then(|request| request.wait()).map(drop),
        ];
        for operation in operations {
            let fault = refusal(operation(handle));
            assert!(fits(&fault), "{handle:?}: {fault}");
            let after = operation(good);
            assert!(after.is_ok(), "after a refusal of {handle:?}: {after:?}");
        }
    }
}

fn stale(fault: &HandleFault) -> bool {
    matches!(fault, HandleFault::Stale(_))
}

/// A writable handle.
fn handle(object: &Ldo) -> Result<RemoteHandle, Error> {
    // SAFETY: the cases here take no slices of objects that peers may write.
    unsafe { object.handle_mut() }
}

fn dropped(world: &SimpleCommunicator, lunasa: &Lunasa, good: &Good) -> Result<(), Error> {
    let objects = [
        lunasa.object().data(100)?,
        lunasa.object().data(50_000)?,
        lunasa.object().lazy().data(100)?,
        lunasa.object().lazy().data(50_000)?,
        lunasa.object().meta(10).user(vec![0u8; 20_000])?,
        lunasa.object().meta(10).lazy().user_with_meta(vec![0u8; 20_000])?,
    ];
    for object in objects {
        let handles = everybodys(world, lunasa, handle(&object)?);
        drop(object);
        meet(world, lunasa);
        refused(lunasa, &handles, good, stale);
        meet(world, lunasa);
    }
    Ok(())
}

fn memory_of_another_object(
    world: &SimpleCommunicator,
    lunasa: &Lunasa,
    good: &Good,
    manager: &str,
) -> Result<(), Error> {
    for lazy in [false, true] {
        let make = || {
            let builder = lunasa.object().zeroed().meta(16);
            if lazy { builder.lazy().data(3000) } else { builder.data(3000) }
        };
        let object = make()?;
        let (old, at) = (handle(&object)?, object.data_ptr()?.0);
        drop(object);
        let mut others: Vec<Ldo> = Vec::new();
        // The C library need not use it again soon.
        let by_malloc = lazy && manager == "malloc";
        let reused = |other: &Ldo| other.data_ptr().is_ok_and(|(there, _)| there == at);
        while !(others.last().is_some_and(reused) || by_malloc && others.len() == 10) {
            assert!(others.len() < 10_000, "memory that was given back is not used again");
            others.push(make()?);
        }
        for other in &others {
            other.handle()?;
        }
        let handles = everybodys(world, lunasa, old);
        refused(lunasa, &handles, good, stale);
        meet(world, lunasa);
        assert!(others.iter().all(|other| other.data::<u8>().is_ok_and(|data| data.iter().all(|&byte| byte == 0))));
    }
    Ok(())
}

fn resized(world: &SimpleCommunicator, lunasa: &Lunasa, good: &Good) -> Result<(), Error> {
    for (meta, data) in [(10, 900), (11, 1000), (10, 9000)] {
        let mut object = lunasa.object().capacity(10_000).meta(10).data(1000)?;
        let handles = everybodys(world, lunasa, handle(&object)?);
        object.resize(meta, data)?;
        meet(world, lunasa);
        refused(lunasa, &handles, good, stale);
        // A handle made since is good.
        let handles = everybodys(world, lunasa, handle(&object)?);
        for peer in peers(lunasa) {
            assert_eq!(lunasa.fetch(&handles[peer])?.data_len(), data);
        }
        meet(world, lunasa);
    }
    Ok(())
}

fn of_another_instance(world: &SimpleCommunicator, lunasa: &Lunasa, good: &Good, routes: &[&str]) -> Result<(), Error> {
    let other = start(world, routes)?;
    let object = other.object().data(1000)?;
    let handles = everybodys(world, lunasa, handle(&object)?);
    refused(lunasa, &handles, good, |fault| *fault == HandleFault::OtherRun);
    meet(world, lunasa);
    drop(object);
    finish(other)
}
