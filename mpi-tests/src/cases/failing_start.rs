//! A rank that fails in start: every rank gets the same error, which names that rank, its host and its reason; nothing
//! hangs, and a good start follows.

use super::support::*;
use lunasa::{CallbackRegistrar, Config, Error, Lunasa, RegionKeys};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::net::TcpListener;
use std::sync::Arc;

/// Longest name of a host.
const NAME: usize = 64;

pub fn run(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    let last = world.size() - 1;
    for bad in if last > 0 { vec![0, last] } else { vec![0] } {
        a_registrar_refuses(world, bad)?;
        good_start(world)?;
    }
    a_port_is_taken(world)?;
    if last > 0 {
        another_value(world, last)?;
        a_value_that_only_rank_0_lacks(world)?;
    }
    a_wrong_file(world)?;
    good_start(world)?;
    done(world, "failing_start")
}

fn hostname() -> Result<String, std::io::Error> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// The start failed on all ranks alike, on rank `bad`, for a reason that has all of `words` in it.
fn failed(world: &SimpleCommunicator, result: Result<Lunasa, Error>, bad: i32, words: &[&str]) -> Outcome {
    let (rank, host, reason) = match result {
        Err(Error::Start { rank, host, reason }) => (rank, host, reason),
        other => panic!("rank {bad} should have failed to start, but: {other:?}"),
    };
    assert_eq!(rank as i32, bad, "{reason}");
    assert!(words.iter().all(|word| reason.contains(word)), "{words:?} are not all in {reason:?}");
    let mut name = [0u8; NAME];
    let own = hostname()?;
    name[..own.len().min(NAME)].copy_from_slice(&own.as_bytes()[..own.len().min(NAME)]);
    world.process_at_rank(bad).broadcast_into(&mut name[..]);
    assert_eq!(host.as_bytes(), name.split(|&byte| byte == 0).next().unwrap_or_default());
    Ok(())
}

fn good_start(world: &SimpleCommunicator) -> Outcome {
    let lunasa = start(world, ROUTES[0])?;
    let object = Sample::of(1, lunasa.rank() as usize, 0).object(&lunasa)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    for peer in peers(&lunasa) {
        Sample::of(1, peer, 0).check(&lunasa.fetch(&handles[peer])?)?;
    }
    meet(world, &lunasa);
    drop(object);
    Ok(finish(lunasa)?)
}

fn a_registrar_refuses(world: &SimpleCommunicator, bad: i32) -> Outcome {
    let pin = move |_, _| Err::<RegionKeys, _>("the device is on fire".to_owned());
    // SAFETY: neither function touches or keeps the memory.
    let registrar = Arc::new(unsafe { CallbackRegistrar::new("burning", pin, |_, _, _| Ok(())) });
    let config = config(ROUTES[0])?;
    let result =
        if world.rank() == bad { Lunasa::start_with(world, config, registrar) } else { Lunasa::start(world, config) };
    failed(world, result, bad, &["burning", "the device is on fire"])
}

/// Rank 0 holds the port, so it fails, as does every other rank of its host; the lowest is named.
fn a_port_is_taken(world: &SimpleCommunicator) -> Outcome {
    let held = TcpListener::bind(("127.0.0.1", 0))?;
    let mut port = held.local_addr()?.port();
    world.process_at_rank(0).broadcast_into(&mut port);
    let config = config(ROUTES[0])?
        .set("lunasa.status.enabled", true)?
        .set("lunasa.status.port", i64::from(port))?
        .set("lunasa.status.port_range", 0)?;
    failed(world, Lunasa::start(world, config), 0, &["endpoint", &port.to_string()])
}

fn another_value(world: &SimpleCommunicator, bad: i32) -> Outcome {
    let config = config(ROUTES[0])?.set("lunasa.mpi.window", if world.rank() == bad { 9 } else { 5 })?;
    failed(world, Lunasa::start(world, config), bad, &["lunasa.mpi.window", "9", "5", "rank 0"])
}

fn a_value_that_only_rank_0_lacks(world: &SimpleCommunicator) -> Outcome {
    let config = config(ROUTES[0])?;
    let config = if world.rank() == 0 { config } else { config.set("lunasa.mpi.window", 5)? };
    failed(world, Lunasa::start(world, config), 1, &["lunasa.mpi.window", "nothing"])
}

/// Rank 0 alone reads the file; nobody else looks for it.
fn a_wrong_file(world: &SimpleCommunicator) -> Outcome {
    let config: Config = config(ROUTES[0])?.file("/nonexistent/lunasa.toml");
    failed(world, Lunasa::start(world, config), 0, &["/nonexistent/lunasa.toml"])
}
