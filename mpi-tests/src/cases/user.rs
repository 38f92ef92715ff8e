//! User objects of both shapes over memory that the program brings; it goes back exactly once, whatever happens.

use super::support::*;
use lunasa::{CallbackRegistrar, Error, Ldo, Lunasa, RegionKeys, Section, UserMemory};
use mpi::topology::SimpleCommunicator;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in &choices(arguments) {
        let lunasa = start(world, routes)?;
        for shape in [Shape::DataOnly, Shape::WithMeta] {
            both_parts_are_served(world, &lunasa, seed, shape)?;
            both_parts_can_be_written(world, &lunasa, seed, shape)?;
        }
        memory_goes_back_once_when_the_last_reference_goes(world, &lunasa)?;
        finish(lunasa)?;
    }
    memory_goes_back_once_when_construction_fails(world)?;
    done(world, "user")
}

#[derive(Clone, Copy)]
enum Shape {
    DataOnly,
    WithMeta,
}

/// Counts how often a piece of memory went back.
#[derive(Clone, Default)]
struct Returns(Arc<AtomicU32>);

impl Returns {
    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// The memory goes back once: at the drop, or as soon as the last message that serves it from here is through, which
    /// the peer may know before its owner does.
    fn expect_one(&self, lunasa: &Lunasa) {
        let start = Instant::now();
        while self.count() == 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "the memory did not come back");
            lunasa.progress();
        }
        assert_eq!(self.count(), 1);
    }

    /// Memory of the program with these contents, that counts when it goes back.
    fn memory(&self, contents: &[u8]) -> UserMemory {
        let (returns, len) = (self.0.clone(), contents.len());
        let base = Box::into_raw(contents.to_vec().into_boxed_slice()).cast::<u8>();
        let cleanup = move |at: *mut u8, bytes| {
            returns.fetch_add(1, Ordering::SeqCst);
            assert_eq!(bytes, len);
            // SAFETY: made by `into_raw` above, with this length, and called once: that is what is tested.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(at, bytes)) });
        };
        // SAFETY: a box that was leaked, used by nobody else until the cleanup.
        unsafe { UserMemory::from_raw(base, len, cleanup) }
    }
}

fn object(lunasa: &Lunasa, sample: &Sample, shape: Shape, lazy: bool, returns: &Returns) -> Result<Ldo, Error> {
    let builder = lunasa.object().type_id(sample.type_id).meta(sample.meta.len());
    let builder = if lazy { builder.lazy() } else { builder };
    match shape {
        Shape::DataOnly => {
            let mut object = builder.user(returns.memory(&sample.data))?;
            object.meta_mut()?.copy_from_slice(&sample.meta);
            Ok(object)
        }
        Shape::WithMeta => builder.user_with_meta(returns.memory(&[&sample.meta[..], &sample.data].concat())),
    }
}

fn both_parts_are_served(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64, shape: Shape) -> Result<(), Error> {
    let mut numbers = numbers(seed, lunasa.rank() as usize, usize::MAX);
    for number in 0..3 {
        let (sample, returns) = (Sample::of(seed, lunasa.rank() as usize, number), Returns::default());
        let object = object(lunasa, &sample, shape, number == 1, &returns)?;
        assert!(object.is_user() && object.is_registered() == (number != 1));
        sample.check(&object)?;
        let handles = everybodys(world, lunasa, object.handle()?);
        for peer in peers(lunasa) {
            Sample::of(seed, peer, number).check_remote(lunasa, &handles[peer], &mut numbers)?;
        }
        meet(world, lunasa);
        assert_eq!(object.segments(Section::Object)?.bytes(), sample.image().len());
        assert_eq!(returns.count(), 0);
        drop(object);
        returns.expect_one(lunasa);
    }
    Ok(())
}

