//! The little that the ranks of a command say to each other in MPI messages: words, counts, and waiting for one another.

use std::time::Duration;

use lunasa::Lunasa;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

/// Sends rank 0's text to every rank; what the others pass is not looked at.
pub fn from_root(world: &SimpleCommunicator, text: &str) -> String {
    let root = world.process_at_rank(0);
    let mut bytes = if world.rank() == 0 { text.as_bytes().to_vec() } else { Vec::new() };
    let mut length = bytes.len() as u64;
    root.broadcast_into(&mut length);
    bytes.resize(length as usize, 0);
    root.broadcast_into(&mut bytes[..]);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Collects every rank's text on rank 0, in the order of ranks; the others get nothing.
pub fn to_root(world: &SimpleCommunicator, text: &str) -> Vec<String> {
    let root = world.process_at_rank(0);
    // With an end mark it is never empty: the address of an empty slice may be 1, which is Open MPI's MPI_IN_PLACE.
    let text = format!("{text}\0");
    let length = text.len() as i32;
    if world.rank() != 0 {
        root.gather_into(&length);
        root.gather_varcount_into(text.as_bytes());
        return Vec::new();
    }
    let mut lengths = vec![0i32; world.size() as usize];
    root.gather_into_root(&length, &mut lengths[..]);
    let starts: Vec<i32> = lengths
        .iter()
        .scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some(start)
        })
        .collect();
    let mut bytes = vec![0u8; lengths.iter().sum::<i32>() as usize];
    root.gather_varcount_into_root(text.as_bytes(), &mut PartitionMut::new(&mut bytes[..], &lengths[..], &starts[..]));
    let piece = |(start, length): (&i32, &i32)| &bytes[*start as usize..][..*length as usize - 1];
    starts.iter().zip(&lengths).map(|at| String::from_utf8_lossy(piece(at)).into_owned()).collect()
}

/// The sum over all ranks.
pub fn sum(world: &SimpleCommunicator, mine: u64) -> u64 {
    let mut total = 0;
    world.all_reduce_into(&mine, &mut total, SystemOperation::sum());
    total
}

/// The greatest over all ranks.
pub fn greatest(world: &SimpleCommunicator, mine: f64) -> f64 {
    let mut greatest = 0.0;
    world.all_reduce_into(&mine, &mut greatest, SystemOperation::max());
    greatest
}

/// Waits for every rank, and serves peers meanwhile: a barrier that blocked in MPI would leave their requests
/// unanswered where MPI gives no thread of its own to Lunasa.
pub fn meet(world: &SimpleCommunicator, lunasa: &Lunasa) {
    let mut barrier = world.immediate_barrier();
    while let Err(pending) = barrier.test() {
        barrier = pending;
        lunasa.progress();
        std::thread::sleep(Duration::from_micros(20));
    }
}
