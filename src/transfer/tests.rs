#![allow(clippy::unwrap_used)]
//! Transfers of one process with itself: by `self`, and by `shm`, which maps its own blocks as a peer's.

use proptest::prelude::*;

use crate::{Config, Error, HandleFault, Lunasa, RemoteHandle, Section, Waited};

fn local(route: &str) -> Lunasa {
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
    let config = config.set("lunasa.tcmalloc.min_system_alloc", "1 MiB").unwrap();
    Lunasa::local(config.set("lunasa.routes", vec![route]).unwrap()).unwrap()
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(37) ^ (at >> 8) as u8 ^ seed).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Get(Section, usize, usize),
    Put(Section, usize, usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let section = prop_oneof![Just(Section::Object), Just(Section::Meta), Just(Section::Data)];
    let range = (0..3300usize, prop_oneof![0..3300usize, Just(usize::MAX)]);
    (section, range, any::<Option<u8>>()).prop_map(|(section, (offset, len), put)| match put {
        None => Step::Get(section, offset, len.min(5000)),
        // The header is left alone: what it says would no longer be what the handle says.
        Some(seed) => Step::Put(section, offset + if section == Section::Object { 16 } else { 0 }, len.min(5000), seed),
    })
}

/// Where a section lies in header, metadata and data; `None` when the range is not in it.
fn range(section: Section, offset: usize, len: usize, meta: usize, data: usize) -> Option<std::ops::Range<usize>> {
    let (start, end) = match section {
        Section::Meta => (16, 16 + meta),
        Section::Data => (16 + meta, 16 + meta + data),
        _ => (0, 16 + meta + data),
    };
    let from = start.checked_add(offset)?;
    let to = from.checked_add(len)?;
    (from <= end && to <= end).then_some(from..to)
}

fn follows_the_model(route: &str, user: bool, meta: usize, data: usize, steps: &[Step]) {
    let lunasa = local(route);
    let builder = lunasa.object().type_id(5).meta(meta);
    let mut object = if user { builder.user(vec![0u8; data]) } else { builder.data(data) }.unwrap();
    object.wipe().unwrap();
    let mut model = [&5u32.to_le_bytes()[..], &(meta as u32).to_le_bytes(), &(data as u64).to_le_bytes()].concat();
    model.resize(16 + meta + data, 0);
    // SAFETY: no slice of the object is alive during a put.
    let handle = unsafe { object.handle_mut() }.unwrap();
    for step in steps {
        let (section, offset, len) = match *step {
            Step::Get(section, offset, len) | Step::Put(section, offset, len, _) => (section, offset, len),
        };
        let (part, expected) = (handle.section(section), range(section, offset, len, meta, data));
        let result = match *step {
            Step::Get(..) => {
                let mut found = vec![0xee; len];
                let result = lunasa.get_bytes(&part, offset, &mut found);
                match &expected {
                    Some(range) => assert_eq!(found, model[range.clone()]),
                    None => assert!(found.iter().all(|&byte| byte == 0xee), "a refused get wrote"),
                }
                result
            }
            Step::Put(_, _, _, seed) => {
                let new = bytes(len, seed);
                if let Some(range) = expected.clone() {
                    model[range].copy_from_slice(&new);
                }
                lunasa.put_bytes(&new, &part, offset)
            }
        };
        match expected {
            Some(_) => assert_eq!(result, Ok(())),
            None => assert!(matches!(result, Err(Error::Handle(HandleFault::OutOfBounds(_)))), "{result:?}"),
        }
        assert_eq!(object.meta::<u8>().unwrap(), &model[16..16 + meta]);
        assert_eq!(object.data::<u8>().unwrap(), &model[16 + meta..]);
    }
    let copy = lunasa.fetch(&handle).unwrap();
    assert!(copy.deep_eq(&object).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn bytes_go_where_the_section_and_the_offset_say(
        meta in 0..300usize, data in 0..3000usize, steps in prop::collection::vec(step(), 1..20)
    ) {
        follows_the_model("self", false, meta, data, &steps);
        follows_the_model("self", true, meta, data, &steps);
        follows_the_model("shm", false, meta, data, &steps);
    }
}

#[test]
fn what_an_object_was_is_not_what_takes_its_place() {
    for route in ["self", "shm"] {
        let lunasa = local(route);
        let mut objects: Vec<_> = (0..20).map(|_| lunasa.object().data(1000).unwrap()).collect();
        let old: Vec<RemoteHandle> = objects.iter().map(|object| object.handle().unwrap()).collect();
        objects.clear();
        let _others: Vec<_> = (0..20).map(|_| lunasa.object().data(1000).unwrap()).collect();
        for handle in &old {
            let stale = |error| matches!(error, Error::Handle(HandleFault::Stale(_)));
            assert!(lunasa.fetch(handle).is_err_and(stale), "{route}");
            assert!(lunasa.view(handle).is_err_and(stale), "{route}");
            assert!(lunasa.get_bytes(handle, 0, &mut [0]).is_err_and(stale), "{route}");
        }
    }
}

#[test]
fn memory_that_is_no_block_is_out_of_reach_for_shm_alone() {
    let lunasa = local("shm");
    let objects = [lunasa.object().lazy().data(10).unwrap(), lunasa.object().user(vec![1u8; 10]).unwrap()];
    for object in &objects {
        match lunasa.fetch(&object.handle().unwrap()) {
            Err(Error::Transfer { peer: 0, reason }) => {
                assert!(reason.contains("cannot be mapped") && reason.contains("lunasa.routes: shm"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_request_by_a_route_that_does_not_wait_is_over_at_once() {
    let lunasa = local("self");
    let mut object = lunasa.object().data(5000).unwrap();
    object.data_mut().unwrap().copy_from_slice(&bytes(5000, 1));
    let request = lunasa.start_fetch(&object.handle().unwrap()).unwrap();
    assert!(request.test());
    let Waited::Done(copy) = request.wait_timeout(std::time::Duration::ZERO).unwrap() else { panic!("pending") };
    assert!(copy.deep_eq(&object).unwrap() && copy.is_unique());
}
