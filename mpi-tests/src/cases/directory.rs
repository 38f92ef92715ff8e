//! The directory: 64 bytes per rank and per host, and one copy per host that its ranks share.

use super::support::*;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes per rank that a host may hold of the directory.
const MOST: usize = 128;
const LINE: usize = 64;

pub fn run(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    let lunasa = start(world, ROUTES[0])?;
    let rank = lunasa.snapshot().rank;
    let (ranks, hosts) = (rank.ranks as usize, rank.hosts as usize);
    let names: BTreeSet<&str> = (0..rank.ranks).map(|peer| lunasa.host(peer)).collect();
    assert_eq!((ranks, hosts), (world.size() as usize, names.len()));
    let bytes = lunasa.directory_bytes();
    assert_eq!(bytes, LINE * (hosts + ranks));
    assert!(bytes <= MOST * ranks, "{bytes} bytes for {ranks} ranks on {hosts} hosts");

    // It is mapped once here, and it is the same file on every rank of a host.
    let own = format!("lunasa-{}-directory", rank.run);
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let found: Vec<&str> = maps.lines().filter(|line| line.contains(&own)).collect();
    assert_eq!(found.len(), 1, "mappings of {own}: {found:?}");
    let inode: u64 = found[0].split_whitespace().nth(4).ok_or("a line of maps has an inode")?.parse()?;
    let mut inodes = vec![0u64; ranks];
    world.all_gather_into(&inode, &mut inodes[..]);
    let mut copies: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (peer, inode) in (0..).zip(&inodes) {
        copies.entry(lunasa.host(peer)).or_default().insert(*inode);
    }
    assert!(copies.values().all(|files| files.len() == 1), "files of the directory by host: {copies:?}");
    if rank.rank == 0 {
        println!("directory: {bytes} bytes per host for {ranks} ranks on {hosts} hosts, 0 per rank");
    }
    meet(world, &lunasa);
    finish(lunasa)?;
    assert!(!std::fs::read_to_string("/proc/self/maps")?.contains(&own), "it stays mapped after finish");
    done(world, "directory")
}
