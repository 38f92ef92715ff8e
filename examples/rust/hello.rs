//! Every rank offers an LDO, and fetches that of the rank to its right:
//!
//!     cargo build --example hello && mpirun -n 4 target/debug/examples/hello

use lunasa::{Config, Lunasa, RemoteHandle, Result};
use mpi::point_to_point::send_receive;
use mpi::traits::*;

fn main() -> Result<()> {
    let Some((universe, _)) = mpi::initialize_with_threading(mpi::Threading::Multiple) else {
        eprintln!("MPI is initialised already");
        return Ok(());
    };
    let world = universe.world();
    let (rank, ranks) = (world.rank(), world.size());
    let lunasa = Lunasa::start(&world, Config::new())?;

    let words = format!("hello from rank {rank}");
    let mut hello = lunasa.object().type_id("hello").data(words.len())?;
    hello.data_mut::<u8>()?.copy_from_slice(words.as_bytes());

    // The handle is plain bytes: to the left goes mine, from the right comes theirs.
    let (left, right) = (world.process_at_rank((rank + ranks - 1) % ranks), world.process_at_rank((rank + 1) % ranks));
    let (handle, _): (RemoteHandle, _) = send_receive(&hello.handle()?, &left, &right);
    let theirs = lunasa.fetch(&handle)?;
    println!("rank {rank} fetched: {}", String::from_utf8_lossy(theirs.data::<u8>()?));

    // An LDO lives on its owner while peers use its handle.
    world.barrier();
    drop((hello, theirs));
    assert_eq!(lunasa.finish()?.objects(), 0);
    Ok(())
}
