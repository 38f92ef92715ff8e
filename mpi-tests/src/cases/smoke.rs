//! Start, serve an object to every other rank by every route, finish.

use std::error::Error;

use lunasa::{Config, Lunasa, RemoteHandle};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

pub fn run(world: &SimpleCommunicator, _: &[String]) -> Result<(), Box<dyn Error>> {
    for routes in [vec!["self", "shm", "mpi"], vec!["mpi"]] {
        let lunasa = Lunasa::start(world, Config::new().set("lunasa.routes", routes)?)?;
        for len in [0usize, 8, 8192, 8193, 5_000_000] {
            let mut mine = lunasa.object().type_id(7).meta(16).data(len)?;
            mine.data_mut::<u8>()?.iter_mut().enumerate().for_each(|(i, b)| *b = (i as u8) ^ lunasa.rank() as u8);
            mine.meta_mut::<u8>()?.fill(lunasa.rank() as u8);
            let mut handles = vec![mine.handle()?; lunasa.ranks() as usize];
            world.all_gather_into(&mine.handle()?, &mut handles[..]);
            for handle in &handles {
                let theirs = lunasa.fetch(handle)?;
                let rank = handle.rank() as u8;
                assert_eq!(theirs.meta::<u8>()?, [rank; 16]);
                assert!(theirs.data::<u8>()?.iter().enumerate().all(|(i, &b)| b == (i as u8) ^ rank));
                assert_eq!(theirs.data_len(), len);
            }
            let _: &RemoteHandle = &handles[0];
            world.barrier();
        }
        let report = lunasa.finish()?;
        assert_eq!(report.objects(), 0);
    }
    if world.rank() == 0 {
        println!("ok smoke ranks={}", world.size());
    }
    Ok(())
}
