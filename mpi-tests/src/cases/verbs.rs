//! Registration with a real device: what Lunasa says is held against the device's own list of memory regions.

use super::support::*;
use lunasa::{Config, Error, Ldo, Lunasa, Registration, Section, UserMemory, VerbsRegistrar};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

/// Rounds of allocating and dropping on one rank; with more, which share the emulated processors, fewer.
const ROUNDS: usize = 10_000;

/// A memory region as the device has it: local key, remote key, bytes.
type Known = (u32, u32, u64);

/// What the device has of this process, as `rdma resource show mr` tells root.
fn on_device() -> Result<BTreeSet<Known>, Box<dyn std::error::Error>> {
    let output = Command::new("rdma").args(["resource", "show", "mr"]).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let own = std::process::id().to_string();
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1)).copied();
        let key = |name| u32::from_str_radix(after(name)?.trim_start_matches("0x"), 16).ok();
        (after("pid")? == own).then_some((key("lkey")?, key("rkey")?, after("mrlen")?.parse().ok()?))
    });
    Ok(lines.collect())
}

/// The regions that an object lies in.
fn regions_of(object: &Ldo) -> Result<BTreeSet<Known>, Error> {
    let segments = object.segments(Section::Base)?;
    let known = segments.iter().map(|part| (part.keys().local, part.keys().remote, part.region().len() as u64));
    Ok(known.collect())
}

fn verbs() -> Result<Config, Error> {
    config(&["self", "shm", "mpi"])?.set("lunasa.registrar", "verbs")
}

/// Eager, lazy and user objects, and a [`lunasa::UserRegion`].
pub fn registration(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    assert_eq!(on_device()?, BTreeSet::new());
    let lunasa = Lunasa::start(world, verbs()?)?;
    let at_start = on_device()?;
    assert_eq!(at_start.len(), 1, "one block, one region: {at_start:?}");
    each_kind_has_real_keys(world, &lunasa, &at_start)?;
    a_user_region_is_one(world, &lunasa, &at_start)?;
    rounds_leave_nothing_behind(&lunasa, &at_start)?;
    meet(world, &lunasa);
    finish(lunasa)?;
    assert_eq!(on_device()?, BTreeSet::new(), "left after finish");
    done(world, "verbs")
}

fn each_kind_has_real_keys(world: &SimpleCommunicator, lunasa: &Lunasa, at_start: &BTreeSet<Known>) -> Outcome {
    let memory = vec![3u8; 30_000];
    let objects = [
        lunasa.object().zeroed().data(10_000)?,
        lunasa.object().zeroed().lazy().data(20_000)?,
        lunasa.object().zeroed().meta(16).user(memory)?,
    ];
    let mut expected = at_start.clone();
    for (object, own) in objects.iter().zip([0, 1, 1]) {
        let handles = everybodys(world, lunasa, object.handle()?);
        for peer in peers(lunasa) {
            assert!(lunasa.fetch(&handles[peer])?.deep_eq(object)?);
        }
        let regions = regions_of(object)?;
        assert!(regions.iter().all(|(local, remote, _)| *local != 0 && *remote != 0), "{regions:?}");
        assert_eq!(regions.difference(&expected).count(), own, "regions of its own");
        expected.extend(regions);
        meet(world, lunasa);
    }
    assert_eq!(on_device()?, expected, "what segments say is what the device has");
    assert_eq!(lunasa.snapshot().registrations.regions, expected.len() as u64);
    drop(objects);
    until_nothing_is_alive(lunasa);
    assert_eq!(&on_device()?, at_start);
    Ok(())
}

