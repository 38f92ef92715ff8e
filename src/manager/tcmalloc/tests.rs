#![allow(clippy::unwrap_used)]
//! Growing, shrinking and threads: what the manager promises beyond handing out pieces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::registrar::{CallbackRegistrar, HostRegistrar, RegionKeys, Registrar};

const MIB: usize = 1 << 20;

fn manager(registrar: Arc<dyn Registrar>, reserve_ahead: usize, release_after: Duration) -> Result<Tcmalloc> {
    let settings = Settings { register: true, block: (2 * MIB, 8 * MIB), reserve_ahead, release_after };
    Tcmalloc::new(crate::manager::tests::source(registrar), settings)
}

fn host() -> Arc<dyn Registrar> {
    Arc::new(HostRegistrar::new(false))
}

/// Waits for something that a thread does by itself; generously, as the machine may be busy.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_sound(manager: &Tcmalloc, live: &[(NonNull<u8>, usize)]) {
    manager.check(&|piece| live.iter().any(|&(at, _)| at == piece)).unwrap();
}

fn give(manager: &Tcmalloc, pieces: Vec<(NonNull<u8>, usize)>) {
    for (piece, len) in pieces {
        // SAFETY: each was taken with this length and is given once.
        unsafe { manager.release(piece, len) };
    }
}

fn take(manager: &Tcmalloc, len: usize) -> (NonNull<u8>, usize) {
    (manager.allocate(len).unwrap().0, len)
}

#[test]
fn memory_is_mapped_and_registered_ahead_of_need() {
    let manager = manager(host(), 4 * MIB, Duration::ZERO).unwrap();
    let first = take(&manager, 64);
    eventually("a second block", || manager.holdings().managed >= 4 * MIB as u64);
    assert!(manager.holdings().blocks.iter().all(|block| block.registered));
    is_sound(&manager, &[first]);
    give(&manager, vec![first]);
}

#[test]
fn blocks_that_stay_free_are_given_back_but_never_the_first() {
    let manager = manager(host(), 0, Duration::from_millis(20)).unwrap();
    let pieces: Vec<_> = (0..10).map(|_| take(&manager, 3 * MIB)).collect();
    let huge = take(&manager, 40 * MIB);
    assert!(manager.holdings().managed >= 70 * MIB as u64);
    is_sound(&manager, &[pieces.clone(), vec![huge]].concat());
    give(&manager, pieces);
    give(&manager, vec![huge]);
    // A few large pieces may stay in this thread's cache, and keep their blocks.
    eventually("blocks given back", || manager.holdings().managed <= 16 * MIB as u64);
    assert!(manager.holdings().most_managed >= 70 * MIB as u64);
    is_sound(&manager, &[]);
    let again = take(&manager, 5 * MIB);
    is_sound(&manager, &[again]);
    give(&manager, vec![again]);
}

#[test]
fn the_most_that_was_alive_is_known_to_a_caches_fill() {
    let manager = manager(host(), 0, Duration::ZERO).unwrap();
    for _ in 0..3 {
        let held: Vec<_> = (0..2000).map(|_| take(&manager, 1000).0.as_ptr().addr()).collect();
        // Dropped by a thread that never allocates.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let piece = |address| NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap();
                give(&manager, held.into_iter().map(|address| (piece(address), 1000)).collect());
            });
        });
    }
    let (holdings, slack) = (manager.holdings(), 256);
    assert!((2000 - slack..=2000 + slack).contains(&holdings.most_objects), "{}", holdings.most_objects);
    assert!(holdings.most_bytes.abs_diff(holdings.most_objects * 1000) <= 1000 * slack, "{}", holdings.most_bytes);
    let large = take(&manager, 40 * MIB);
    assert!(manager.holdings().most_bytes >= 40 * MIB as u64);
    give(&manager, vec![large]);
    let counts = manager.counts();
    assert_eq!((counts.live(), counts.bytes, counts.total), (0, 0, 6000 * 1000 + 40 * MIB as u64));
}

