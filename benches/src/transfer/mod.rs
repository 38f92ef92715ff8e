//! `transfer [two-hosts]`: get and put by each route, against what else moves as many bytes between two ranks.
//!
//! Rank 0 measures. The bytes are rank 1's (on the `self` route rank 0's own): an object of Lunasa's, and beside it memory
//! of the peers' with the same offset in its page, so that all copy between places that lie alike.

mod messages;
mod shared;
mod window;

use std::cell::RefCell;

use lunasa::{Config, Lunasa, RemoteHandle};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

use crate::Outcome;
use crate::measure::{Contender, compare, timed};
use crate::report::{self, Row};
use messages::Messages;
use shared::SharedMemory;
use window::Window;

const SIZES: [usize; 9] = [8, 64, 512, 4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
const LARGEST: usize = SIZES[SIZES.len() - 1];
const PAGE: usize = 4096;

/// A route, and the peers that make sense beside it.
struct Case {
    name: &'static str,
    route: &'static str,
    owner: i32,
    same_host: bool,
    messages: bool,
}

const ONE_HOST: &[Case] = &[
    Case { name: "self", route: "self", owner: 0, same_host: true, messages: false },
    Case { name: "shm", route: "shm", owner: 1, same_host: true, messages: true },
    Case { name: "mpi", route: "mpi", owner: 1, same_host: true, messages: true },
];
const TWO_HOSTS: &[Case] = &[Case { name: "mpi, two hosts", route: "mpi", owner: 1, same_host: false, messages: true }];

/// Runs it; see the module.
pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    if world.size() != 2 {
        return Err(format!("transfer is measured between 2 ranks, not {}", world.size()).into());
    }
    let cases = match arguments {
        [] => ONE_HOST,
        [word] if word == "two-hosts" => TWO_HOSTS,
        other => return Err(format!("transfer knows the argument two-hosts, not {other:?}").into()),
    };
    let (mut rows, mut pages) = (Vec::new(), String::new());
    for case in cases {
        let config = Config::new().set("lunasa.routes", vec![case.route])?.set("lunasa.status.enabled", false)?;
        let lunasa = Lunasa::start(world, config)?;
        pages = lunasa.snapshot().blocks.first().map_or_else(String::new, |block| block.page_kind.clone());
        rows.extend(measure(world, &lunasa, case).map_err(|error| format!("{}: {error}", case.name))?);
        lunasa.finish()?;
    }
    if world.rank() == 0 {
        report::write("transfer", &[("pages_of_blocks", pages)], &rows)?;
    }
    Ok(())
}

/// How rank 0 finds the owner's memory.
#[derive(Clone, Copy)]
struct Whereabouts {
    address: u64,
    pid: u32,
    fd: i32,
}

fn pattern(at: usize) -> u8 {
    (at as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[0]
}

fn measure(world: &SimpleCommunicator, lunasa: &Lunasa, case: &Case) -> Outcome<Vec<Row>> {
    let mut object = lunasa.object().data(LARGEST)?;
    object.data_mut::<u8>()?.iter_mut().enumerate().for_each(|(at, byte)| *byte = pattern(at));
    // SAFETY: nobody looks at the object while peers write to it.
    let mut handle = unsafe { object.handle_mut() }?;
    let offset = object.data_ptr()?.0.addr() % PAGE;
    let own = SharedMemory::create(LARGEST + PAGE)?;
    // SAFETY: `own` is mapped for as much behind the offset; the other rank writes only while this one waits for it.
    let memory = unsafe { std::slice::from_raw_parts_mut(own.at().add(offset), LARGEST) };
    memory.copy_from_slice(object.data::<u8>()?);
    let mut place = [memory.as_ptr().addr() as u64, u64::from(std::process::id()), own.fd() as u64];
    let owner = world.process_at_rank(case.owner);
    owner.broadcast_into(&mut handle);
    owner.broadcast_into(&mut place);
    let place = Whereabouts { address: place[0], pid: place[1] as u32, fd: place[2] as i32 };
    let window = if case.same_host && case.messages {
        // SAFETY: `own` outlives the window, which is freed below.
        Some(unsafe { Window::create(world, memory.as_mut_ptr(), LARGEST) }?)
    } else {
        None
    };
    let rows = if world.rank() == 0 {
        let scene = Scene { world, lunasa, case, handle, place, window: window.as_ref(), local: RefCell::default() };
        let rows = scene.rows();
        Messages(world).end();
        rows?
    } else {
        messages::follow(world, memory)?;
        Vec::new()
    };
    window.map_or(Ok(()), Window::free)?;
    Ok(rows)
}

/// What rank 0 measures with.
struct Scene<'a> {
    world: &'a SimpleCommunicator,
    lunasa: &'a Lunasa,
    case: &'a Case,
    handle: RemoteHandle,
    place: Whereabouts,
    window: Option<&'a Window>,
    local: RefCell<Vec<u8>>,
}

