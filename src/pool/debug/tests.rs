#![allow(clippy::unwrap_used)]
//! What the aids find, and that pools are sound with all of them on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use crate::config::Config;
use crate::error::Error;
use crate::object::{Ldo, LeakReport};
use crate::{CallbackRegistrar, Lunasa, RegionKeys, TypeId};

fn with(settings: &[(&str, toml::Value)]) -> Lunasa {
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
    let config = config.set("lunasa.tcmalloc.min_system_alloc", "4 MiB").unwrap();
    let config = settings.iter().fold(config, |config, (key, value)| config.set(key, value.clone()).unwrap());
    Lunasa::local(config).unwrap()
}

fn poisoned(quarantine: i64) -> Lunasa {
    with(&[("lunasa.debug.poison", true.into()), ("lunasa.debug.quarantine", quarantine.into())])
}

/// Drops an object, and then writes eight bytes to offset 100 of its data, as a peer's late put does.
fn write_late(object: Ldo) {
    let at = object.data_ptr().unwrap().0.wrapping_add(100);
    drop(object);
    // SAFETY: the pool's memory, which stays mapped; that nobody should write there is the point.
    unsafe { at.cast::<u64>().write_unaligned(0x0807_0605_0403_0201) };
}

fn is_reported(report: &LeakReport, data_len: u64) {
    assert_eq!((report.late_writes.count, report.late_writes.first.len()), (1, 1), "{report}");
    let late = &report.late_writes.first[0];
    assert_eq!((late.type_name.as_deref(), late.type_id), (Some("victim"), TypeId::named("victim").0));
    assert_eq!((late.pool.as_str(), late.meta_bytes, late.data_bytes), ("eager", 16, data_len));
    assert_eq!((late.offset, late.bytes, late.found.as_str()), (64 + 16 + 100, 8, "01 02 03 04 05 06 07 08"));
    assert!(report.to_string().contains("of an object that was dropped: victim, eager"), "{report}");
}

fn victim(lunasa: &Lunasa, data: usize) -> Ldo {
    lunasa.object().type_id("victim").meta(16).data(data).unwrap()
}

#[test]
fn a_late_write_is_reported_on_reuse_with_the_object_that_had_the_memory() {
    for data in [200, 20_000, 3 << 20, 33 << 20] {
        let lunasa = poisoned(0);
        write_late(victim(&lunasa, data));
        assert_eq!(lunasa.snapshot().late_writes.count, 0, "it is found when the memory is used again");
        drop(victim(&lunasa, data));
        assert_eq!(lunasa.snapshot().late_writes.count, 1);
        assert!(matches!(lunasa.check(), Err(Error::Memory(why)) if why.contains("victim")));
        is_reported(&lunasa.finish().unwrap(), data as u64);
    }
}

#[test]
fn a_late_write_is_reported_at_the_end_though_the_memory_is_not_used_again() {
    for quarantine in [0, 10] {
        let lunasa = poisoned(quarantine);
        write_late(victim(&lunasa, 200));
        is_reported(&lunasa.finish().unwrap(), 200);
    }
}

#[test]
fn a_late_write_is_reported_when_the_quarantine_ends() {
    for manager in ["tcmalloc", "malloc"] {
        let lunasa = with(&[
            ("lunasa.debug.poison", true.into()),
            ("lunasa.debug.quarantine", 3.into()),
            ("lunasa.eager_memory_manager", manager.into()),
        ]);
        write_late(victim(&lunasa, 200));
        (0..2).for_each(|_| drop(lunasa.object().data(900).unwrap()));
        assert_eq!(lunasa.snapshot().late_writes.count, 0);
        drop(lunasa.object().data(900).unwrap());
        assert_eq!(lunasa.snapshot().late_writes.count, 1, "{manager}");
        is_reported(&lunasa.finish().unwrap(), 200);
    }
}

#[test]
fn without_a_late_write_nothing_is_reported() {
    for quarantine in [0, 5] {
        let lunasa = poisoned(quarantine);
        for round in 0..3 {
            let objects: Vec<_> =
                (0..200).map(|i| lunasa.object().data((i * 977 + round * 131) % 70_000).unwrap()).collect();
            let large = lunasa.object().data(33 << 20).unwrap();
            drop((objects, large));
            lunasa.check().unwrap();
        }
        let report = lunasa.finish().unwrap();
        assert_eq!((report.objects(), report.late_writes.count), (0, 0), "{report}");
    }
}