fn a_user_region_is_one(world: &SimpleCommunicator, lunasa: &Lunasa, at_start: &BTreeSet<Known>) -> Outcome {
    const PART: usize = 1000;
    let region = lunasa.user_region((0..100 * PART).map(|at| (at / PART) as u8).collect::<Vec<u8>>())?;
    let with_region = on_device()?;
    assert_eq!(with_region.difference(at_start).count(), 1);
    for part in 0..100 {
        let object = lunasa.object().user(region.slice(part * PART..(part + 1) * PART)?)?;
        assert!(regions_of(&object)?.is_subset(&with_region));
        if part % 25 == 7 {
            let handles = everybodys(world, lunasa, object.handle()?);
            for peer in peers(lunasa) {
                same(lunasa.fetch(&handles[peer])?.data()?, &[part as u8; PART]);
            }
            meet(world, lunasa);
        }
    }
    until_nothing_is_alive(lunasa);
    assert_eq!(on_device()?, with_region);
    drop(region);
    assert_eq!(&on_device()?, at_start);
    Ok(())
}

fn rounds_leave_nothing_behind(lunasa: &Lunasa, at_start: &BTreeSet<Known>) -> Outcome {
    let rounds = ROUNDS / lunasa.ranks().pow(2) as usize;
    let before = lunasa.snapshot().registrations.done;
    for round in 0..rounds {
        lunasa.object().data(round % 5000)?.handle()?;
    }
    assert_eq!(lunasa.snapshot().registrations.done, before, "eager objects are registered by their block");
    for round in 0..rounds {
        lunasa.object().lazy().data(round % 5000)?.handle()?;
    }
    assert_eq!(lunasa.snapshot().registrations.done, before + rounds as u64);
    assert_eq!(&on_device()?, at_start);
    Ok(())
}

/// Starts with each of the sets of `KEY=VALUE`s that `--` divides, and says by what memory is registered, or why not.
pub fn start(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    for settings in arguments.split(|argument| argument == "--") {
        let mut config = config(&["self", "shm", "mpi"])?;
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or("KEY=VALUE")?;
            let number = value.parse::<i64>().map(|number| config.clone().set(key, number));
            config = number.unwrap_or_else(|_| config.set(key, value))?;
        }
        let said = match Lunasa::start(world, config) {
            Ok(lunasa) => {
                let registrar = lunasa.snapshot().rank.registrar;
                finish(lunasa)?;
                format!("started with {registrar}")
            }
            Err(error) => format!("refused: {error}"),
        };
        if world.rank() == 0 {
            println!("<{}> {said}", settings.join(" "));
        }
    }
    Ok(())
}

/// Beyond RLIMIT_MEMLOCK one registration is refused, in words, and all that worked goes on.
pub fn beyond(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    let lunasa = Lunasa::start(world, verbs()?)?;
    let before = lunasa.snapshot().registrations.limits;
    let large = lunasa.object().lazy().data(64 << 20)?;
    let error = large.handle().expect_err("more than the limit was registered").to_string();
    assert!(!large.is_registered());
    assert!(lunasa.object().lazy().data(1000)?.handle().is_ok() && lunasa.object().data(1000)?.handle().is_ok());
    drop(large);
    finish(lunasa)?;
    println!("before: {before}");
    println!("refused: {error}");
    Ok(())
}

/// Where the eager pool is refused more registered memory, objects come from the lazy pool, and a handle still registers
/// what fits. `none` as argument: not even the first block is granted.
pub fn lazy(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let lunasa = Lunasa::start(world, verbs()?.set("lunasa.eager.when_refused", "lazy")?)?;
    let mut eager = Vec::new();
    let first = loop {
        let object = lunasa.object().zeroed().data(1 << 20)?;
        match object.registration()? {
            Registration::Eager => eager.push(object),
            Registration::Lazy => break object,
        }
    };
    assert_eq!(eager.is_empty(), arguments == ["none"], "{} eager objects", eager.len());
    assert!(!first.is_registered());
    let mut objects = vec![first];
    for number in 0..20u8 {
        let mut object = lunasa.object().data(100_000)?;
        object.data_mut::<u8>()?.fill(number);
        objects.push(object);
    }
    let mut refused = 0;
    let mut number = 0;
    while let Some(object) = objects.pop() {
        match object.handle() {
            // Only while there is room for what comes: everybody asks everybody.
            Ok(handle) => {
                let mut bytes = vec![0; 100];
                lunasa.get_bytes(&handle, 0, &mut bytes)?;
                assert_eq!(bytes, &object.data::<u8>()?[..100]);
                number += 1;
            }
            Err(Error::Registration(_)) => refused += 1,
            Err(error) => return Err(error.into()),
        }
    }
    assert!(number > 0 && !objects.iter().any(Ldo::is_registered));
    let info = lunasa.snapshot();
    println!(
        "rank {}: {} eager, then {} lazy, {number} handles, {refused} refused",
        lunasa.rank(),
        eager.len(),
        info.pools[0].passed_on
    );
    drop(eager);
    finish(lunasa)?;
    done(world, "verbs_lazy")
}

