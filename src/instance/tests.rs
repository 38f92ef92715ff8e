#![allow(clippy::unwrap_used)]
//! An instance in one process: what a fork and the end leave of it.

use super::*;
use crate::UserMemory;

fn local() -> Lunasa {
    Lunasa::local(Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap()).unwrap()
}

fn closed<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Closed(_)))
}

#[test]
fn a_forked_child_finds_it_closed_and_leaves_the_parent_alone() {
    let lunasa = local();
    let mut object = lunasa.object().zeroed().data(1000).unwrap();
    let handle = object.handle().unwrap();
    // SAFETY: the child allocates, which the C library allows after a fork, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let right = closed(lunasa.object().data(1))
            && closed(lunasa.object().user(UserMemory::from(vec![1u8])))
            && closed(object.handle())
            && closed(object.data_mut::<u8>().map(drop))
            && closed(lunasa.fetch(&handle))
            && closed(lunasa.view(&handle))
            && closed(Lunasa::local(Config::new()))
            && object.data::<u8>().is_ok_and(|data| data.len() == 1000);
        drop((object.clone(), object));
        let right = right && closed(lunasa.finish());
        // SAFETY: ends the process at once, which is always allowed.
        unsafe { libc::_exit(i32::from(!right)) }
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child found something open, or crashed");
    assert_eq!((object.references(), lunasa.snapshot().pools[0].live_objects), (1, 1));
    object.data_mut::<u8>().unwrap().fill(7);
    assert!(lunasa.fetch(&handle).unwrap().deep_eq(&object).unwrap());
}

/// Set for a copy of this test program that is told a machine of four nodes, one cpu each.
const TOLD: &str = "LUNASA_TEST_TOLD_NODES";

#[test]
fn with_a_pool_per_node_an_allocation_takes_its_threads_or_the_one_it_names() {
    if std::env::var_os(TOLD).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "instance::tests::with_a_pool_per_node_an_allocation_takes_its_threads_or_the_one_it_names",
            ])
            .args(["--nocapture"])
            .envs([(TOLD, "1"), ("HWLOC_SYNTHETIC", "node:4 core:1 pu:1")])
            .output()
            .unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    let config = || {
        let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
        let config = config.set("lunasa.numa.policy", "per-node").unwrap();
        let config = config.set("lunasa.tcmalloc.reserve_ahead", 0).unwrap();
        config.set("lunasa.tcmalloc.min_system_alloc", "2 MiB").unwrap()
    };
    let lunasa = Lunasa::local(config().set("lunasa.lazy_memory_manager", "tcmalloc").unwrap()).unwrap();
    let names = |lunasa: &Lunasa| lunasa.snapshot().pools.into_iter().map(|pool| pool.name).collect::<Vec<_>>();
    let nodes = |time: &str| (0..4).map(|node| format!("{time}.{node}")).collect::<Vec<_>>();
    assert_eq!(names(&lunasa), [nodes("eager"), nodes("lazy")].concat());
    let live = |name: &str| {
        let pools = lunasa.snapshot().pools;
        pools.iter().find(|pool| pool.name == name).map(|pool| (pool.live_objects, pool.node)).unwrap()
    };
    for node in 0..4u32 {
        let objects =
            [lunasa.object().node(node).data(10).unwrap(), lunasa.object().node(node).lazy().data(9).unwrap()];
        assert_eq!((live(&format!("eager.{node}")), live(&format!("lazy.{node}"))), ((1, Some(node)), (1, Some(node))));
        assert_eq!((lunasa.objects("eager", 9).len(), lunasa.objects(&format!("lazy.{node}"), 9).len()), (1, 1));
        let copy = objects[0].deep_copy().unwrap();
        assert_eq!(live(&format!("eager.{node}")), (2, Some(node)), "a copy is where its object is");
        drop((objects, copy));
    }
    let mut cpus = [0u64; 16];
    // SAFETY: the mask has as many bytes as said, and is written by the call.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of_val(&cpus), cpus.as_mut_ptr().cast()) }, 0);
    for cpu in (0..4usize).filter(|cpu| cpus[0] & (1 << cpu) != 0) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mask = [1u64 << cpu];
                // SAFETY: the mask has as many bytes as said, and is only read.
                assert_eq!(unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) }, 0);
                let before = live(&format!("eager.{cpu}")).0;
                let object = lunasa.object().data(10).unwrap();
                assert_eq!(live(&format!("eager.{cpu}")).0, before + 1, "cpu {cpu}");
                let managed = || lunasa.snapshot().pools.into_iter().map(|pool| pool.managed_bytes).collect::<Vec<_>>();
                let mut expected = managed();
                lunasa.reserve(3 << 20).unwrap();
                expected[cpu] += 2 << 20;
                assert_eq!(managed(), expected, "cpu {cpu}");
                drop(object);
            });
        });
    }
    let error = lunasa.object().node(4).data(1).unwrap_err().to_string();
    assert!(error.ends_with("the nodes with memory that this rank may use are: 0, 1, 2, 3"), "{error}");
    lunasa.check().unwrap();
    let kept = lunasa.object().node(3).data(10).unwrap();
    let report = lunasa.finish().unwrap();
    assert_eq!((report.objects(), report.groups[0].pool.as_str()), (1, "eager.3"));
    assert!(closed(kept.handle()));

    // The C library's memory is on no node in particular: one pool does.
    let lunasa = Lunasa::local(config()).unwrap();
    assert_eq!(names(&lunasa), [nodes("eager"), vec!["lazy".to_owned()]].concat());
    let error = lunasa.object().node(1).lazy().data(1).unwrap_err().to_string();
    assert!(error.contains("malloc, does not place memory; set lunasa.lazy_memory_manager"), "{error}");
    lunasa.finish().unwrap();
}

