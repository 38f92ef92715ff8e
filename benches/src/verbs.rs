//! `verbs`: get and put by RDMA against perftest's programs on the same device; and, as `verbs-registration`, what
//! registering costs. Both run in the virtual machine, which `benches/run` boots.
//!
//! Latency is that of one transfer between two registered places, bandwidth that of several under way. perftest's write
//! latency is half of a ping-pong, seen by polling memory. A put of Lunasa's is done when its bytes are known to be in the
//! object that the handle names: it looks at the object's head, writes, and looks again, which takes two round trips.

use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use lunasa::{Config, Ldo, Lunasa, RemoteHandle};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use rdma_sys::{ibv_access_flags, ibv_pd};

use crate::Outcome;
use crate::measure::{Contender, compare, median, timed};
use crate::report::{self, Row};

const SMALL: [usize; 4] = [8, 64, 512, 4 << 10];
const LARGE: [usize; 5] = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
/// The largest message of the device in software.
const MOST: usize = 8 << 20;
/// Bytes under way at a time, in at least 2 and at most 16 transfers.
const AT_ONCE: usize = 16 << 20;
/// Bytes moved in one round, in at least 8 and at most 512.
const ROUND: usize = 32 << 20;
const ROUNDS: usize = 3;
const REGISTERED: [usize; 8] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
const POOL: usize = 1 << 30;

/// Get and put; see the module.
pub fn run(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    if world.size() != 2 {
        return Err(format!("verbs is measured between 2 ranks, not {}", world.size()).into());
    }
    let config = Config::new().set("lunasa.routes", vec!["self", "verbs"])?.set("lunasa.status.enabled", false)?;
    let lunasa = Lunasa::start(world, config.set("lunasa.registrar", "verbs")?)?;
    let object = lunasa.object().zeroed().data(LARGE[LARGE.len() - 1])?;
    // SAFETY: no slice of the object is taken.
    let handle = unsafe { object.handle_mut() }?;
    let mut handles = [handle; 2];
    world.all_gather_into(&handle, &mut handles[..]);
    let mut rows = Vec::new();
    if world.rank() == 0 {
        for (get, verb) in [(true, "read"), (false, "write")] {
            for size in SMALL {
                rows.push(latency(&lunasa, &handles[1], get, verb, size)?);
            }
            for size in LARGE {
                rows.push(bandwidth(&lunasa, &handles[1], get, verb, size)?);
            }
        }
        report::write("verbs", &[("device", "rxe (soft-RoCE), in a virtual machine".to_owned())], &rows)?;
    }
    // The other rank leaves the processors to those that measure.
    let mut barrier = world.immediate_barrier();
    while let Err(pending) = barrier.test() {
        barrier = pending;
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(object);
    lunasa.finish()?;
    Ok(())
}

fn latency(lunasa: &Lunasa, handle: &RemoteHandle, get: bool, verb: &str, size: usize) -> Outcome<Row> {
    let mut object = lunasa.object().zeroed().data(size)?;
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut each = Vec::new();
        for _ in 0..1000 {
            let start = Instant::now();
            if get {
                lunasa.get(handle, ..size, &mut object)?;
            } else {
                lunasa.put(&object, handle)?;
            }
            each.push(start.elapsed().as_secs_f64() * 1e6);
        }
        own.push(median(each));
        theirs.push(perftest(&format!("ib_{verb}_lat"), size, &["-n", "1000"], 4)?);
    }
    let case = if get { "get, latency" } else { "put, latency" };
    Ok(Row::new(case, "us", median(own)).with("bytes", size).peer(&format!("ib_{verb}_lat"), median(theirs)))
}

fn bandwidth(lunasa: &Lunasa, handle: &RemoteHandle, get: bool, verb: &str, size: usize) -> Outcome<Row> {
    let (depth, times) = ((AT_ONCE / size).clamp(2, 16), (ROUND / size).clamp(8, 512));
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        own.push(in_turn(lunasa, handle, get, size, (depth, times))? * 1e6 / times as f64);
        let asked = size.min(MOST);
        let (times, depth) = (times.to_string(), depth.to_string());
        let mib_per_s = perftest(&format!("ib_{verb}_bw"), asked, &["-n", &times, "-t", &depth], 3)?;
        theirs.push(size as f64 / (1 << 20) as f64 / mib_per_s * 1e6);
    }
    let case = if get { "get, several at once, each" } else { "put, several at once, each" };
    Ok(Row::new(case, "us", median(own)).with("bytes", size).peer(&format!("ib_{verb}_bw"), median(theirs)))
}

/// Seconds for `times` transfers, of which `depth` are under way at a time.
fn in_turn(
    lunasa: &Lunasa,
    handle: &RemoteHandle,
    get: bool,
    size: usize,
    (depth, times): (usize, usize),
) -> Outcome<f64> {
    let objects: Outcome<Vec<Ldo>> = (0..depth).map(|_| Ok(lunasa.object().zeroed().data(size)?)).collect();
    let begin = |object: Ldo| {
        if get { lunasa.start_get(handle, ..size, object) } else { lunasa.start_put(&object, .., handle, 0) }
    };
    let mut under_way = objects?.into_iter().map(begin).collect::<Result<std::collections::VecDeque<_>, _>>()?;
    let start = Instant::now();
    for _ in 0..times {
        let oldest = under_way.pop_front().ok_or("nothing is under way")?;
        under_way.push_back(begin(oldest.wait()?)?);
    }
    let spent = start.elapsed();
    under_way.into_iter().try_for_each(|request| request.wait().map(drop))?;
    Ok(spent.as_secs_f64())
}

