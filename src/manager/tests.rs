#![allow(clippy::unwrap_used)]
//! Either manager against a list of what is handed out: nothing overlaps, contents stay, everything comes back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;
use crate::memory::{HugePages, Place};
use crate::registrar::{HostRegistrar, Regions, Registrar};
use crate::topology::Topology;

const MIB: usize = 1 << 20;

/// Blocks of small pages, wherever they come to lie, registered by this registrar.
pub(super) fn source(registrar: Arc<dyn Registrar>) -> Arc<BlockSource> {
    let regions = Arc::new(Regions::new(registrar, rand::random(), 0).unwrap());
    Arc::new(BlockSource {
        run: regions.run(),
        rank: 0,
        topology: Topology::discover().unwrap(),
        place: Place::Anywhere,
        huge_pages: HugePages::Off,
        touch_threads: 1,
        regions,
        next: Arc::new(AtomicU32::new(0)),
    })
}

fn tcmalloc(register: bool) -> (Manager, Arc<Regions>) {
    let source = source(Arc::new(HostRegistrar::new(false)));
    let regions = source.regions.clone();
    let (reserve_ahead, release_after) = (0, std::time::Duration::ZERO);
    let settings = tcmalloc::Settings { register, block: (MIB, 4 * MIB), reserve_ahead, release_after, patient: false };
    (Manager::Tcmalloc(Tcmalloc::new(source, settings).unwrap()), regions)
}

/// A piece that is handed out, and the byte it is filled with.
struct Piece(NonNull<u8>, usize, u8);

// SAFETY: the piece is its holder's alone.
unsafe impl Send for Piece {}

impl Piece {
    fn take(manager: &Manager, len: usize, fill: u8) -> Self {
        let (at, _) = manager.allocate(len).unwrap();
        assert!(at.as_ptr().addr().is_multiple_of(ALIGN));
        // SAFETY: just handed out with this length.
        unsafe { at.as_ptr().write_bytes(fill, len) };
        Self(at, len, fill)
    }

    fn give(self, manager: &Manager) {
        let Self(at, len, fill) = self;
        // SAFETY: handed out by this manager, written in full, and given back once, here.
        unsafe {
            assert!(
                std::slice::from_raw_parts(at.as_ptr(), len).iter().all(|&byte| byte == fill),
                "{len} bytes changed"
            );
            manager.release(at, len);
        }
    }
}

fn check(manager: &Manager, held: &[Piece]) {
    let mut ranges: Vec<(usize, usize)> = held.iter().map(|piece| (piece.0.as_ptr().addr(), piece.1.max(1))).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "pieces overlap");
    let mut walked = Vec::new();
    manager.walk(&mut |piece| {
        walked.push(piece.as_ptr().addr());
        true
    });
    let (count, walked) = (walked.len(), BTreeSet::from_iter(walked));
    assert_eq!(count, walked.len(), "a piece was visited twice");
    let held_at = BTreeSet::from_iter(ranges.iter().map(|range| range.0));
    assert!(walked.is_superset(&held_at), "a piece was not visited");
    assert!(held.iter().all(|piece| manager.is_piece(piece.0)));
    manager.check(&|piece| held_at.contains(&piece.as_ptr().addr())).unwrap();
    let counts = manager.counts();
    assert_eq!(counts.allocations - counts.drops, held.len() as u64);
    let bytes: u64 = held.iter().map(|piece| piece.1 as u64).sum();
    assert!((bytes..=bytes + held.len() as u64).contains(&counts.bytes));
    let holdings = manager.holdings();
    assert!(holdings.used >= held.iter().map(|piece| piece.1 as u64).sum());
    assert!(holdings.managed >= holdings.used);
    let in_blocks: u64 = holdings.blocks.iter().map(|block| block.used_bytes).sum();
    assert!(holdings.blocks.is_empty() || in_blocks >= holdings.used, "{in_blocks} of {} used", holdings.used);
}

/// A length of any order of magnitude.
fn any_len() -> impl Strategy<Value = usize> {
    (0..21u32).prop_flat_map(|bits| 0..=1usize << bits)
}

/// Allocate that much, or give back the piece at that place.
fn step() -> impl Strategy<Value = Result<usize, prop::sample::Index>> {
    prop_oneof![3 => any_len().prop_map(Ok), 2 => any::<prop::sample::Index>().prop_map(Err)]
}