#[test]
fn freed_memory_holds_the_pattern_and_only_with_poison() {
    for poison in [false, true] {
        let lunasa = with(&[("lunasa.debug.poison", poison.into()), ("lunasa.debug.quarantine", 1.into())]);
        let mut object = lunasa.object().data(1000).unwrap();
        object.data_mut::<u8>().unwrap().fill(5);
        let at = object.data_ptr().unwrap().0;
        drop(object);
        // SAFETY: the pool's memory, which stays mapped.
        let found = unsafe { at.add(999).read_volatile() };
        assert_eq!(found, if poison { super::freed::POISON } else { 5 });
    }
}

#[test]
fn quarantine_keeps_memory_from_its_next_object_first_in_first_out() {
    let lunasa = with(&[("lunasa.debug.quarantine", 4.into())]);
    let at = |object: &Ldo| object.data_ptr().unwrap().0;
    let first = lunasa.object().data(500).unwrap();
    let its = at(&first);
    drop(first);
    for waiting in 1..=4 {
        assert_eq!(lunasa.snapshot().pools[0].quarantined_objects, waiting);
        let next = lunasa.object().data(500).unwrap();
        assert_ne!(at(&next), its, "the memory of a dropped object came back after {waiting}");
        lunasa.check().unwrap();
    }
    let info = lunasa.snapshot().pools[0].clone();
    assert_eq!((info.live_objects, info.allocated_bytes, info.quarantined_bytes), (0, 0, 4 * 564));
    assert_eq!(at(&lunasa.object().data(500).unwrap()), its, "it does not come back at all");
    assert_eq!(lunasa.finish().unwrap().objects(), 0);
}

#[test]
fn quarantine_gives_way_when_there_is_no_other_memory() {
    let blocks = AtomicUsize::new(0);
    let pin = move |_, len| {
        // What is smaller only measures what a registration costs.
        let refused = len >= 4 << 20 && blocks.fetch_add(1, Ordering::SeqCst) > 0;
        if !refused { Ok(RegionKeys::default()) } else { Err("one block and no more".to_owned()) }
    };
    // SAFETY: neither function touches the memory.
    let registrar = unsafe { CallbackRegistrar::new("test", pin, |_, _, _| Ok(())) };
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
    let config = config.set("lunasa.tcmalloc.min_system_alloc", "4 MiB").unwrap();
    let config = config.set("lunasa.debug.quarantine", 1000).unwrap().set("lunasa.debug.poison", true).unwrap();
    let lunasa = Lunasa::local_with(config, Arc::new(registrar)).unwrap();
    (0..20).for_each(|_| drop(lunasa.object().data(1 << 20).unwrap()));
    let waiting = lunasa.snapshot().pools[0].quarantined_objects;
    assert!((1..=3).contains(&waiting), "{waiting} of 1 MiB wait in a block of 4 MiB");
    assert!(matches!(lunasa.object().data(5 << 20), Err(Error::Registration(_))), "it is refused with its own reason");
    lunasa.check().unwrap();
    assert_eq!(LeakReport { registrations: Default::default(), ..lunasa.finish().unwrap() }, LeakReport::default());
}

#[test]
fn the_leak_report_and_the_list_say_who_allocated() {
    let lunasa = with(&[("lunasa.debug.call_sites", true.into())]);
    let line = line!() + 1;
    let kept: Vec<Ldo> = (0..3).map(|_| lunasa.object().type_id("kept").data(100).unwrap()).collect();
    let other = lunasa.object().type_id("kept").lazy().data_of::<u32>(25).unwrap();
    let user = lunasa.object().user(vec![0u8; 100]).unwrap();
    let fetched = lunasa.fetch(&user.handle().unwrap()).unwrap();
    let copy = user.deep_copy().unwrap();
    let listed = lunasa.objects("eager", 100);
    assert_eq!(listed.len(), 6);
    assert!(listed.iter().all(|object| object.allocated_at.as_ref().is_some_and(|at| at.contains("debug/tests.rs"))));
    let report = lunasa.finish().unwrap();
    let mut lines: Vec<_> =
        report.groups.iter().map(|group| (group.call_site.unwrap().line() - line, group.objects)).collect();
    lines.sort_unstable();
    assert_eq!(lines, [(0, 3), (1, 1), (2, 1), (3, 1), (4, 1)], "{report}");
    assert!(
        report
            .to_string()
            .contains(&format!("3 x kept, eager, 0 + 100 bytes, allocated at src/pool/debug/tests.rs:{line}"))
    );
    drop((kept, other, user, fetched, copy));
}