/// Runs one of perftest's programs with itself; the number in a column of its line of results.
fn perftest(program: &str, size: usize, more: &[&str], column: usize) -> Outcome<f64> {
    /// Ends with its value.
    struct Server(Child);
    impl Drop for Server {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let command = || {
        let mut command = Command::new(program);
        command.args(["-d", "rxe0", "-x", "1", "-F", "-s", &size.to_string()]).args(more).stdin(Stdio::null());
        command
    };
    let mut failed = String::new();
    for _ in 0..3 {
        let _server = Server(command().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        std::thread::sleep(Duration::from_millis(400));
        let output = command().arg("127.0.0.1").output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let results = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut own = results.filter(|words| words.first().is_some_and(|word| *word == size.to_string()));
        match own.next_back().and_then(|words| words.get(column)?.parse().ok()) {
            Some(value) => return Ok(value),
            None => failed = format!("{said}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
    Err(format!("{program} says no result for {size} bytes: {failed}").into())
}

/// What registering costs; see the module.
pub fn registration(_: &[String]) -> Outcome {
    let config = || Config::new().set("lunasa.status.enabled", false)?.set("lunasa.registrar", "verbs");
    let domain = domain()?;
    let mut rows = Vec::new();
    for size in REGISTERED {
        let lunasa = Lunasa::local(config()?)?;
        let memory = vec![1u8; size];
        let times = compare(&mut [
            Contender::new("lunasa", |times| {
                timed(times, || {
                    drop(black_box(lunasa.object().data(size)?));
                    Ok(())
                })
            }),
            Contender::new("each time", |times| timed(times, || register(domain, memory.as_ptr(), size).map(end))),
        ])?;
        let [own, each_time] = times[..] else { return Err("two things were measured".into()) };
        lunasa.finish()?;
        let row = Row::new("an eager object, or a registration", "ns", own).with("bytes", size);
        rows.push(row.peer("ibv_reg_mr and ibv_dereg_mr", each_time));
    }
    let (mut own, mut naive) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let lunasa = Lunasa::local(config()?.set("lunasa.tcmalloc.reserve_ahead", 0)?)?;
        let start = Instant::now();
        lunasa.reserve(POOL)?;
        own.push(start.elapsed().as_secs_f64() * 1e3);
        lunasa.finish()?;
        let start = Instant::now();
        let memory = Mapping::new(POOL)?;
        let region = register(domain, memory.0.as_ptr(), POOL)?;
        naive.push(start.elapsed().as_secs_f64() * 1e3);
        end(region);
    }
    let row = Row::new("a pool of 1 GiB, bound, touched, registered", "ms", median(own)).with("bytes", POOL);
    rows.push(row.peer("mmap and ibv_reg_mr", median(naive)));
    report::write("verbs", &[("device", "rxe (soft-RoCE), in a virtual machine".to_owned())], &rows)
}

/// Anonymous memory.
struct Mapping(NonNull<u8>, usize);

impl Mapping {
    fn new(len: usize) -> Outcome<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, wherever there is room.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Self(NonNull::new(at.cast()).ok_or("a mapping at 0")?, len))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and used no more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), self.1) };
    }
}

/// A domain of the first device, for as long as the process.
fn domain() -> Outcome<*mut ibv_pd> {
    let mut count = 0;
    // SAFETY: the calls of libibverbs as its manual has them.
    unsafe {
        let list = rdma_sys::ibv_get_device_list(&mut count);
        if list.is_null() || count == 0 {
            return Err("there is no RDMA device: benches/run boots a virtual machine that has one".into());
        }
        let context = rdma_sys::ibv_open_device(*list);
        let domain = if context.is_null() { ptr::null_mut() } else { rdma_sys::ibv_alloc_pd(context) };
        if domain.is_null() { Err(std::io::Error::last_os_error().into()) } else { Ok(domain) }
    }
}

/// A registration, which is to be ended before its memory.
struct Region(*mut rdma_sys::ibv_mr);

fn register(domain: *mut ibv_pd, at: *const u8, len: usize) -> Outcome<Region> {
    let access = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0
        | ibv_access_flags::IBV_ACCESS_REMOTE_READ.0
        | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
    // SAFETY: a live domain, and memory of that length; nobody is told the key.
    let region = unsafe { rdma_sys::ibv_reg_mr(domain, at.cast_mut().cast(), len, access as i32) };
    if region.is_null() { Err(std::io::Error::last_os_error().into()) } else { Ok(Region(region)) }
}

fn end(region: Region) {
    // SAFETY: registered, and ended once, as it is given away.
    unsafe { rdma_sys::ibv_dereg_mr(region.0) };
}
