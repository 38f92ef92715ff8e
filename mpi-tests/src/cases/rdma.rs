//! The `verbs` route: all sizes and kinds of memory, refusals by the device, a wire that loses packets or is cut, a peer that
//! dies, many requests at once, and which routes are chosen.

use super::support::*;
use lunasa::{
    Config, Error, HandleFault, HostRegistrar, Ldo, Lunasa, Registrar, RemoteHandle, Section, VerbsRegistrar,
};
use lunasa::{Request, Waited};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::ffi::CStr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn forced() -> Result<Config, Error> {
    config(&["self", "verbs"])?.set("lunasa.registrar", "verbs")
}

/// Bytes that tell where they lie.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16) ^ seed.wrapping_mul(77)) as u8).collect()
}

/// Every size at a border of what the route does, into and from every kind of memory.
pub fn sizes(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    const MIB: usize = 1 << 20;
    let small = [0, 1, 7, 64, 219, 220, 221, 4096, 65_535, 65_536, 65_537, 262_143, 262_144];
    // A piece that the device does not take is cut further.
    for (piece, lens) in [("1 MiB", &small[..]), ("4 KiB", &[4097, 300_000]), ("1 GiB", &[9 * MIB + 3])] {
        let lunasa = Lunasa::start(world, forced()?.set("lunasa.verbs.piece", piece)?)?;
        for &len in lens {
            let (rank, ranks) = (lunasa.rank() as usize, lunasa.ranks() as usize);
            let objects = [
                filled(lunasa.object().data(len)?, rank)?,
                filled(lunasa.object().lazy().meta(16).data(len)?, rank)?,
                filled(lunasa.object().meta(40).user(vec![0u8; len])?, rank)?,
                filled(lunasa.object().meta(48).user_with_meta(vec![0u8; 48 + len])?, rank)?,
            ];
            // The large ones of two kinds: the emulated device is slow.
            for object in objects.iter().step_by(if len > MIB { 3 } else { 1 }) {
                // SAFETY: no slice of the object is alive while peers put.
                let handles = everybodys(world, &lunasa, unsafe { object.handle_mut() }?);
                let peer = (rank + 1) % ranks;
                got_from(&lunasa, &handles[peer], len, peer)?;
                meet(world, &lunasa);
                put_to(&lunasa, &handles[peer], len, rank)?;
                meet(world, &lunasa);
                same(object.data()?, &pattern(len, 1000 + (rank + ranks - 1) % ranks));
            }
            meet(world, &lunasa);
        }
        let (got, put) = traffic(&lunasa, "verbs");
        assert!(got as usize > lens.iter().sum() && put as usize > lens.iter().sum(), "{got} {put}");
        finish(lunasa)?;
    }
    done(world, "verbs_sizes")
}

fn filled(mut object: Ldo, seed: usize) -> Result<Ldo, Error> {
    let len = object.data_len();
    object.data_mut()?.copy_from_slice(&pattern(len, seed));
    Ok(object)
}

fn got_from(lunasa: &Lunasa, handle: &RemoteHandle, len: usize, peer: usize) -> Result<(), Error> {
    let expected = pattern(len, peer);
    same(lunasa.fetch(handle)?.data()?, &expected);
    // The program's own memory, an eager object, and a lazy one that nothing has registered.
    let mut bytes = vec![0x55; len + 2];
    lunasa.get_bytes(handle, 0, &mut bytes[1..=len])?;
    same(&bytes[1..=len], &expected);
    assert_eq!((bytes[0], bytes[len + 1]), (0x55, 0x55), "bytes beside the range were written");
    for lazy in [false, true] {
        let builder = lunasa.object();
        let into = if lazy { builder.lazy().data(len)? } else { builder.data(len)? };
        same(lunasa.start_get(handle, .., into)?.wait()?.data()?, &expected);
    }
    if len > 10 {
        let mut part = vec![0; len - 9];
        lunasa.get_bytes(handle, 5, &mut part)?;
        same(&part, &expected[5..len - 4]);
    }
    Ok(())
}

fn put_to(lunasa: &Lunasa, handle: &RemoteHandle, len: usize, rank: usize) -> Result<(), Error> {
    let new = pattern(len, 1000 + rank);
    let object = filled(lunasa.object().data(len)?, 1000 + rank)?;
    let half = len / 2;
    assert!(lunasa.start_put(&object, ..half, handle, 0)?.wait()?.ptr_eq(&object));
    lunasa.put_bytes(&new[half..], handle, half)?;
    let mut back = vec![0; len];
    lunasa.get_bytes(handle, 0, &mut back)?;
    same(&back, &new);
    Ok(())
}