#[test]
fn call_sites_are_not_recorded_unasked() {
    let lunasa = poisoned(0);
    let kept = lunasa.object().data(100).unwrap();
    assert_eq!(lunasa.objects("eager", 1)[0].allocated_at, None);
    assert_eq!(lunasa.finish().unwrap().groups[0].call_site, None);
    drop(kept);
}

/// What a program does with its objects.
#[derive(Debug, Clone)]
enum Deed {
    Make { data: usize, lazy: bool },
    User(usize),
    Drop(usize),
    Share(usize),
    Check,
}

fn deed() -> impl Strategy<Value = Deed> {
    let size = prop_oneof![0..300usize, 0..70_000usize, Just(300 << 10)];
    prop_oneof![
        4 => (size, any::<bool>()).prop_map(|(data, lazy)| Deed::Make { data, lazy }),
        1 => (0..2000usize).prop_map(Deed::User),
        4 => any::<usize>().prop_map(Deed::Drop),
        1 => any::<usize>().prop_map(Deed::Share),
        1 => Just(Deed::Check),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn with_all_aids_on_pools_are_sound_and_objects_keep_their_bytes(
        deeds in prop::collection::vec(deed(), 1..120), quarantine in 0..20i64, managers in 0..4usize
    ) {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("t").to_string_lossy().into_owned();
        let lunasa = with(&[
            ("lunasa.debug.poison", true.into()),
            ("lunasa.debug.quarantine", quarantine.into()),
            ("lunasa.debug.call_sites", true.into()),
            ("lunasa.trace.record", trace.into()),
            ("lunasa.eager_memory_manager", ["tcmalloc", "malloc"][managers % 2].into()),
            ("lunasa.lazy_memory_manager", ["tcmalloc", "malloc"][managers / 2].into()),
        ]);
        let mut held: Vec<(Ldo, u8)> = Vec::new();
        let mut made = 0;
        for (index, deed) in deeds.into_iter().enumerate() {
            let seed = index as u8;
            match deed {
                Deed::Make { data, lazy } => {
                    let builder = lunasa.object();
                    let mut object = if lazy { builder.lazy() } else { builder }.data(data).unwrap();
                    object.data_mut::<u8>().unwrap().fill(seed);
                    made += 1;
                    held.push((object, seed));
                }
                Deed::User(len) => {
                    made += 1;
                    held.push((lunasa.object().meta(8).user(vec![seed; len]).unwrap(), seed));
                }
                Deed::Drop(which) if !held.is_empty() => drop(held.swap_remove(which % held.len())),
                Deed::Share(which) if !held.is_empty() => {
                    let (object, _) = &held[which % held.len()];
                    let copy = lunasa.fetch(&object.handle().unwrap()).unwrap();
                    made += 1;
                    prop_assert!(copy.data::<u8>().unwrap() == object.data::<u8>().unwrap());
                }
                Deed::Check => lunasa.check().unwrap(),
                Deed::Drop(_) | Deed::Share(_) => {}
            }
            let live: u64 = lunasa.snapshot().pools.iter().map(|pool| pool.live_objects).sum();
            prop_assert_eq!(live, held.len() as u64);
        }
        lunasa.check().unwrap();
        for (object, seed) in &held {
            prop_assert!(object.data::<u8>().unwrap().iter().all(|byte| byte == seed));
        }
        let report = lunasa.finish().unwrap();
        prop_assert_eq!((report.objects(), report.late_writes.count), (held.len() as u64, 0));
        drop(held);
        let trace = crate::trace::Trace::read(&directory.path().join("t.0")).unwrap();
        prop_assert_eq!((trace.objects(), trace.is_whole()), (made, true));
    }
}

#[test]
fn threads_may_use_the_aids_together() {
    let lunasa = with(&[
        ("lunasa.debug.poison", true.into()),
        ("lunasa.debug.quarantine", 50.into()),
        ("lunasa.debug.call_sites", true.into()),
    ]);
    std::thread::scope(|scope| {
        for thread in 1..=4u32 {
            let lunasa = &lunasa;
            scope.spawn(move || {
                let mut held = Vec::new();
                for step in 0..2000u32 {
                    let size = (step.wrapping_mul(2_654_435_761) ^ thread) % 9000;
                    held.push(lunasa.object().data(size as usize).unwrap());
                    if step % 3 != 0 {
                        held.swap_remove((size as usize * 31) % held.len());
                    }
                }
            });
        }
    });
    lunasa.check().unwrap();
    assert_eq!(LeakReport { registrations: Default::default(), ..lunasa.finish().unwrap() }, LeakReport::default());
}
