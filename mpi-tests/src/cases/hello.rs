//! The launcher and MPI itself work here: one world, all its ranks in it, threads allowed.

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use std::error::Error;

pub fn run(world: &SimpleCommunicator, _arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let given = mpi::environment::threading_support();
    if given != Threading::Multiple {
        return Err(format!("MPI gives {given:?}, not Multiple").into());
    }
    let (rank, ranks) = (world.rank(), world.size());
    let mut sum = 0;
    world.all_reduce_into(&rank, &mut sum, SystemOperation::sum());
    let expected = ranks * (ranks - 1) / 2;
    if sum != expected {
        return Err(format!("the ranks 0..{ranks} add up to {sum}, not to {expected}").into());
    }
    if rank == 0 {
        println!("ok hello ranks={ranks}");
    }
    Ok(())
}
