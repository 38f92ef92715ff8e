//! Every route moves random objects unharmed: whole, in parts, in both directions; and counts what it moved.

use super::support::*;
use lunasa::{Error, Lunasa, RemoteHandle, Section};
use mpi::topology::SimpleCommunicator;
use rand::RngExt;
use std::collections::BTreeMap;

/// Random objects per rank.
const OBJECTS: usize = 5;
/// Bytes that each rank writes into each rank's target: more than fits one piece.
const SLOT: usize = 150_000;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in &choices(arguments) {
        let lunasa = start(world, routes)?;
        objects_are_fetched_unharmed(world, &lunasa, seed)?;
        parts_are_put_where_they_belong(world, &lunasa, seed)?;
        bytes_are_counted_by_the_route_that_moved_them(world, &lunasa)?;
        finish(lunasa)?;
    }
    done(world, "routes")
}

fn objects_are_fetched_unharmed(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let mut numbers = numbers(seed, lunasa.rank() as usize, usize::MAX);
    for number in 0..OBJECTS {
        let sample = Sample::of(seed, lunasa.rank() as usize, number);
        let (eager, lazy) = (sample.object(lunasa)?, sample.lazy_object(lunasa)?);
        let handles = [everybodys(world, lunasa, eager.handle()?), everybodys(world, lunasa, lazy.handle()?)];
        for peer in peers(lunasa) {
            let sample = Sample::of(seed, peer, number);
            handles.iter().try_for_each(|all| sample.check_remote(lunasa, &all[peer], &mut numbers))?;
            gets_fill_the_beginning_of_an_object(lunasa, &handles[0][peer], &sample.data)?;
        }
        meet(world, lunasa);
        sample.check(&eager)?;
        sample.check(&lazy)?;
    }
    Ok(())
}

fn gets_fill_the_beginning_of_an_object(lunasa: &Lunasa, handle: &RemoteHandle, data: &[u8]) -> Result<(), Error> {
    let mut object = lunasa.object().meta(3).data(data.len() + 5)?;
    object.data_mut()?.fill(0xaau8);
    let from = data.len() / 3;
    let moved = lunasa.get(handle, from.., &mut object)?;
    assert_eq!(moved, data.len() - from);
    same(&object.data()?[..moved], &data[from..]);
    assert!(object.data::<u8>()?[moved..].iter().all(|&byte| byte == 0xaa), "bytes beyond the range were written");
    Ok(())
}

fn parts_are_put_where_they_belong(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let (rank, ranks) = (lunasa.rank() as usize, lunasa.ranks() as usize);
    let contents = |from: usize, to: usize| any_bytes(&mut numbers(seed, from, 1000 + to), SLOT);
    let target = lunasa.object().zeroed().meta(SLOT).data(SLOT * ranks + 1)?;
    // SAFETY: no slice of the target is taken while peers write.
    let handle = unsafe { target.handle_mut() }?;
    let handles = everybodys(world, lunasa, handle);
    for peer in peers(lunasa) {
        let bytes = contents(rank, peer);
        let mut numbers = numbers(seed, rank, peer);
        let mut at = 0;
        while at < SLOT {
            let len = any_len(&mut numbers, SLOT - at.min(SLOT / 2)).min(SLOT - at);
            lunasa.put_bytes(&bytes[at..at + len], &handles[peer], SLOT * rank + at)?;
            at += len;
        }
        // What was put can be read back at once.
        let mut back = vec![0; SLOT];
        lunasa.get_bytes(&handles[peer], SLOT * rank, &mut back)?;
        same(&back, &bytes);
    }
    // A whole object, into the metadata of the next rank.
    let next = (rank + 1) % ranks;
    let mut object = lunasa.object().data(SLOT)?;
    object.data_mut()?.copy_from_slice(&contents(rank, next));
    lunasa.put(&object, &handles[next].section(Section::Meta))?;
    meet(world, lunasa);
    for peer in 0..ranks {
        same(&target.data()?[SLOT * peer..SLOT * (peer + 1)], &contents(peer, rank));
    }
    assert_eq!(target.data::<u8>()?[SLOT * ranks], 0, "a byte that nobody put was written");
    same(target.meta()?, &contents((rank + ranks - 1) % ranks, rank));
    meet(world, lunasa);
    Ok(())
}

fn bytes_are_counted_by_the_route_that_moved_them(world: &SimpleCommunicator, lunasa: &Lunasa) -> Result<(), Error> {
    let names = ["self", "shm", "verbs", "mpi"];
    let before: Vec<(u64, u64)> = names.iter().map(|route| traffic(lunasa, route)).collect();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    let object = lunasa.object().data(100_000)?;
    // SAFETY: no slice of the object is taken.
    let handles = everybodys(world, lunasa, unsafe { object.handle_mut() }?);
    let mut random = numbers(7, lunasa.rank() as usize, 0);
    for peer in lunasa.peers() {
        let len = random.random_range(1..100_000);
        let mut bytes = vec![0; len];
        lunasa.get_bytes(&handles[peer.rank as usize], 0, &mut bytes)?;
        lunasa.put_bytes(&bytes, &handles[peer.rank as usize], 0)?;
        *expected.entry(peer.route).or_default() += len as u64;
    }
    for (route, before) in names.iter().zip(before) {
        let (got, put) = traffic(lunasa, route);
        let expected = expected.get(*route).copied().unwrap_or(0);
        assert_eq!((got - before.0, put - before.1), (expected, expected), "bytes by {route}");
    }
    meet(world, lunasa);
    Ok(())
}