fn follows_the_model(manager: &Manager, steps: Vec<Result<usize, prop::sample::Index>>) {
    let mut held: Vec<Piece> = Vec::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Ok(len) => held.push(Piece::take(manager, len, number as u8)),
            Err(_) if held.is_empty() => {}
            Err(index) => held.swap_remove(index.index(held.len())).give(manager),
        }
    }
    check(manager, &held);
    held.into_iter().for_each(|piece| piece.give(manager));
    check(manager, &[]);
    assert_eq!(manager.holdings().used, 0, "something did not come back");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn tcmalloc_hands_out_what_is_free_and_takes_all_back(steps in prop::collection::vec(step(), 1..200)) {
        follows_the_model(&tcmalloc(false).0, steps);
    }

    #[test]
    fn malloc_hands_out_what_is_free_and_takes_all_back(steps in prop::collection::vec(step(), 1..200)) {
        follows_the_model(&Manager::Malloc(Box::default()), steps);
    }
}

#[test]
fn threads_pass_pieces_to_each_other_and_none_is_lost() {
    for manager in [tcmalloc(true).0, Manager::Malloc(Box::default())] {
        let manager = &manager;
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..4).map(|_| std::sync::mpsc::channel::<Piece>()).unzip();
        std::thread::scope(|scope| {
            for (thread, inbox) in receivers.into_iter().enumerate() {
                let senders = senders.clone();
                scope.spawn(move || {
                    for number in 0..2000usize {
                        let len = [1, 64, 65, 1000, 5000, 70_000][(number + thread) % 6];
                        let piece = Piece::take(manager, len, number as u8);
                        // Every third goes back where it came from, the others elsewhere.
                        if number % 3 == 0 {
                            piece.give(manager);
                        } else {
                            let _ = senders[(thread + number) % 4].send(piece);
                        }
                        inbox.try_iter().take(3).for_each(|piece| piece.give(manager));
                    }
                    drop(senders);
                    inbox.into_iter().for_each(|piece| piece.give(manager));
                });
            }
            drop(senders);
        });
        check(manager, &[]);
        assert_eq!(manager.holdings().used, 0, "{}", manager.name());
    }
}

#[test]
fn malloc_knows_the_most_that_was_alive() {
    let manager = Manager::Malloc(Box::default());
    let held: Vec<Piece> = (0..10).map(|number| Piece::take(&manager, 100, number)).collect();
    held.into_iter().for_each(|piece| piece.give(&manager));
    Piece::take(&manager, 500, 1).give(&manager);
    let holdings = manager.holdings();
    assert_eq!((holdings.most_objects, holdings.most_bytes, holdings.most_managed), (10, 1000, 1280));
    assert_eq!((holdings.managed, holdings.used, manager.counts().total), (0, 0, 1500));
}

#[test]
fn what_was_given_back_is_used_again() {
    let (manager, regions) = tcmalloc(true);
    for _ in 0..100 {
        let held: Vec<Piece> = (0..40).map(|number| Piece::take(&manager, 20_000, number)).collect();
        held.into_iter().for_each(|piece| piece.give(&manager));
        Piece::take(&manager, 3 * MIB, 1).give(&manager);
    }
    let (managed, done) = (manager.holdings().managed, regions.info().done);
    assert!(managed <= 8 * MIB as u64 && done <= 4, "{managed} bytes in {done} blocks for at most 3 MiB at once");
}

#[test]
fn a_piece_larger_than_any_block_gets_one_of_its_own() {
    let (manager, regions) = tcmalloc(true);
    let piece = Piece::take(&manager, 20 * MIB, 9);
    assert!(manager.holdings().managed >= 20 * MIB as u64);
    assert_eq!(regions.info().bytes, manager.holdings().managed, "registered blocks are registered whole");
    let last = piece.0.as_ptr().addr() + 20 * MIB - 1;
    // SAFETY: an address in a piece that is handed out.
    let (region, backing) = unsafe { (tcmalloc::region_of(last), tcmalloc::backing_of(last).unwrap()) };
    assert!(region.is_some() && backing.offset >= 20 * MIB - 1);
    piece.give(&manager);
    drop(manager);
    assert_eq!(regions.info().regions, 0, "a manager that goes leaves nothing registered");
}

#[test]
fn what_cannot_be_had_is_an_error_and_the_rest_goes_on() {
    for manager in [tcmalloc(false).0, Manager::Malloc(Box::default())] {
        let piece = Piece::take(&manager, 100, 5);
        let refused = manager.allocate(1 << 46);
        assert!(matches!(refused, Err(crate::Error::Memory(_))), "{}: {refused:?}", manager.name());
        assert!(manager.allocate(isize::MAX as usize - 1000).is_err());
        Piece::take(&manager, 100_000, 6).give(&manager);
        piece.give(&manager);
    }
}
