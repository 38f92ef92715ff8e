#![allow(clippy::unwrap_used)]
//! Growth that fails at every step there is: an error to that caller, and to nobody and nothing else.

use std::sync::Arc;

use super::*;
use crate::memory::faults;
use crate::registrar::{CallbackRegistrar, RegionKeys};

const MIB: usize = 1 << 20;

/// A manager that grows on the caller's thread alone, whose registrar fails with the rest; and its run.
fn manager() -> (Tcmalloc, u64) {
    let pin = |_, _| faults::pass().map(|()| RegionKeys::default()).map_err(|error| error.to_string());
    // SAFETY: neither touches the memory.
    let registrar = unsafe { CallbackRegistrar::new("mine", pin, |_, _, _| Ok(())) };
    let mut source = crate::manager::tests::source(Arc::new(registrar));
    let made = Arc::get_mut(&mut source).unwrap();
    made.place = made.topology.local_node().map_or(crate::memory::Place::Anywhere, crate::memory::Place::Node);
    let run = source.run;
    let (block, reserve_ahead, release_after) = ((2 * MIB, 8 * MIB), 0, Duration::ZERO);
    (Tcmalloc::new(source, Settings { register: true, block, reserve_ahead, release_after }).unwrap(), run)
}

/// Blocks of that run that are mapped.
fn mappings(run: u64) -> usize {
    let name = format!("lunasa-{run:016x}-0-block-");
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains(&name)).count()
}

/// Pieces that are out, each filled with a byte of its own.
#[derive(Default)]
struct Live(Vec<(NonNull<u8>, usize)>);

impl Live {
    fn take(&mut self, manager: &Tcmalloc, len: usize) -> Result<()> {
        let (piece, _) = manager.allocate(len)?;
        // SAFETY: handed out just now with this length.
        unsafe { piece.as_ptr().write_bytes(self.0.len() as u8, len) };
        self.0.push((piece, len));
        Ok(())
    }

    fn must_be_right(&self, manager: &Tcmalloc) {
        for (number, &(piece, len)) in self.0.iter().enumerate() {
            // SAFETY: handed out with this length, and written in full.
            let bytes = unsafe { std::slice::from_raw_parts(piece.as_ptr(), len) };
            let ends = bytes.iter().take(64).chain(bytes.iter().rev().take(64));
            assert!(ends.chain(bytes.iter().step_by(4096)).all(|&byte| byte == number as u8), "piece {number} changed");
        }
        manager.check(&|piece| self.0.iter().any(|&(at, _)| at == piece)).unwrap();
    }
}

/// Lets `grow` fail at its first step, its second and so on, until it has no more; how many it has, and how many of them
/// were errors.
fn sweep(before: &[usize], grow: impl Fn(&Tcmalloc, &mut Live) -> Result<()>) -> (usize, usize) {
    let mut errors = 0;
    for step in 1.. {
        let (manager, run) = manager();
        let mut live = Live::default();
        before.iter().for_each(|&len| live.take(&manager, len).unwrap());
        faults::fail_at(step);
        let grown = grow(&manager, &mut live);
        let failed = faults::called_off();
        live.must_be_right(&manager);
        if let Err(error) = &grown {
            assert!(failed, "{error}");
            errors += 1;
        }
        assert_eq!(mappings(run), manager.holdings().blocks.len(), "step {step}: what failed stays mapped");
        // All goes on: what there is, and growth.
        live.take(&manager, 3000).unwrap();
        live.take(&manager, 12 * MIB).unwrap();
        grow(&manager, &mut live).unwrap();
        live.must_be_right(&manager);
        for (piece, len) in live.0.drain(..) {
            // SAFETY: taken with this length, and given once.
            unsafe { manager.release(piece, len) };
        }
        live.must_be_right(&manager);
        let regions = manager.shared.source.regions.clone();
        drop(manager);
        assert_eq!((mappings(run), regions.info().regions), (0, 0), "step {step}: something stays");
        if !failed {
            return (step - 1, errors);
        }
    }
    unreachable!("a sweep ends")
}

#[test]
fn a_block_that_fails_at_any_step_leaves_all_as_it_was() {
    let (steps, errors) = sweep(&[1000, 700_000], |manager, live| live.take(manager, 3 * MIB));
    // The memfd, its length, two mappings, the binding, the touch, a look, and the registration at the least.
    assert!(steps >= 8 && errors >= 5 && errors < steps, "{errors} errors in {steps} steps");
}

#[test]
fn where_a_large_block_fails_a_small_one_does() {
    let (steps, errors) = sweep(&[1000, 60 * MIB, 500], |manager, live| live.take(manager, 2 * MIB));
    assert!(steps >= 8 && errors == 0, "{errors} errors in {steps} steps");
}

#[test]
fn a_reservation_that_fails_half_way_keeps_what_it_has() {
    let (steps, errors) = sweep(&[1000], |manager, _| manager.reserve(20 * MIB));
    assert!(steps >= 20 && errors >= 10, "{errors} errors in {steps} steps");
}
