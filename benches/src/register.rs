//! `register [--quick]`: an eager object against memory that is mapped and registered for it alone.
//!
//! "each time" maps, touches, registers with the `host` registrar, deregisters and unmaps; `malloc manager` is Lunasa with
//! the C library's memory, registered object by object. Pages are locked, as a device locks them, where that is allowed.

use std::hint::black_box;
use std::ptr::NonNull;

use lunasa::{Config, HostRegistrar, Lunasa, Registrar};

use crate::Outcome;
use crate::measure::{Contender, compare, timed};
use crate::report::{self, Row};

const SIZES: [usize; 8] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
const QUICK_SIZES: [usize; 2] = [4 << 10, 1 << 20];
const PAGE: usize = 4096;

/// Runs it; see the module.
pub fn run(arguments: &[String]) -> Outcome {
    let sizes = match arguments {
        [] => &SIZES[..],
        [word] if word == "--quick" => &QUICK_SIZES[..],
        other => return Err(format!("register knows the argument --quick, not {other:?}").into()),
    };
    let (lock, locked) = match start("tcmalloc", true).and_then(|lunasa| Ok(lunasa.finish()?)) {
        Ok(_) => (true, "yes".to_owned()),
        Err(error) => {
            println!("register: pages are not locked here: {error}");
            (false, format!("no: {error}"))
        }
    };
    let (mut rows, mut by_object) = (Vec::new(), Vec::new());
    for &size in sizes {
        let [each_time, of_malloc] = measure(size, lock)?;
        rows.push(each_time);
        by_object.push(of_malloc);
    }
    rows.extend(by_object);
    report::write("register", &[("locked", locked)], &rows)
}

fn start(manager: &str, lock: bool) -> Outcome<Lunasa> {
    let config = Config::new().set("lunasa.status.enabled", false)?.set("lunasa.host.lock", lock)?;
    Ok(Lunasa::local(config.set("lunasa.eager_memory_manager", manager)?)?)
}

fn measure(size: usize, lock: bool) -> Outcome<[Row; 2]> {
    let (eager, by_object) = (start("tcmalloc", lock)?, start("malloc", lock)?);
    let registrar = HostRegistrar::new(lock);
    let object = |lunasa: &Lunasa| {
        drop(black_box(lunasa.object().data(size)?));
        Ok(())
    };
    let times = compare(&mut [
        Contender::new("lunasa", |times| timed(times, || object(&eager))),
        Contender::new("each time", |times| timed(times, || map_touch_register(size, &registrar))),
        Contender::new("malloc manager", |times| timed(times, || object(&by_object))),
    ])?;
    let [own, each_time, by_object_time] = times[..] else { return Err("three things were measured".into()) };
    eager.finish()?;
    by_object.finish()?;
    let row = |case: &str, name: &str, peer: f64| Row::new(case, "ns", own).with("bytes", size).peer(name, peer);
    Ok([
        row("map, touch and register each time", "each time", each_time),
        row("register each object", "malloc manager", by_object_time),
    ])
}

/// What a program does that registers for every message.
fn map_touch_register(size: usize, registrar: &HostRegistrar) -> Outcome {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    let base = NonNull::new(at.cast::<u8>()).ok_or("a mapping at 0")?;
    for offset in (0..size).step_by(PAGE) {
        // SAFETY: in the mapping.
        unsafe { base.add(offset).write_volatile(1) };
    }
    // SAFETY: mapped, and unmapped only after it was deregistered.
    let keys = unsafe { registrar.register(base, size) }?;
    black_box(keys);
    // SAFETY: registered above.
    unsafe { registrar.deregister(base, size, keys) }?;
    // SAFETY: mapped above with this length; nobody uses it any more.
    unsafe { libc::munmap(at, size) };
    Ok(())
}