#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    let manager = manager(host(), 0, Duration::ZERO).unwrap();
    let kept = std::sync::Mutex::new(Vec::new());
    for round in 0..250 {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (manager, kept) = (&manager, &kept);
                scope.spawn(move || {
                    let sizes = [64, 300, 5000, 70_000, 300_000];
                    let pieces: Vec<_> = sizes.map(|len| take(manager, len).0.as_ptr().addr()).to_vec();
                    for (address, len) in pieces.into_iter().zip(sizes) {
                        let piece = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap();
                        if round == 0 && thread == 0 && len == 300 {
                            kept.lock().unwrap().push(address);
                        } else {
                            give(manager, vec![(piece, len)]);
                        }
                    }
                });
            }
        });
    }
    let kept = kept.into_inner().unwrap();
    let live: Vec<_> = kept
        .into_iter()
        .map(|address| (NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap(), 300))
        .collect();
    is_sound(&manager, &live);
    let counts = manager.counts();
    assert_eq!((counts.allocations, counts.drops, counts.bytes), (2000 * 5, 2000 * 5 - 1, 300));
    // A thread that is done gives its cache back a little later: some more than eight, but not one for each of 2000.
    assert!(lock(&manager.shared.caches).all.len() <= 100, "each thread got a cache of its own");
    give(&manager, live);
}

#[test]
fn a_failed_growth_is_an_error_to_that_caller_alone() {
    let refuse = Arc::new(AtomicBool::new(false));
    let asked = refuse.clone();
    let pin = move |_, _| {
        if asked.load(Ordering::Relaxed) { Err("no more pins".to_owned()) } else { Ok(RegionKeys::default()) }
    };
    // SAFETY: neither touches the memory.
    let registrar = unsafe { CallbackRegistrar::new("mine", pin, |_, _, _| Ok(())) };
    let manager = manager(Arc::new(registrar), 0, Duration::ZERO).unwrap();
    let mut live = vec![take(&manager, 1000)];
    refuse.store(true, Ordering::Relaxed);
    for len in [3 * MIB, 20 * MIB, 50 * MIB] {
        let error = manager.allocate(len).unwrap_err().to_string();
        assert!(error.contains("no more pins"), "{error}");
        live.push(take(&manager, 2000));
        is_sound(&manager, &live);
    }
    assert!(manager.reserve(64 * MIB).is_err());
    refuse.store(false, Ordering::Relaxed);
    live.push(take(&manager, 3 * MIB));
    manager.reserve(10 * MIB).unwrap();
    is_sound(&manager, &live);
    give(&manager, live);
    is_sound(&manager, &[]);
}

#[test]
fn growth_ahead_of_need_that_is_refused_is_tried_again_less_and_less_often() {
    let (refuse, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (refused, count) = (refuse.clone(), asked.clone());
    let pin = move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        if refused.load(Ordering::Relaxed) { Err("no more pins".to_owned()) } else { Ok(RegionKeys::default()) }
    };
    // SAFETY: neither touches the memory.
    let registrar = unsafe { CallbackRegistrar::new("mine", pin, |_, _, _| Ok(())) };
    let manager = manager(Arc::new(registrar), 4 * MIB, Duration::ZERO).unwrap();
    refuse.store(true, Ordering::Relaxed);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(800) {
        manager.shared.look_ahead(&lock(&manager.shared.heap));
        std::thread::sleep(Duration::from_millis(1));
    }
    // The first block, and then after 0, 100, 300 and 700 ms.
    let asked = asked.load(Ordering::Relaxed);
    assert!((2..=5).contains(&asked), "the registrar was asked {asked} times");
    refuse.store(false, Ordering::Relaxed);
    eventually("a second block", || manager.holdings().managed >= 4 * MIB as u64);
}

#[test]
fn a_manager_whose_first_block_is_refused_is_an_error() {
    // SAFETY: neither touches the memory.
    let registrar = unsafe { CallbackRegistrar::new("mine", |_, _| Err("none".to_owned()), |_, _, _| Ok(())) };
    assert!(manager(Arc::new(registrar), 0, Duration::ZERO).is_err());
}

#[test]
fn the_check_sees_a_piece_that_is_lost_and_one_that_is_there_twice() {
    let manager = manager(host(), 0, Duration::ZERO).unwrap();
    let piece = take(&manager, 500);
    assert!(manager.check(&|_| false).is_err(), "out, but neither cached nor alive");
    give(&manager, vec![piece]);
    is_sound(&manager, &[]);
    assert!(manager.check(&|at| at == piece.0).is_err(), "cached and alive");
    lock(&manager.shared.classes[class_of(500)]).loose.push(piece.0);
    assert!(manager.check(&|_| false).is_err(), "in a cache and loose");
    lock(&manager.shared.classes[class_of(500)]).loose.pop();
    is_sound(&manager, &[]);
}
