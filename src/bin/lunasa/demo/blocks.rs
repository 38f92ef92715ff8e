//! Blocks of the field on their way to and from rank 0: LDOs whose metadata say where in the domain they belong.
//!
//! No MPI scatter or gather of the field: rank 0 (and at the end each rank) offers a block, only its handle travels, and
//! the rank that wants the block fetches it, metadata and data in one operation.

use lunasa::{Ldo, Lunasa, RemoteHandle};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

use super::error::{Error, Result};
use super::field::Field;
use super::grid::{Grid, Place, Shape};
use crate::comm;

/// The type of the block LDOs, as the pages show it.
const BLOCK_TYPE: &str = "heat block";

/// Gives every rank its block of rank 0's `field`. Collective; only rank 0 has the field.
pub fn scatter(world: &SimpleCommunicator, lunasa: &Lunasa, grid: &Grid, field: Option<&Field>) -> Result<Ldo> {
    let mut offered = Vec::new();
    let mut handles = Vec::new();
    if let Some(field) = field {
        for rank in 0..world.size() as usize {
            let place = grid.place(rank);
            let block = pack(lunasa, place, |cells| {
                for (row, cells) in place.rows(field.shape).zip(cells.chunks_mut(place.size[2].max(1))) {
                    cells.copy_from_slice(&field.values[row..row + cells.len()]);
                }
            })?;
            handles.extend(block.handle()?.to_bytes());
            offered.push(block);
        }
    }
    let mut mine = [0u8; RemoteHandle::SIZE];
    let root = world.process_at_rank(0);
    if world.rank() == 0 {
        root.scatter_into_root(&handles[..], &mut mine[..]);
    } else {
        root.scatter_into(&mut mine[..]);
    }
    let block = lunasa.fetch(&RemoteHandle::from_bytes(&mine)?)?;
    // Rank 0 keeps what it offers until everybody has fetched.
    comm::meet(world, lunasa);
    Ok(block)
}

/// Brings every rank's block to rank 0, which gets the whole field. Collective.
pub fn gather(world: &SimpleCommunicator, lunasa: &Lunasa, shape: Shape, block: &Ldo) -> Result<Option<Field>> {
    let mine = block.handle()?.to_bytes();
    let root = world.process_at_rank(0);
    let mut field = None;
    if world.rank() == 0 {
        let mut handles = vec![0u8; RemoteHandle::SIZE * world.size() as usize];
        root.gather_into_root(&mine[..], &mut handles[..]);
        let mut values = vec![f64::NAN; shape.iter().product()];
        for handle in handles.chunks_exact(RemoteHandle::SIZE) {
            unpack(&lunasa.fetch(&RemoteHandle::from_bytes(handle)?)?, shape, &mut values)?;
        }
        field = Some(Field { shape, values });
    } else {
        root.gather_into(&mine[..]);
    }
    comm::meet(world, lunasa);
    Ok(field)
}

/// A block as an LDO: its place as metadata, its cells as data, written by `fill`.
pub fn pack(lunasa: &Lunasa, place: Place, fill: impl FnOnce(&mut [f64])) -> Result<Ldo> {
    let meta = place.to_meta();
    let mut block = lunasa.object().type_id(BLOCK_TYPE).meta(size_of_val(&meta)).data_of::<f64>(place.cells())?;
    block.meta_mut::<u64>()?.copy_from_slice(&meta);
    fill(block.data_mut()?);
    Ok(block)
}

/// Writes a block's cells where its metadata say, in a field of `shape` cells.
fn unpack(block: &Ldo, shape: Shape, values: &mut [f64]) -> Result<()> {
    let place = Place::from_meta(block.meta::<u64>()?, shape)?;
    let cells = block.data::<f64>()?;
    if cells.len() != place.cells() {
        return Err(Error::Exchange(format!("a block of {place:?} came with {} cells", cells.len())));
    }
    for (row, cells) in place.rows(shape).zip(cells.chunks(place.size[2].max(1))) {
        values[row..row + cells.len()].copy_from_slice(cells);
    }
    Ok(())
}
