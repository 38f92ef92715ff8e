#![allow(clippy::unwrap_used)]
//! Objects against a model of their contents, from many threads, and with their headers written over.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::error::{Error, HandleFault};
use crate::manager::Manager;
use crate::pool::{Pool, Pools, Registration};
use crate::registrar::{HostRegistrar, Regions};

fn pools() -> Pools {
    // As an instance does, before the first object: other tests start some meanwhile.
    choose_secret();
    let regions = Arc::new(Regions::new(Arc::new(HostRegistrar::new(false)), rand::random(), 0).unwrap());
    let pool = |time| Arc::new(Pool::new(time, Manager::Malloc(Box::default()), regions.clone()));
    Pools::new([pool(Registration::Eager), pool(Registration::Lazy)])
}

fn live(pools: &Pools) -> u64 {
    pools.all().iter().map(|pool| pool.live()).sum()
}

fn still(object: &Ldo, handle: &RemoteHandle) -> Result<(), HandleFault> {
    let regions = &pool_regions(object);
    match PinnedObject::acquire(regions, handle) {
        Ok(_) => Ok(()),
        Err(Error::Handle(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

fn pool_regions(object: &Ldo) -> Arc<Regions> {
    let head = head(object);
    // SAFETY: the object is alive and sound, so its pool is there.
    unsafe { &*head.owner() }.regions.clone()
}

/// The object's head, where it lies.
fn head(object: &Ldo) -> &Head {
    let data = object.data_ptr().unwrap().0;
    // SAFETY: an ordinary object's data lie behind its head and its metadata.
    unsafe { &*data.sub(object.meta_len() + HEAD).cast::<Head>() }
}

/// The eight bytes at `offset` of the object's head.
fn word(object: &Ldo, offset: usize) -> *mut u64 {
    // SAFETY: within the head.
    unsafe { std::ptr::from_ref(head(object)).cast::<u8>().cast_mut().add(offset).cast() }
}

#[derive(Debug, Clone)]
enum Change {
    Fill(u8),
    Type(u32),
    Resize(usize, usize),
    Wipe,
    Copy,
    Share,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u8>().prop_map(Change::Fill),
        any::<u32>().prop_map(Change::Type),
        (0..400usize, 0..2000usize).prop_map(|(meta, data)| Change::Resize(meta, data)),
        Just(Change::Wipe),
        Just(Change::Copy),
        Just(Change::Share),
    ]
}

/// What an object should hold.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    type_id: u32,
    meta: Vec<u8>,
    data: Vec<u8>,
}

impl Model {
    fn of(object: &Ldo) -> Self {
        let (meta, data) = (object.meta().unwrap().to_vec(), object.data().unwrap().to_vec());
        Self { type_id: object.type_id().0, meta, data }
    }

    fn fill(&mut self, seed: u8) {
        let bytes = self.meta.iter_mut().chain(&mut self.data);
        bytes.enumerate().for_each(|(at, byte)| *byte = (at as u8).wrapping_mul(31) ^ seed);
    }
}

fn follows_the_model(mut object: Ldo, changes: Vec<Change>) {
    object.wipe().unwrap();
    let mut model = Model { type_id: 0, meta: vec![0; object.meta_len()], data: vec![0; object.data_len()] };
    for change in changes {
        let handle = object.handle().unwrap();
        match change {
            Change::Fill(seed) => {
                model.fill(seed);
                object.meta_mut().unwrap().copy_from_slice(&model.meta);
                object.data_mut().unwrap().copy_from_slice(&model.data);
            }
            Change::Type(type_id) => {
                object.set_type_id(type_id).unwrap();
                model.type_id = type_id;
            }
            Change::Resize(meta, data) => match object.resize(meta, data) {
                Ok(()) => {
                    let kept = (meta.min(model.meta.len()), data.min(model.data.len()));
                    let found = Model::of(&object);
                    assert_eq!((found.meta.len(), found.data.len()), (meta, data));
                    assert_eq!(found.meta[..kept.0], model.meta[..kept.0], "the metadata changed");
                    assert_eq!(found.data[..kept.1], model.data[..kept.1], "the data changed");
                    model = found;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Object(_)), "{error}");
                    assert!(object.is_user() || meta + data > object.capacity(), "{meta} + {data}: {error}");
                }
            },
            Change::Wipe => {
                object.wipe().unwrap();
                model.meta.fill(0);
                model.data.fill(0);
            }
            Change::Copy => {
                let copy = object.deep_copy().unwrap();
                assert!(copy.deep_eq(&object).unwrap() && !copy.ptr_eq(&object) && !copy.is_user());
                assert_eq!(copy.registration().unwrap(), object.registration().unwrap());
            }
            Change::Share => {
                let clone = object.clone();
                assert!(clone.ptr_eq(&object) && object.references() == 2);
                assert!(object.data_mut::<u8>().is_err() && object.resize(0, 0).is_err() && object.wipe().is_err());
                assert!(object.set_type_id(1).is_err());
            }
        }
        assert_eq!(Model::of(&object), model);
        if !object.is_user() {
            let same = (handle.meta_len(), handle.data_len(), handle.type_id());
            let now = (model.meta.len(), model.data.len(), model.type_id);
            assert_eq!(still(&object, &handle).is_ok(), same == now, "a handle and its object's shape");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn an_object_holds_what_was_put_into_it(
        lazy in any::<bool>(), meta in 0..300usize, data in 0..1500usize, changes in prop::collection::vec(change(), 1..30)
    ) {
        let pools = pools();
        for shape in 0..3 {
            let builder = ObjectBuilder::new(&pools).meta(meta).capacity(2000);
            let builder = if lazy { builder.lazy() } else { builder };
            let object = match shape {
                0 => builder.data(data),
                1 => builder.user(vec![0u8; data]),
                _ => builder.user_with_meta(vec![0u8; meta + data]),
            };
            follows_the_model(object.unwrap(), changes.clone());
        }
        prop_assert_eq!(live(&pools), 0);
        prop_assert_eq!(pools.all()[0].regions.info().regions, 0);
    }
}

#[test]
fn typed_views_need_fitting_sizes_and_places() {
    let pools = pools();
    let mut object = ObjectBuilder::new(&pools).zeroed().meta(16).data_of::<f64>(10).unwrap();
    object.data_mut::<f64>().unwrap()[9] = 2.5;
    assert_eq!(object.data::<f64>().unwrap()[9], 2.5);
    assert_eq!(object.data::<u8>().unwrap().as_ptr().addr() % 16, 0);
    object.resize(4, 80).unwrap();
    assert!(matches!(object.data::<f64>(), Err(Error::Object(_))), "data behind 4 bytes of metadata are not aligned");
    assert!(object.data::<u32>().is_ok() && object.meta::<u64>().is_err());
    assert!(ObjectBuilder::new(&pools).data_of::<u64>(usize::MAX / 4).is_err());
    assert!(ObjectBuilder::new(&pools).meta(usize::MAX).data(1).is_err());
    assert!(ObjectBuilder::new(&pools).capacity(usize::MAX).data(1).is_err());
}

#[test]
fn threads_share_and_pin_an_object_and_it_goes_once() {
    let pools = pools();
    for _ in 0..50 {
        let returned = Arc::new(AtomicU32::new(0));
        let (count, base) = (returned.clone(), Box::leak(Box::new([0u8; 64])).as_mut_ptr());
        // SAFETY: leaked for good, and used by nobody else.
        let memory = unsafe { UserMemory::from_raw(base, 64, move |_, _| _ = count.fetch_add(1, Ordering::SeqCst)) };
        let object = ObjectBuilder::new(&pools).user(memory).unwrap();
        let (handle, regions) = (object.handle().unwrap(), &pools.all()[0].regions);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let object = object.clone();
                scope.spawn(move || (0..100).for_each(|_| drop((object.clone(), object.clone()))));
                scope.spawn(|| while PinnedObject::acquire(regions, &handle).is_ok() {});
            }
            drop(object);
        });
        assert_eq!((returned.load(Ordering::SeqCst), live(&pools)), (1, 0));
    }
}