/// The fault of a handle whose key the device itself refused.
#[track_caller]
fn refused_by_the_device<T: std::fmt::Debug>(result: Result<T, Error>, peer: usize) {
    match refusal(result) {
        HandleFault::Stale(why) => {
            assert!(why.contains(&format!("rank {peer}'s device refused key or range")), "{why}")
        }
        other => panic!("{other}"),
    }
}

/// Keys of memory that is not registered any more, and ranges beyond it, are refused by the device itself; the connection
/// works on, and requests that were under way beside the refused one are none the worse.
pub fn refusals(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    /// Larger than what threads keep in their caches: its block goes back when it does.
    const LARGE: usize = 33 << 20;
    let lunasa = Lunasa::start(
        world,
        forced()?.set("lunasa.tcmalloc.release_after", "20 ms")?.set("lunasa.tcmalloc.reserve_ahead", "1 MiB")?,
    )?;
    let rank = lunasa.rank() as usize;
    let good = filled(lunasa.object().data(200_000)?, rank)?;
    let goods = everybodys(world, &lunasa, good.handle()?);
    let works = |peer: usize| -> Result<(), Error> {
        same(lunasa.fetch(&goods[peer])?.data()?, &pattern(200_000, peer));
        Ok(())
    };
    for round in 0..3 {
        let regions = lunasa.snapshot().registrations.regions;
        let gone = match round {
            0 => lunasa.object().data(LARGE)?,
            1 => lunasa.object().lazy().data(1000)?,
            _ => lunasa.object().user(vec![0u8; 50_000])?,
        };
        // SAFETY: no slice of the object is taken.
        let handles = everybodys(world, &lunasa, unsafe { gone.handle_mut() }?);
        peers(&lunasa).try_for_each(|peer| lunasa.get_bytes(&handles[peer], 900, &mut [0; 100]))?;
        meet(world, &lunasa);
        drop(gone);
        let start = Instant::now();
        while lunasa.snapshot().registrations.regions > regions {
            assert!(start.elapsed() < Duration::from_secs(10), "memory that is free is not given back");
            std::thread::sleep(Duration::from_millis(5));
        }
        meet(world, &lunasa);
        for peer in peers(&lunasa).filter(|&peer| peer != rank) {
            let handle = &handles[peer];
            // What lies in the piece is behind a head that may still be there; the rest is not.
            if round < 2 {
                refused_by_the_device(lunasa.get_bytes(handle, 900, &mut [0; 100]), peer);
                refused_by_the_device(lunasa.put_bytes(&[1; 100], handle, 0), peer);
                let into = lunasa.object().data(1000)?;
                refused_by_the_device(lunasa.start_get(handle, ..1000, into).and_then(Request::wait), peer);
            }
            assert!(is_stale(lunasa.get_bytes(handle, 0, &mut [0; 8])));
            works(peer)?;
            others_are_none_the_worse(&lunasa, handle, &goods[peer], peer)?;
        }
        meet(world, &lunasa);
    }
    finish_after(lunasa, good)?;
    done(world, "verbs_refusals")
}

fn others_are_none_the_worse(
    lunasa: &Lunasa,
    bad: &RemoteHandle,
    good: &RemoteHandle,
    peer: usize,
) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..10 {
                let requests = [(); 5].map(|()| lunasa.start_fetch(good));
                for request in requests {
                    same(request?.wait()?.data()?, &pattern(200_000, peer));
                }
            }
            Ok(())
        });
        for _ in 0..5 {
            assert!(is_stale(lunasa.get_bytes(bad, 0, &mut [0; 8])));
        }
        reader.join().expect("a panic has ended the job")
    })
}

fn finish_after(lunasa: Lunasa, object: Ldo) -> Result<(), Error> {
    drop(object);
    until_nothing_is_alive(&lunasa);
    finish(lunasa)
}

