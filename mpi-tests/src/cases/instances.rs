//! Several instances in one process: on the halves of a split communicator, and side by side on the same one.

use super::support::*;
use lunasa::{HandleFault, Lunasa};
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::*;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in ROUTES {
        on_split_communicators(world, routes, seed)?;
        on_the_same_communicator(world, routes, seed)?;
    }
    done(world, "instances")
}

/// Every rank's object of the number, as seen through this instance.
fn served(comm: &SimpleCommunicator, lunasa: &Lunasa, seed: u64, number: usize) -> Outcome {
    let object = Sample::of(seed, lunasa.rank() as usize, number).object(lunasa)?;
    let handles = everybodys(comm, lunasa, object.handle()?);
    for peer in peers(lunasa) {
        Sample::of(seed, peer, number).check(&lunasa.fetch(&handles[peer])?)?;
    }
    meet(comm, lunasa);
    Ok(())
}

fn on_split_communicators(world: &SimpleCommunicator, routes: &[&str], seed: u64) -> Outcome {
    let half = world.rank() % 2;
    let part = world.split_by_color(Color::with_value(half)).ok_or("this rank is of a colour")?;
    // All of the world and a half of it, both at once; the halves themselves run side by side.
    let (whole, halved) = (start(world, routes)?, start(&part, routes)?);
    assert_eq!((halved.rank(), halved.ranks()), (part.rank() as u32, part.size() as u32));
    assert_ne!(whole.snapshot().rank.run, halved.snapshot().rank.run);
    for number in 0..3 {
        served(&part, &halved, seed ^ half as u64, number)?;
    }
    served(world, &whole, seed, 9)?;
    // The halves end at different times.
    finish(halved)?;
    served(world, &whole, seed, 10)?;
    Ok(finish(whole)?)
}

fn on_the_same_communicator(world: &SimpleCommunicator, routes: &[&str], seed: u64) -> Outcome {
    let (one, two) = (start(world, routes)?, start(world, routes)?);
    let objects = (Sample::of(seed, one.rank() as usize, 1).object(&one)?, two.object().data(10)?);
    let handles = (everybodys(world, &one, objects.0.handle()?), everybodys(world, &two, objects.1.handle()?));
    for peer in peers(&one) {
        Sample::of(seed, peer, 1).check(&one.fetch(&handles.0[peer])?)?;
        assert_eq!(refusal(two.fetch(&handles.0[peer])), HandleFault::OtherRun);
        assert_eq!(refusal(one.fetch(&handles.1[peer])), HandleFault::OtherRun);
        // Both fetch into objects of their own; an object of one may be filled through the other.
        let mut mixed = two.object().data(handles.0[peer].data_len())?;
        one.get(&handles.0[peer], .., &mut mixed)?;
        same(mixed.data()?, &Sample::of(seed, peer, 1).data);
    }
    meet(world, &one);
    drop(objects);
    finish(one)?;
    served(world, &two, seed, 2)?;
    Ok(finish(two)?)
}