fn both_parts_can_be_written(
    world: &SimpleCommunicator,
    lunasa: &Lunasa,
    seed: u64,
    shape: Shape,
) -> Result<(), Error> {
    const LEN: usize = 40_000;
    let (rank, ranks) = (lunasa.rank() as usize, lunasa.ranks() as usize);
    let blank = Sample { type_id: 1, meta: vec![0; 64], data: vec![0; LEN] };
    let object = object(lunasa, &blank, shape, false, &Returns::default())?;
    // SAFETY: no slice of the object is taken while its neighbour writes.
    let handles = everybodys(world, lunasa, unsafe { object.handle_mut() }?);
    let next = (rank + 1) % ranks;
    let (meta, data) = (any_bytes(&mut numbers(seed, rank, 1), 64), any_bytes(&mut numbers(seed, rank, 2), LEN));
    // Across the border between metadata and data, which may lie in different memory; 16 bytes of header come before.
    let whole = handles[next].section(Section::Object);
    lunasa.put_bytes(&[&meta[10..], &data[..20_000]].concat(), &whole, 16 + 10)?;
    lunasa.put_bytes(&meta[..10], &handles[next].section(Section::Meta), 0)?;
    lunasa.put_bytes(&data[20_000..], &handles[next], 20_000)?;
    meet(world, lunasa);
    let before = (rank + ranks - 1) % ranks;
    same(object.meta()?, &any_bytes(&mut numbers(seed, before, 1), 64));
    same(object.data()?, &any_bytes(&mut numbers(seed, before, 2), LEN));
    meet(world, lunasa);
    Ok(())
}

fn memory_goes_back_once_when_the_last_reference_goes(
    world: &SimpleCommunicator,
    lunasa: &Lunasa,
) -> Result<(), Error> {
    let returns = Returns::default();
    let object = lunasa.object().meta(8).user(returns.memory(&[5; 3000]))?;
    let (handle, clone) = (object.handle()?, object.clone());
    drop(object);
    assert_eq!(returns.count(), 0);
    drop(clone);
    assert_eq!(returns.count(), 1);
    let handles = everybodys(world, lunasa, handle);
    for peer in peers(lunasa) {
        assert!(is_stale(lunasa.fetch(&handles[peer])));
    }
    // Owners of other kinds.
    drop(lunasa.object().user(vec![1.5f64; 100])?);
    drop(lunasa.object().lazy().user(Vec::<u8>::new())?);
    drop(lunasa.object().meta(4).user_with_meta(vec![1u32; 7].into_boxed_slice())?);
    meet(world, lunasa);
    Ok(())
}

/// A registrar that takes whole blocks but refuses anything small.
fn refuses_small() -> Arc<CallbackRegistrar> {
    let pin = |_, len| if len >= 1 << 20 { Ok(RegionKeys::default()) } else { Err("too small".to_owned()) };
    // SAFETY: neither function touches or keeps the memory.
    Arc::new(unsafe { CallbackRegistrar::new("picky", pin, |_, _, _| Ok(())) })
}

fn memory_goes_back_once_when_construction_fails(world: &SimpleCommunicator) -> Result<(), Error> {
    let lunasa = Lunasa::start_with(world, config(&["self", "shm", "mpi"])?, refuses_small())?;
    let returns = Returns::default();
    let refused = lunasa.object().user(returns.memory(&[1; 100]));
    assert!(matches!(&refused, Err(Error::Registration(why)) if why.contains("picky")), "{refused:?}");
    assert_eq!(returns.count(), 1);
    assert!(lunasa.object().meta(5).user_with_meta(returns.memory(&[1; 4])).is_err(), "shorter than its metadata");
    assert_eq!(returns.count(), 2);
    assert!(lunasa.object().meta(1 << 32).user(returns.memory(&[1; 4])).is_err(), "metadata beyond their limit");
    assert_eq!(returns.count(), 3);
    // A refused lazy registration leaves the object as it was.
    let lazy = lunasa.object().lazy().user(returns.memory(&[9; 50]))?;
    assert!(matches!(lazy.handle(), Err(Error::Registration(_))));
    assert_eq!((returns.count(), lazy.data::<u8>()?), (3, &[9; 50][..]));
    drop(lazy);
    assert_eq!(returns.count(), 4);
    finish(lunasa)
}