/// More requests at once than the device, the connections or the route's own memory take.
pub fn many(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    const THREADS: usize = 4;
    const AT_ONCE: usize = 700;
    let lunasa = Lunasa::start(world, forced()?)?;
    let rank = lunasa.rank() as usize;
    let object = filled(lunasa.object().data(10_000)?, rank)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    std::thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| {
            scope.spawn(|| -> Result<(), Error> {
                let mut requests = Vec::new();
                for number in 0..AT_ONCE {
                    let peer = (rank + 1 + number) % handles.len();
                    let into = lunasa.object().data(100)?;
                    requests.push((peer, number, lunasa.start_get(&handles[peer], number..number + 100, into)?));
                }
                for (peer, from, request) in requests.into_iter().rev() {
                    same(request.wait()?.data()?, &pattern(10_000, peer)[from..from + 100]);
                }
                Ok(())
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("a panic has ended the job"))
    })?;
    meet(world, &lunasa);
    finish_after(lunasa, object)?;
    done(world, "verbs_many")
}

/// A registrar for the device of this name, whose domain stays as long as the process.
fn on_device(name: &str) -> Result<Arc<dyn Registrar>, Error> {
    // SAFETY: the calls of libibverbs as its manual has them; context and domain are never closed.
    unsafe {
        let mut count = 0;
        let list = rdma_sys::ibv_get_device_list(&mut count);
        assert!(!list.is_null(), "no devices");
        let mut devices = (0..count as usize).map(|at| *list.add(at));
        let named =
            |device: &*mut _| CStr::from_ptr(rdma_sys::ibv_get_device_name(*device)).to_bytes() == name.as_bytes();
        let context = rdma_sys::ibv_open_device(devices.find(|device| named(device)).expect("it is there"));
        rdma_sys::ibv_free_device_list(list);
        Ok(Arc::new(VerbsRegistrar::from_domain(rdma_sys::ibv_alloc_pd(context))?))
    }
}

/// Which devices: the odd ranks are at the other end of the wire.
fn across(world: &SimpleCommunicator, config: Config) -> Result<Lunasa, Error> {
    Lunasa::start_with(world, config, on_device(["rxe0", "rxe1"][world.rank() as usize % 2])?)
}