#[test]
fn a_named_node_is_the_ranks_own_or_an_error_where_there_is_one_pool() {
    let config = |policy| {
        let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
        let config = config.set("lunasa.numa.policy", policy).unwrap();
        config.set("lunasa.tcmalloc.min_system_alloc", "2 MiB").unwrap()
    };
    let lunasa = Lunasa::local(config("local")).unwrap();
    let own = lunasa.snapshot().rank.numa_node.unwrap();
    assert_eq!(lunasa.snapshot().pools[0].node, Some(own));
    drop(lunasa.object().node(own).zeroed().data(100).unwrap());
    let error = lunasa.object().node(own + 1).data(100).unwrap_err().to_string();
    assert!(error.contains(&format!("the eager pool is on node {own} only; set lunasa.numa.policy")), "{error}");
    lunasa.finish().unwrap();
    for policy in ["none", "interleave"] {
        let lunasa = Lunasa::local(config(policy)).unwrap();
        let error = lunasa.object().node(own).user(vec![1u8]).unwrap_err().to_string();
        assert!(error.contains("the eager pool is on no particular node; set lunasa.numa.policy"), "{error}");
        let block = &lunasa.snapshot().blocks[0];
        assert_eq!((block.node_asked, block.interleaved.is_empty()), (None, policy == "none"));
        lunasa.finish().unwrap();
    }
}

#[test]
fn the_time_that_reuse_saved_is_what_registering_each_would_have_cost() {
    let pin = |_, len: usize| {
        let (start, time) = (std::time::Instant::now(), std::time::Duration::from_micros(20 + (len >> 20) as u64 * 50));
        while start.elapsed() < time {}
        Ok(crate::RegionKeys::default())
    };
    // SAFETY: neither touches the memory.
    let registrar = unsafe { crate::CallbackRegistrar::new("slow", pin, |_, _, _| Ok(())) };
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
    let lunasa = Lunasa::local_with(config, Arc::new(registrar)).unwrap();
    let before = lunasa.snapshot().registrations;
    assert!(before.done == 1 && before.spent_s >= 64.0 * 50e-6, "{before:?}");
    (0..1000).for_each(|_| drop(lunasa.object().data(1 << 20).unwrap()));
    let registrations = lunasa.finish().unwrap().registrations;
    assert_eq!(registrations.avoided, 1000);
    assert!(registrations.avoided_bytes >= 1000 << 20);
    // 70 µs for each; the machine may be busy.
    assert!((0.06..0.4).contains(&registrations.saved_s.unwrap()), "{registrations}");
}

#[test]
fn finish_reports_what_is_alive_and_leaves_its_memory() {
    let lunasa = local();
    let objects: Vec<Ldo> = (0..3).map(|_| lunasa.object().type_id(4).zeroed().data(100).unwrap()).collect();
    let report = lunasa.finish().unwrap();
    assert_eq!((report.objects(), report.bytes(), report.groups.len()), (3, 300, 1));
    for object in &objects {
        assert!(closed(object.handle()) && closed(object.segments(Section::Data)) && closed(object.register()));
        assert!(!object.is_registered() && object.data::<u8>().unwrap() == [0; 100]);
    }
}

const MIB: usize = 1 << 20;

/// A rank by itself that locks what it registers, with a budget of 8 MiB and blocks of 2 MiB, and this besides.
fn with_little_to_pin(settings: &[(&str, &str)]) -> Result<Lunasa> {
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false)?;
    let config = config.set("lunasa.registrar", "host")?.set("lunasa.host.lock", true)?;
    let config = config.set("lunasa.pin_budget", 8 << 20)?.set("lunasa.tcmalloc.min_system_alloc", "2 MiB")?;
    let config = config.set("lunasa.tcmalloc.reserve_ahead", 0)?.set("lunasa.memory.huge_pages", "off")?;
    Lunasa::local(settings.iter().try_fold(config, |config, (key, value)| config.set(key, *value))?)
}

