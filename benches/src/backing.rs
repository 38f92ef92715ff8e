//! `backing [MIB]`: what a block may be made of: a memfd of ordinary pages, one of reserved huge pages, anonymous memory
//! with and without transparent huge pages. Times to touch it first, to register and to deregister it (with the device if
//! there is one, else by locking it), and of one read at a random place.
//!
//! Where there are no reserved huge pages, that contender is left out. How much of the anonymous memory really got huge
//! pages is told beside it.

use std::io;
use std::time::Instant;

use lunasa::{Config, Lunasa, UserMemory};

use crate::Outcome;
use crate::measure::median;
use crate::report::{self, Row};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const ROUNDS: usize = 9;
/// Reads at random places in one round.
const READS: usize = 1 << 20;

/// What memory is made of.
#[derive(Debug, Clone, Copy)]
struct Backing {
    name: &'static str,
    /// Flags of the memfd; none for anonymous memory.
    memfd: Option<libc::c_uint>,
    advice: Option<libc::c_int>,
}

const BACKINGS: [Backing; 4] = [
    Backing { name: "memfd", memfd: Some(0), advice: None },
    Backing { name: "memfd, reserved huge pages", memfd: Some(libc::MFD_HUGETLB), advice: None },
    Backing { name: "anonymous, transparent huge pages", memfd: None, advice: Some(libc::MADV_HUGEPAGE) },
    Backing { name: "anonymous, ordinary pages", memfd: None, advice: Some(libc::MADV_NOHUGEPAGE) },
];

/// A mapping of `len` bytes at a multiple of 2 MiB, released when dropped.
struct Memory {
    base: *mut u8,
    len: usize,
    room: (*mut libc::c_void, usize),
}

impl Memory {
    fn map(backing: Backing, len: usize) -> io::Result<Self> {
        let (none, room) = (std::ptr::null_mut(), len + 2 * MIB);
        let checked =
            |at: *mut libc::c_void| if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) };
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: fresh mappings: first a place wherever there is room, then over a part of that.
        unsafe {
            let place = checked(libc::mmap(none, room, libc::PROT_NONE, anonymous | libc::MAP_NORESERVE, -1, 0))?;
            let memory = Self { base: place.add(place.align_offset(2 * MIB)).cast(), len, room: (place, room) };
            let file = backing.memfd.map_or(-1, |flags| libc::memfd_create(c"backing".as_ptr(), flags));
            if backing.memfd.is_some() && (file < 0 || libc::ftruncate(file, len as libc::off_t) != 0) {
                return Err(io::Error::last_os_error());
            }
            let flags = libc::MAP_FIXED | if backing.memfd.is_some() { libc::MAP_SHARED } else { anonymous };
            let mapped =
                checked(libc::mmap(memory.base.cast(), len, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0));
            if file >= 0 {
                libc::close(file);
            }
            mapped?;
            if let Some(advice) = backing.advice {
                // A wish: what became of it is looked at.
                libc::madvise(memory.base.cast(), len, advice);
            }
            Ok(memory)
        }
    }

    /// Writes to every page.
    fn touch(&self) {
        for at in (0..self.len).step_by(PAGE) {
            // SAFETY: in the mapping.
            unsafe { self.base.add(at).write_volatile(1) };
        }
    }

    /// Reads at random places, each of which depends on what was read before.
    fn wander(&self) {
        let mut at = 12345usize;
        for _ in 0..READS {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // SAFETY: in the mapping, which has been touched.
            at ^= usize::from(unsafe { self.base.add((at >> 20) % self.len).read_volatile() });
        }
        std::hint::black_box(at);
    }

    /// MiB of it in transparent huge pages.
    fn huge(&self) -> u64 {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{:x}-", self.base.addr())));
        let found =
            lines.find_map(|line| line.strip_prefix("AnonHugePages:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        found.unwrap_or(0) / 1024
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the whole room was mapped by us, and nobody uses it any more.
        unsafe { libc::munmap(self.room.0, self.room.1) };
    }
}

/// Milliseconds to touch, register and deregister, nanoseconds of a read, and how much is in transparent huge pages.
fn once(lunasa: &Lunasa, backing: Backing, len: usize) -> Outcome<([f64; 4], u64)> {
    let memory = Memory::map(backing, len)?;
    let ms = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    memory.touch();
    let touch = ms(start);
    let start = Instant::now();
    // SAFETY: mapped until after the region has ended, initialised, and used by nobody else.
    let region = lunasa.user_region(unsafe { UserMemory::from_raw(memory.base, len, |_, _| {}) })?;
    let register = ms(start);
    let start = Instant::now();
    memory.wander();
    let read = ms(start) * 1e6 / READS as f64;
    let start = Instant::now();
    drop(region);
    Ok(([touch, register, ms(start), read], memory.huge()))
}

/// Runs it; see the module.
pub fn run(arguments: &[String]) -> Outcome {
    let mib: usize = arguments.first().map_or(Ok(64), |mib| mib.parse())?;
    let config = Config::new().set("lunasa.status.enabled", false)?.set("lunasa.host.lock", true)?;
    let config = config.set("lunasa.tcmalloc.min_system_alloc", "2 MiB")?.set("lunasa.tcmalloc.reserve_ahead", 0)?;
    let lunasa = Lunasa::local(config.set("lunasa.memory.huge_pages", "off")?)?;
    let mut present = Vec::new();
    for backing in BACKINGS {
        // Reserved huge pages that are missing are a SIGBUS when touched, not an error; mapping them reserves them.
        match Memory::map(backing, mib * MIB) {
            Ok(_) => present.push((backing, Vec::new(), 0)),
            Err(error) => println!("backing: without {}: {error}", backing.name),
        }
    }
    for round in 0..ROUNDS {
        for turn in 0..present.len() {
            let at = (round + turn) % present.len();
            let (backing, seen, most) = &mut present[at];
            let (times, huge) = once(&lunasa, *backing, mib * MIB)?;
            seen.push(times);
            *most = huge.max(*most);
        }
    }
    let registrar = lunasa.snapshot().rank.registrar;
    let huge = present.iter().map(|(backing, _, huge)| format!("{}: {huge} MiB", backing.name));
    let machine = [("registrar", registrar), ("in_transparent_huge_pages", huge.collect::<Vec<_>>().join("; "))];
    machine.iter().for_each(|(name, value)| println!("{name}: {value}"));
    let value = |seen: &[[f64; 4]], what: usize| median(seen.iter().map(|times| times[what]).collect());
    let cases = ["first touch, ms", "register, ms", "deregister, ms", "read at random, ns"];
    let rows = cases.iter().enumerate().map(|(what, case)| {
        let row = Row::new(case, "see case", value(&present[0].1, what)).with("mib", mib);
        present[1..].iter().fold(row, |row, (backing, seen, _)| row.peer(backing.name, value(seen, what)))
    });
    report::write("backing", &machine, &rows.collect::<Vec<_>>())?;
    lunasa.finish()?;
    Ok(())
}
