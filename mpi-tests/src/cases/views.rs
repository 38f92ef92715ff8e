//! Views: a peer's object on this host as it lies there; a clear error on another host; stale ones are found out.

use super::support::*;
use lunasa::{Error, HandleFault, Lunasa, Section, View};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    let lunasa = start(world, &["self", "shm", "mpi"])?;
    a_view_shows_the_object(world, &lunasa, seed)?;
    a_view_shows_what_its_owner_writes(world, &lunasa)?;
    a_view_of_a_dropped_object_is_stale(world, &lunasa, seed)?;
    memory_that_cannot_be_mapped_is_not_viewed(world, &lunasa, seed)?;
    a_view_outlives_the_instance_and_is_stale(world, lunasa, seed)?;
    let lunasa = start(world, &["self", "mpi"])?;
    a_view_needs_the_shm_route(world, &lunasa, seed)?;
    finish(lunasa)?;
    done(world, "views")
}

fn here(lunasa: &Lunasa, peer: usize) -> bool {
    lunasa.peers()[peer].route != "mpi"
}

/// A view, if the peer is on this host; else the refusal was clear.
fn view(lunasa: &Lunasa, handle: &lunasa::RemoteHandle) -> Result<Option<View>, Error> {
    let peer = handle.rank() as usize;
    if here(lunasa, peer) {
        return lunasa.view(handle).map(Some);
    }
    match lunasa.view(handle) {
        Err(Error::Transfer { peer: named, reason }) => {
            assert_eq!(named as usize, peer);
            assert!(reason.contains("another host") && reason.contains(lunasa.host(named)), "{reason}");
            Ok(None)
        }
        other => panic!("a view across hosts: {other:?}"),
    }
}

fn a_view_shows_the_object(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let mut numbers = numbers(seed, lunasa.rank() as usize, usize::MAX);
    for number in 0..4 {
        let object = Sample::of(seed, lunasa.rank() as usize, number).object(lunasa)?;
        let handles = everybodys(world, lunasa, object.handle()?);
        for peer in peers(lunasa) {
            let Some(view) = view(lunasa, &handles[peer])? else { continue };
            let sample = Sample::of(seed, peer, number);
            assert_eq!((view.meta_len(), view.data_len()), (sample.meta.len(), sample.data.len()));
            for (section, expected) in [(Section::Meta, &sample.meta), (Section::Data, &sample.data)] {
                let (from, to) = any_range(&mut numbers, expected.len());
                for (from, to) in [(0, expected.len()), (from, to)] {
                    let mut bytes = vec![0; to - from];
                    view.read(section, from, &mut bytes)?;
                    same(&bytes, &expected[from..to]);
                }
                let beyond = view.read(section, expected.len(), &mut [0]);
                assert!(matches!(refusal(beyond), HandleFault::OutOfBounds(_)));
            }
            if let Some(&expected) = sample.data.last() {
                assert_eq!(view.value::<u8>(sample.data.len() - 1)?, expected);
            }
            assert!(view.value::<u64>(usize::MAX).is_err());
            assert!(matches!(view.read(Section::LocalHeader, 0, &mut []), Err(Error::Object(_))));
            assert!(view.is_current());
        }
        meet(world, lunasa);
    }
    Ok(())
}

fn a_view_shows_what_its_owner_writes(world: &SimpleCommunicator, lunasa: &Lunasa) -> Result<(), Error> {
    let mut object = lunasa.object().zeroed().data_of::<u64>(100)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    let mut views = Vec::new();
    for peer in peers(lunasa).filter(|&peer| peer != lunasa.rank() as usize) {
        if let Some(view) = view(lunasa, &handles[peer])? {
            assert_eq!(view.value::<u64>(99)?, 0);
            views.push((peer, view));
        }
    }
    meet(world, lunasa);
    object.data_mut::<u64>()?.fill(1000 + u64::from(lunasa.rank()));
    meet(world, lunasa);
    for (peer, view) in &views {
        assert_eq!(view.value::<u64>(99)?, 1000 + *peer as u64);
    }
    meet(world, lunasa);
    Ok(())
}

fn a_view_of_a_dropped_object_is_stale(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let object = Sample::of(seed, lunasa.rank() as usize, 9).object(lunasa)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    let mut views = Vec::new();
    for peer in peers(lunasa) {
        views.extend(view(lunasa, &handles[peer])?.map(|view| (peer, view)));
    }
    meet(world, lunasa);
    drop(object);
    meet(world, lunasa);
    for (peer, view) in views {
        if peer == lunasa.rank() as usize {
            // A view of one's own keeps the object.
            let data = Sample::of(seed, peer, 9).data;
            let mut bytes = vec![0; data.len()];
            view.read(Section::Data, 0, &mut bytes)?;
            same(&bytes, &data);
            continue;
        }
        assert!(!view.is_current());
        assert!(is_stale(view.read(Section::Data, 0, &mut [])));
        assert!(is_stale(lunasa.view(&handles[peer])));
    }
    meet(world, lunasa);
    Ok(())
}

fn memory_that_cannot_be_mapped_is_not_viewed(
    world: &SimpleCommunicator,
    lunasa: &Lunasa,
    seed: u64,
) -> Result<(), Error> {
    let lazy = Sample::of(seed, lunasa.rank() as usize, 1).lazy_object(lunasa)?;
    let user = lunasa.object().user(vec![7u8; 5000])?;
    for object in [lazy, user] {
        let handles = everybodys(world, lunasa, object.handle()?);
        for peer in peers(lunasa).filter(|&peer| peer != lunasa.rank() as usize && here(lunasa, peer)) {
            match lunasa.view(&handles[peer]) {
                Err(Error::Transfer { reason, .. }) => assert!(reason.contains("cannot be mapped"), "{reason}"),
                other => panic!("a view of memory that is no block: {other:?}"),
            }
        }
        meet(world, lunasa);
    }
    Ok(())
}

fn a_view_outlives_the_instance_and_is_stale(
    world: &SimpleCommunicator,
    lunasa: Lunasa,
    seed: u64,
) -> Result<(), Error> {
    let object = Sample::of(seed, lunasa.rank() as usize, 2).object(&lunasa)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    let mut views = Vec::new();
    for peer in peers(&lunasa).filter(|&peer| peer != lunasa.rank() as usize) {
        views.extend(view(&lunasa, &handles[peer])?);
    }
    meet(world, &lunasa);
    drop(object);
    finish(lunasa)?;
    world.barrier();
    for view in views {
        assert!(!view.is_current());
        assert!(is_stale(view.read(Section::Data, 0, &mut vec![0; view.data_len()])));
    }
    Ok(())
}

fn a_view_needs_the_shm_route(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let object = Sample::of(seed, lunasa.rank() as usize, 3).object(lunasa)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    for peer in peers(lunasa).filter(|&peer| peer != lunasa.rank() as usize) {
        match lunasa.view(&handles[peer]) {
            Err(Error::Transfer { reason, .. }) => {
                assert!(reason.contains("shm") || reason.contains("another host"), "{reason}");
            }
            other => panic!("a view by a route that is not allowed: {other:?}"),
        }
    }
    meet(world, lunasa);
    Ok(())
}
