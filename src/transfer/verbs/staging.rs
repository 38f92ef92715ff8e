//! Registered memory of the route's own: cells that peers' heads are read into, and slots through which bytes pass whose
//! memory here is not registered.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::memory::Shared;
use crate::object::{HEAD, Head};
use crate::verbs::{Domain, MemoryRegion};

/// Bytes of a slot.
pub(super) const SLOT: usize = 64 << 10;
const SLOTS: usize = 32;
/// Cells, of [`HEAD`] bytes each: a transfer takes one as long as it is under way.
const CELLS: usize = 2048;

/// The memory, and which of it is free. It is registered until this is dropped.
#[derive(Debug)]
pub(super) struct Staging {
    region: MemoryRegion,
    memory: Shared,
    cells: Vec<u32>,
    slots: Vec<u32>,
}

impl Staging {
    pub(super) fn new(domain: &Arc<Domain>, name: &str) -> Result<Self> {
        let len = CELLS * HEAD + SLOTS * SLOT;
        let memory = Shared::create(name, len)?;
        // SAFETY: mapped until `memory` is dropped, which is after the region.
        let region = unsafe { MemoryRegion::register(domain, memory.base(), len) }.map_err(|error| {
            Error::Registration(format!("{len} bytes for the verbs route: {error}; see `ulimit -l`"))
        })?;
        Ok(Self { region, memory, cells: (0..CELLS as u32).collect(), slots: (0..SLOTS as u32).collect() })
    }

    /// What the device knows it by here.
    pub(super) fn key(&self) -> u32 {
        self.region.local_key()
    }

    pub(super) fn take_cell(&mut self) -> Option<u32> {
        self.cells.pop()
    }

    pub(super) fn give_cell(&mut self, cell: u32) {
        self.cells.push(cell);
    }

    pub(super) fn take_slot(&mut self) -> Option<u32> {
        self.slots.pop()
    }

    pub(super) fn give_slot(&mut self, slot: u32) {
        self.slots.push(slot);
    }

    pub(super) fn cell(&self, cell: u32) -> NonNull<u8> {
        self.at(cell as usize * HEAD)
    }

    pub(super) fn slot(&self, slot: u32) -> NonNull<u8> {
        self.at(CELLS * HEAD + slot as usize * SLOT)
    }

    /// The head that was read into a cell.
    pub(super) fn head(&self, cell: u32) -> &Head {
        // SAFETY: 64 bytes, mapped as long as `self`, aligned; any bits are valid for its atomics.
        unsafe { self.cell(cell).cast::<Head>().as_ref() }
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset < CELLS * HEAD + SLOTS * SLOT);
        // SAFETY: numbers of cells and slots come from here, so this is within the mapping.
        unsafe { self.memory.base().add(offset) }
    }
}