#[test]
fn a_header_that_was_written_over_is_found_and_not_followed() {
    // Each word that never changes: check, tag, owner, capacity.
    for offset in [0, 16, 24, 32] {
        let pools = pools();
        let object = ObjectBuilder::new(&pools).data(100).unwrap();
        let (handle, at) = (object.handle().unwrap(), word(&object, offset));
        // SAFETY: the object's own head, which nobody else uses: the stray write under test.
        unsafe { *at ^= 0x5a5a_0000_5a00 };
        assert!(matches!(object.handle(), Err(Error::Object(why)) if why.contains("written over")), "word {offset}");
        assert!(object.registration().is_err() && !object.is_registered() && object.deep_copy().is_err());
        assert!(PinnedObject::acquire(&pools.all()[0].regions, &handle).is_err());
        assert_eq!(list(&pools.all()[0], 10)[0].kind, "damaged");
        drop(object);
        let report = leaks(pools.all());
        assert_eq!((report.damaged, report.objects(), live(&pools)), (1, 1, 1), "its memory is left alone");
        std::mem::forget(pools);
    }
}

#[test]
fn lengths_that_were_written_over_lead_nowhere() {
    let pools = pools();
    let mut object = ObjectBuilder::new(&pools).meta(8).data(100).unwrap();
    let (at, before) = (word(&object, 56), 100);
    // SAFETY: the object's own head: the stray write under test.
    unsafe { *at = 1 << 40 };
    assert!(object.data::<u8>().is_err() && object.data_mut::<u8>().is_err() && object.data_ptr().is_err());
    assert!(object.deep_copy().is_err() && object.wipe().is_err());
    // Nor by a handle that says the same.
    let refused = PinnedObject::acquire(&pools.all()[0].regions, &object.handle().unwrap());
    assert!(matches!(refused, Err(Error::Handle(HandleFault::Stale(_)))), "{refused:?}");
    // SAFETY: as above.
    unsafe { *at = before };
    assert_eq!(object.data::<u8>().unwrap().len(), 100);
    drop(object);
    assert_eq!(live(&pools), 0);
}