#[test]
fn locked_memory_is_taken_from_the_budget_and_given_back() {
    let lunasa = with_little_to_pin(&[]).unwrap();
    let pins = |lunasa: &Lunasa| lunasa.snapshot().registrations.pins;
    assert_eq!((pins(&lunasa).budget, pins(&lunasa).used), (Some(8 * MIB as u64), 2 * MIB as u64));
    let lazy = lunasa.object().lazy().data(4 * MIB).unwrap();
    lazy.handle().unwrap();
    let used = pins(&lunasa).used;
    assert!((6 * MIB as u64..=6 * MIB as u64 + 8192).contains(&used) && used.is_multiple_of(4096), "{used}");
    let limits = lunasa.snapshot().registrations.limits;
    assert_eq!(
        limits.bytes.iter().find(|limit| limit.name == "lunasa.pin_budget").unwrap().left_bytes,
        8 * MIB as u64 - used
    );

    let error = lunasa.object().data(3 * MIB).unwrap_err();
    assert!(matches!(error, Error::Registration(_)));
    let error = error.to_string();
    assert!(
        error
            .contains("lunasa.pin_budget = \"8 MiB\", which is 8 MiB on this host, where this rank has 6.0 MiB; raise"),
        "{error}"
    );
    let refused = pins(&lunasa);
    assert!(refused.refusals > 0 && refused.refused >= 3 * MIB as u64 && refused.used == used, "{refused}");
    assert!(lunasa.object().data(1000).is_ok(), "what is registered goes on being used");
    let beyond_the_host = lunasa.object().data(1 << 40);
    assert!(matches!(beyond_the_host, Err(Error::Registration(_))), "it was mapped before the budget was asked");
    assert!(lunasa.object().user(vec![0u8; 3 * MIB]).is_err() && lunasa.user_region(vec![0u8; 3 * MIB]).is_err());

    drop(lazy);
    assert_eq!(pins(&lunasa).used, 2 * MIB as u64);
    drop(lunasa.object().data(3 * MIB).unwrap());
    lunasa.finish().unwrap();
}

#[test]
fn objects_come_from_the_lazy_pool_where_more_registered_memory_is_refused() {
    let lunasa = with_little_to_pin(&[("lunasa.eager.when_refused", "lazy")]).unwrap();
    let small = lunasa.object().data(1000).unwrap();
    assert_eq!(small.registration(), Ok(Registration::Eager));
    let mut large = lunasa.object().meta(8).data(7 * MIB).unwrap();
    large.data_mut::<u8>().unwrap().fill(3);
    assert_eq!((large.registration(), large.is_registered()), (Ok(Registration::Lazy), false));
    let error = large.handle().unwrap_err().to_string();
    assert!(error.contains("lunasa.pin_budget"), "{error}");
    let copy = large.deep_copy().unwrap();
    assert!(copy.deep_eq(&large).unwrap());
    let user = lunasa.object().user(vec![5u8; 7 * MIB]).unwrap();
    assert!(!user.is_registered() && user.handle().is_err());
    // A smaller one is registered when a handle is asked for, and all goes on.
    let fits = lunasa.object().data(5 * MIB).unwrap();
    assert_eq!(lunasa.object().data(1000).unwrap().registration(), Ok(Registration::Eager));
    assert_eq!(fits.registration(), Ok(Registration::Lazy), "not tried again at once");
    assert!(lunasa.fetch(&fits.handle().unwrap()).unwrap().deep_eq(&fits).unwrap());
    let eager = &lunasa.snapshot().pools[0];
    assert_eq!((eager.name.as_str(), eager.passed_on), ("eager", 4), "two objects, a user object, what was fetched");
    lunasa.check().unwrap();
    drop((small, large, copy, user, fits));
    assert_eq!(lunasa.finish().unwrap().objects(), 0);
}

#[test]
fn a_first_block_beyond_the_budget_fails_the_start_unless_lazy_will_do() {
    let large = ("lunasa.tcmalloc.min_system_alloc", "16 MiB");
    let error = with_little_to_pin(&[large]).unwrap_err().to_string();
    assert!(error.contains("16 MiB more do not fit the pin budget"), "{error}");
    let lunasa = with_little_to_pin(&[large, ("lunasa.eager.when_refused", "lazy")]).unwrap();
    let object = lunasa.object().data(1000).unwrap();
    assert_eq!(object.registration(), Ok(Registration::Lazy));
    object.handle().unwrap();
    assert!((1..=8192).contains(&lunasa.snapshot().registrations.pins.used));
}

#[test]
fn what_is_not_pinned_is_not_charged() {
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
    let config = config.set("lunasa.registrar", "host").unwrap().set("lunasa.pin_budget", "1 MiB").unwrap();
    let lunasa = Lunasa::local(config).unwrap();
    let pins = lunasa.snapshot().registrations.pins;
    assert_eq!((pins.charged, pins.used), (false, 0));
}