/// What both ends of the wire do with packets, in the words of `tc`.
fn wire(what: &str) -> Outcome {
    for end in ["wire0", "wire1"] {
        let words = format!("qdisc replace dev {end} root {what}");
        let output = Command::new("tc").args(words.split(' ')).output()?;
        assert!(output.status.success(), "tc {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Packets that are lost are sent again: it is slow, and right.
pub fn loss(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    // The device counts retries for each work request: one of many packets would lose seven in the end.
    let lunasa = across(world, forced()?.set("lunasa.verbs.piece", "16 KiB")?.set("lunasa.verbs.retries", 6)?)?;
    let rank = lunasa.rank() as usize;
    if rank == 0 {
        wire("netem loss 5%")?;
    }
    meet(world, &lunasa);
    for (number, len) in [100, 5000, 300_000].into_iter().enumerate() {
        let object = filled(lunasa.object().data(len)?, rank)?;
        // SAFETY: no slice of the object is alive while peers put.
        let handles = everybodys(world, &lunasa, unsafe { object.handle_mut() }?);
        let peer = (rank + 1) % handles.len();
        for _ in 0..8 >> number {
            same(lunasa.fetch(&handles[peer])?.data()?, &pattern(len, peer));
        }
        meet(world, &lunasa);
        lunasa.put_bytes(&pattern(len, 7 + rank), &handles[peer], 0)?;
        meet(world, &lunasa);
        same(object.data()?, &pattern(len, 7 + (rank + handles.len() - 1) % handles.len()));
    }
    meet(world, &lunasa);
    if rank == 0 {
        wire("pfifo")?;
    }
    finish(lunasa)?;
    done(world, "verbs_loss")
}

/// On a wire that is cut requests fail in time and a wait with a limit keeps it; others go on; and when it is mended the
/// next request succeeds.
pub fn cut(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    assert_eq!(world.size(), 3, "rank 1 at the other end of the wire, 0 and 2 at this one");
    let lunasa = across(world, forced()?.set("lunasa.verbs.timeout", "30 ms")?)?;
    let rank = lunasa.rank() as usize;
    let object = filled(lunasa.object().data(50_000)?, rank)?;
    // SAFETY: no slice of the object is taken.
    let handles = everybodys(world, &lunasa, unsafe { object.handle_mut() }?);
    let works = |peer: usize| -> Result<(), Error> {
        same(lunasa.fetch(&handles[peer])?.data()?, &pattern(50_000, peer));
        Ok(())
    };
    (0..3).try_for_each(works)?;
    meet(world, &lunasa);
    for round in 0..2 {
        if rank == 0 {
            wire("netem loss 100%")?;
            let limited = lunasa.start_fetch(&handles[1])?;
            let start = Instant::now();
            let waited = limited.wait_timeout(Duration::from_millis(20))?;
            assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
            let Waited::Pending(limited) = waited else { panic!("done over a wire that is cut") };
            let put = lunasa.start_put(&object, .., &handles[1], 0)?;
            works(2)?;
            for request in [limited, put] {
                match request.wait() {
                    Err(Error::Transfer { peer: 1, reason }) => {
                        assert!(reason.contains("retry") && reason.contains("lunasa.verbs.timeout"), "{reason}");
                        println!("cut, round {round}: {reason}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            let spent = start.elapsed();
            assert!(spent < Duration::from_secs(10), "{spent:?}");
            println!("cut, round {round}: failed after {spent:.1?}");
            wire("pfifo")?;
            works(1)?;
        }
        meet(world, &lunasa);
        // What was under way to the other end was not done by halves: nobody has put anything but what was there.
        (0..3).try_for_each(works)?;
        meet(world, &lunasa);
    }
    finish_after(lunasa, object)?;
    done(world, "verbs_cut")
}

/// A rank that is killed: the others get errors that name it, in time, and go on among themselves.
pub fn killed(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    assert_eq!(world.size(), 3);
    let config = forced()?.set("lunasa.verbs.timeout", "30 ms")?.set("lunasa.verbs.connect_timeout", "500 ms")?;
    let lunasa = Lunasa::start(world, config)?;
    let rank = lunasa.rank() as usize;
    let object = filled(lunasa.object().data(50_000)?, rank)?;
    let handles = everybodys(world, &lunasa, object.handle()?);
    (0..3).try_for_each(|peer| lunasa.fetch(&handles[peer]).map(drop))?;
    meet(world, &lunasa);
    if rank == 2 {
        // SAFETY: ends this process, at once.
        unsafe { libc::raise(libc::SIGKILL) };
    }
    std::thread::sleep(Duration::from_millis(300));
    for (attempt, words) in ["retry", "lunasa.verbs.connect_timeout"].into_iter().enumerate() {
        let start = Instant::now();
        match lunasa.fetch(&handles[2]) {
            Err(Error::Transfer { peer: 2, reason }) => assert!(reason.contains(words), "{attempt}: {reason}"),
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        println!("rank {rank}: attempt {attempt} failed after {:.1?}", start.elapsed());
        same(lunasa.fetch(&handles[1 - rank])?.data()?, &pattern(50_000, 1 - rank));
    }
    println!("ok verbs_killed rank={rank}");
    // With one rank dead MPI does not come to an end: wait for the other survivor, as it may still be reading here.
    std::thread::sleep(Duration::from_secs(2));
    std::process::exit(0)
}

/// Each peer is reached by the best route that both sides have: one rank has no device.
pub fn choice(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    for (allowed, between_devices) in
        [(&["self", "shm", "verbs", "mpi"][..], "shm"), (&["self", "verbs", "mpi"], "verbs")]
    {
        let config = config(allowed)?;
        let lunasa = if world.rank() == 1 {
            Lunasa::start_with(world, config, Arc::new(HostRegistrar::new(false)))?
        } else {
            Lunasa::start(world, config)?
        };
        let rank = lunasa.rank() as usize;
        let object = filled(lunasa.object().data(50_000)?, rank)?;
        let handles = everybodys(world, &lunasa, object.handle()?);
        for peer in lunasa.peers() {
            let other = peer.rank as usize;
            let expected = match (other == rank, rank == 1 || other == 1) {
                (true, _) => "self",
                (_, true) if between_devices == "verbs" => "mpi",
                _ => between_devices,
            };
            assert_eq!(peer.route, expected, "from {rank} to {other}");
            let before = traffic(&lunasa, expected).0;
            let mut bytes = vec![0; 50_000];
            lunasa.get_bytes(&handles[other].section(Section::Data), 0, &mut bytes)?;
            same(&bytes, &pattern(50_000, other));
            assert_eq!(traffic(&lunasa, expected).0, before + 50_000, "by {expected}");
        }
        meet(world, &lunasa);
        finish_after(lunasa, object)?;
    }
    done(world, "verbs_choice")
}