#[test]
fn a_region_number_that_was_written_over_ends_nobody_elses_region() {
    let pools = pools();
    let make = || ObjectBuilder::new(&pools).lazy().data(100).unwrap();
    let (one, other) = (make(), make());
    other.register().unwrap();
    let (to, from) = (word(&one, 40), word(&other, 40));
    // SAFETY: the heads of two live objects, which nobody else uses: the stray write under test.
    unsafe { *to = *from };
    drop(one);
    assert!(other.is_registered(), "another object's region was ended");
    drop(other);
    assert_eq!((pools.all()[1].regions.info().regions, live(&pools)), (0, 0));
}

#[test]
fn segments_cover_each_section_exactly() {
    let pools = pools();
    let objects = [
        ObjectBuilder::new(&pools).meta(10).data(100).unwrap(),
        ObjectBuilder::new(&pools).meta(10).user(vec![0u8; 100]).unwrap(),
        ObjectBuilder::new(&pools).lazy().meta(10).user_with_meta(vec![0u8; 110]).unwrap(),
    ];
    let sizes = [(Section::Base, 174), (Section::LocalHeader, 48), (Section::Header, 16), (Section::Object, 126)];
    for object in &objects {
        for (section, bytes) in sizes.into_iter().chain([(Section::Meta, 10), (Section::Data, 100)]) {
            let segments = object.segments(section).unwrap();
            assert_eq!(segments.bytes(), bytes, "{section} of {object:?}");
            for segment in segments.iter() {
                assert!(segment.offset() + segment.len() <= segment.region().len());
            }
        }
        let data = object.segments(Section::Data).unwrap();
        assert_eq!(data.iter().next().map(|segment| segment.address()), Some(object.data_ptr().unwrap().0));
        assert_eq!(data.len(), 1);
        assert_eq!(object.segments(Section::Base).unwrap().len(), if object.is_user() { 2 } else { 1 });
    }
    let _: NonNull<Head> = NonNull::from(head(&objects[0]));
}

#[test]
fn what_was_registered_by_itself_is_deregistered_at_its_end_without_a_handle() {
    for manager in ["tcmalloc", "malloc"] {
        let config = crate::Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
        let lunasa = crate::Lunasa::local(config.set("lunasa.lazy_memory_manager", manager).unwrap()).unwrap();
        let regions = || lunasa.snapshot().registrations.regions;
        // The first fills the thread's cache, which later ones go through.
        drop(lunasa.object().lazy().data(100).unwrap());
        let before = regions();
        let object = lunasa.object().lazy().data(100).unwrap();
        object.register().unwrap();
        assert_eq!(regions(), before + 1, "{manager}");
        drop(object);
        assert_eq!(regions(), before, "{manager}");
    }
}