/// More than 4 GiB of the program's memory in one region: a few huge pages, mapped again and again.
pub fn large(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    const PIECE: usize = 64 << 20;
    const LEN: usize = 72 * PIECE;
    // The budget counts what is pinned twice as often, and this is more than the machine has.
    let lunasa = Lunasa::start(world, verbs()?.set("lunasa.pin_budget", "none")?)?;
    // SAFETY: fresh mappings, over a range that was reserved for them; the file is as long as each.
    let base = unsafe {
        let file = libc::memfd_create(c"large".as_ptr(), libc::MFD_HUGETLB);
        assert!(file >= 0 && libc::ftruncate(file, PIECE as libc::off_t) == 0, "{}", std::io::Error::last_os_error());
        let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let reserved = libc::mmap(std::ptr::null_mut(), LEN + PIECE, libc::PROT_NONE, reserve, -1, 0);
        assert_ne!(reserved, libc::MAP_FAILED);
        let base = reserved.add(reserved.align_offset(PIECE));
        for at in (0..LEN).step_by(PIECE) {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            let mapped = libc::mmap(base.add(at), PIECE, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0);
            assert_ne!(mapped, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        }
        base.cast::<u8>()
    };
    // SAFETY: in the last piece, and nobody else uses it.
    unsafe { base.add(LEN - 10).write_bytes(0x77, 10) };
    // SAFETY: mapped until the process ends; every piece is the same memory, of which one object is made.
    let object = lunasa.object().user(unsafe { UserMemory::from_raw(base, LEN, |_, _| {}) })?;
    assert!(on_device()?.iter().any(|(_, _, bytes)| *bytes == LEN as u64));
    let mut end = [0; 20];
    lunasa.get_bytes(&object.handle()?, LEN - 20, &mut end)?;
    assert_eq!(end[10..], [0x77; 10]);
    drop(object);
    finish(lunasa)?;
    done(world, "verbs_large")
}

/// Memory registered in the program's own protection domain, which stays the program's.
pub fn domain(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    // SAFETY: the calls of libibverbs as its manual has them; everything is ended once, after its last use.
    unsafe {
        let mut count = 0;
        let list = rdma_sys::ibv_get_device_list(&mut count);
        assert!(!list.is_null() && count > 0);
        let context = rdma_sys::ibv_open_device(*list);
        rdma_sys::ibv_free_device_list(list);
        let domain = rdma_sys::ibv_alloc_pd(context);
        let registrar = Arc::new(VerbsRegistrar::from_domain(domain)?);
        let lunasa = Lunasa::start_with(world, config(&["self", "shm", "mpi"])?, registrar)?;
        let object = lunasa.object().data(100)?;
        assert_eq!(on_device()?, regions_of(&object)?);
        assert_ne!(rdma_sys::ibv_dealloc_pd(domain), 0, "the block is registered in another domain");
        drop(object);
        finish(lunasa)?;
        assert_eq!(rdma_sys::ibv_dealloc_pd(domain), 0, "something of Lunasa's is left in the domain");
        assert_eq!(rdma_sys::ibv_close_device(context), 0);
    }
    done(world, "verbs_domain")
}
