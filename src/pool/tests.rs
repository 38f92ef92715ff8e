#![allow(clippy::unwrap_used)]
//! A pool registers what it says when it says, once, and gives nothing back that is still registered.

use super::*;
use crate::registrar::{CallbackRegistrar, RegionKeys};
use std::collections::BTreeMap;

/// What is registered, and how often anything was; refuses while it is told to.
#[derive(Default)]
struct Device {
    registered: Mutex<BTreeMap<usize, usize>>,
    done: AtomicU64,
    refuses: AtomicBool,
    holds_on: AtomicBool,
}

fn pool(time: Registration) -> (Pool, Arc<Device>) {
    let device = Arc::new(Device::default());
    let (pins, unpins) = (device.clone(), device.clone());
    let pin = move |base: NonNull<u8>, len| {
        if pins.refuses.load(Ordering::SeqCst) {
            return Err("no".to_owned());
        }
        pins.done.fetch_add(1, Ordering::SeqCst);
        let before = pins.registered.lock().unwrap().insert(base.as_ptr().addr(), len);
        assert_eq!(before, None, "registered twice");
        Ok(RegionKeys::default())
    };
    let unpin = move |base: NonNull<u8>, len, _| {
        if unpins.holds_on.load(Ordering::SeqCst) {
            return Err("not yet".to_owned());
        }
        assert_eq!(unpins.registered.lock().unwrap().remove(&base.as_ptr().addr()), Some(len));
        Ok(())
    };
    // SAFETY: neither function touches the memory.
    let registrar = unsafe { CallbackRegistrar::new("test", pin, unpin) };
    let regions = Arc::new(Regions::new(Arc::new(registrar), rand::random(), 0).unwrap());
    (Pool::new(time, Manager::Malloc(Box::default()), regions), device)
}

/// As an object would do it.
#[track_caller]
fn allocate(pool: &Pool, len: usize) -> Result<(NonNull<u8>, u64, Option<Region>)> {
    pool.allocate(len, std::panic::Location::caller())
}

/// What is told of the object when its piece comes back.
fn past() -> Past {
    Past { serial: 1, type_id: 0, type_name: None, meta_len: 0, data_len: 0 }
}

fn registered(device: &Device) -> usize {
    device.registered.lock().unwrap().len()
}

#[test]
fn eager_pieces_are_registered_until_they_are_released() {
    let (pool, device) = pool(Registration::Eager);
    let (piece, serial, region) = allocate(&pool, 1000).unwrap();
    assert_eq!((serial, registered(&device), pool.live()), (1, 1, 1));
    assert_eq!(region.unwrap().base(), piece.as_ptr());
    // SAFETY: allocated above, with this length.
    unsafe { pool.release(piece, 1000, region.map(|region| region.id), past) };
    assert_eq!((registered(&device), pool.live(), pool.info().0.allocated_bytes), (0, 0, 0));
}

#[test]
fn a_refused_registration_leaves_nothing_behind() {
    let (pool, device) = pool(Registration::Eager);
    device.refuses.store(true, Ordering::SeqCst);
    assert!(matches!(allocate(&pool, 1000), Err(Error::Registration(_))));
    assert_eq!((pool.live(), pool.info().0.used_bytes), (0, 0));
    device.refuses.store(false, Ordering::SeqCst);
    let (piece, _, region) = allocate(&pool, 1000).unwrap();
    // SAFETY: allocated above, with this length.
    unsafe { pool.release(piece, 1000, region.map(|region| region.id), past) };
}

#[test]
fn memory_that_the_device_holds_on_to_is_not_used_again() {
    let (pool, device) = pool(Registration::Eager);
    let (piece, _, region) = allocate(&pool, 1000).unwrap();
    device.holds_on.store(true, Ordering::SeqCst);
    // SAFETY: allocated above, with this length.
    unsafe { pool.release(piece, 1000, region.map(|region| region.id), past) };
    assert_eq!(registered(&device), 1);
    assert!(pool.info().0.used_bytes >= 1000, "it was given back while registered");
}

#[test]
fn racing_threads_register_a_lazy_piece_once() {
    let (pool, device) = pool(Registration::Lazy);
    for round in 1..=50 {
        let (piece, _, region) = allocate(&pool, 500).unwrap();
        assert_eq!((region, registered(&device)), (None, 0));
        let (current, address) = (AtomicU64::new(0), piece.as_ptr().expose_provenance());
        let found: Vec<Region> = std::thread::scope(|scope| {
            let register = || {
                let base = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap();
                // SAFETY: the piece is released below, after its region.
                unsafe { pool.register_once(base, 500, &current) }.unwrap()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(register)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|region| *region == found[0]));
        assert_eq!(device.done.load(Ordering::SeqCst), round);
        // SAFETY: allocated above, with this length.
        unsafe { pool.release(piece, 500, RegionId::unpack(current.into_inner()), past) };
    }
    assert_eq!(registered(&device), 0);
}

#[test]
fn a_closed_pool_hands_out_and_registers_nothing() {
    let (pool, device) = pool(Registration::Lazy);
    let (piece, ..) = allocate(&pool, 500).unwrap();
    pool.close();
    assert!(matches!(allocate(&pool, 1), Err(Error::Closed(_))));
    // SAFETY: the piece is released below.
    assert!(matches!(unsafe { pool.register_once(piece, 500, &AtomicU64::new(0)) }, Err(Error::Closed(_))));
    // SAFETY: allocated above, with this length.
    unsafe { pool.release(piece, 500, None, past) };
    assert_eq!((registered(&device), pool.live()), (0, 0));
}