impl Scene<'_> {
    fn rows(&self) -> Outcome<Vec<Row>> {
        let peer = match self.case.same_host {
            true => Some(SharedMemory::open(self.place.pid, self.place.fd, LARGEST + PAGE)?),
            false => None,
        };
        // SAFETY: the offset is within the mapping.
        let peer = peer.as_ref().map(|peer| unsafe { peer.at().add(self.place.address as usize % PAGE) });
        let mut rows = Vec::new();
        for bytes in SIZES {
            for operation in ["get", "put"] {
                let mut contenders = match operation {
                    "get" => self.getters(bytes, peer),
                    _ => self.putters(bytes, peer),
                };
                *self.local.borrow_mut() = (0..bytes).map(pattern).collect();
                for contender in &mut contenders {
                    if operation == "get" {
                        self.local.borrow_mut().fill(0);
                    }
                    contender.once()?;
                    if !self.local.borrow().iter().enumerate().all(|(at, &byte)| byte == pattern(at)) {
                        return Err(format!("{operation} of {bytes} bytes by {}: wrong bytes", contender.name()).into());
                    }
                }
                let times = compare(&mut contenders)?;
                let mut row = Row::new(self.case.name, "us", times[0] / 1e3).with("operation", operation);
                row = row.with("bytes", bytes);
                for (contender, time) in contenders.iter().zip(&times).skip(1) {
                    row = row.peer(contender.name(), time / 1e3);
                }
                rows.push(row);
            }
        }
        Ok(rows)
    }

    fn getters(&self, bytes: usize, peer: Option<*mut u8>) -> Vec<Contender<'_>> {
        let (local, place) = (&self.local, self.place);
        let mut all = vec![Contender::new("lunasa", move |times| {
            let mut into = local.borrow_mut();
            let mut once = || Ok(self.lunasa.get_bytes(&self.handle, 0, &mut into[..bytes])?);
            // The owner is awake then, as it is for the peers that are ordered.
            once()?;
            timed(times, once)
        })];
        if let Some(peer) = peer {
            all.push(Contender::new("memcpy", move |times| {
                let mut into = local.borrow_mut();
                let into = &mut into[..bytes];
                // SAFETY: both are that long, and apart.
                timed(times, || unsafe { copy(peer, into.as_mut_ptr(), into.len()) })
            }));
        }
        let messages = Messages(self.world);
        if let (Some(window), Some(_)) = (self.window, peer) {
            all.push(Contender::new("process_vm_readv", move |times| {
                let mut into = local.borrow_mut();
                let at = into.as_mut_ptr();
                // SAFETY: the buffer is that long.
                timed(times, || unsafe { process_vm(libc::process_vm_readv, &place, at, bytes) })
            }));
            all.push(Contender::new("MPI_Get", move |times| {
                let mut into = local.borrow_mut();
                timed(times, || window.get(&mut into[..bytes], 1, 0))
            }));
        }
        if self.case.messages {
            all.push(Contender::new("MPI request and send", move |times| {
                messages.get(times, &mut local.borrow_mut()[..bytes])
            }));
            all.push(Contender::new("MPI one way", move |times| {
                messages.one_way(times, &mut local.borrow_mut()[..bytes])
            }));
        }
        all
    }

    fn putters(&self, bytes: usize, peer: Option<*mut u8>) -> Vec<Contender<'_>> {
        let (local, place) = (&self.local, self.place);
        let mut all = vec![Contender::new("lunasa", move |times| {
            let from = local.borrow();
            let once = || Ok(self.lunasa.put_bytes(&from[..bytes], &self.handle, 0)?);
            once()?;
            timed(times, once)
        })];
        if let Some(peer) = peer {
            all.push(Contender::new("memcpy", move |times| {
                let from = local.borrow();
                let from = &from[..bytes];
                // SAFETY: both are that long, and apart.
                timed(times, || unsafe { copy(from.as_ptr(), peer, from.len()) })
            }));
        }
        let messages = Messages(self.world);
        if let (Some(window), Some(_)) = (self.window, peer) {
            all.push(Contender::new("process_vm_writev", move |times| {
                let mut from = local.borrow_mut();
                let at = from.as_mut_ptr();
                // SAFETY: the buffer is that long.
                timed(times, || unsafe { process_vm(libc::process_vm_writev, &place, at, bytes) })
            }));
            all.push(Contender::new("MPI_Put", move |times| {
                let from = local.borrow();
                timed(times, || window.put(&from[..bytes], 1, 0))
            }));
        }
        if self.case.messages {
            all.push(Contender::new("MPI send and acknowledge", move |times| {
                messages.put(times, &local.borrow()[..bytes])
            }));
            all.push(Contender::new("MPI one way", move |times| {
                messages.one_way(times, &mut local.borrow_mut()[..bytes])
            }));
        }
        all
    }
}

/// The C library's `memcpy`, as a call that the compiler does not see into.
///
/// # Safety
/// As for `memcpy`.
#[inline(never)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { libc::memcpy(to.cast(), from.cast(), len) };
    Ok(())
}

type ProcessVm = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> libc::ssize_t;

/// # Safety
/// `local` is valid for `bytes` bytes.
unsafe fn process_vm(call: ProcessVm, place: &Whereabouts, local: *mut u8, bytes: usize) -> Outcome {
    let mine = libc::iovec { iov_base: local.cast(), iov_len: bytes };
    let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(place.address as usize), iov_len: bytes };
    // SAFETY: the caller's promise; the other process' memory is checked by the system.
    let moved = unsafe { call(place.pid as libc::pid_t, &raw const mine, 1, &raw const theirs, 1, 0) };
    if moved == bytes as isize {
        return Ok(());
    }
    Err(format!("process_vm: moved {moved} of {bytes} bytes: {}", std::io::Error::last_os_error()).into())
}
