//! Who is compared: Lunasa's eager objects, and general allocators, each called by its own name.

use std::ffi::{CStr, c_int, c_void};
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Arc;

use lunasa::{Config, Ldo, Lunasa};

use crate::Outcome;

/// Something that hands out memory and takes it back. A clone is the same allocator.
pub trait Allocator: Clone + Send + 'static {
    /// What it hands out.
    type Held: Send + 'static;

    /// Memory of `size` bytes for the user, of which 64 bytes were written: the user's first, or an object's headers.
    fn allocate(&self, size: usize) -> Self::Held;

    /// Takes it back.
    fn release(&self, held: Self::Held);

    /// The user's bytes.
    fn bytes(held: &Self::Held) -> *mut u8;

    /// What it says of its own memory, if it says anything.
    fn account(&self) -> Option<Account> {
        None
    }
}

/// What an allocator says of its own memory, in bytes.
pub struct Account {
    /// Mapped, to be handed out.
    pub mapped: u64,
    /// Its books.
    pub bookkeeping: u64,
}

/// What is done with an allocator of whichever type.
pub trait Job {
    /// What comes of it.
    type Made;

    /// Does it.
    fn run<A: Allocator>(&self, name: &'static str, allocator: A) -> Self::Made;
}

/// Lunasa's eager pool.
#[derive(Clone)]
pub struct Eager(Arc<Lunasa>);

impl Eager {
    /// An instance of its own, without an endpoint.
    pub fn new() -> Outcome<Self> {
        Ok(Self(Arc::new(Lunasa::local(Config::new().set("lunasa.status.enabled", false)?)?)))
    }

    /// The instance.
    #[inline]
    pub fn instance(&self) -> &Lunasa {
        &self.0
    }

    /// Ends it; nothing of it may be left.
    pub fn finish(self) -> Outcome {
        let lunasa = Arc::into_inner(self.0).ok_or("a contender is still there")?;
        match lunasa.finish()? {
            report if report.objects() > 0 => Err(format!("a benchmark leaves {report}").into()),
            _ => Ok(()),
        }
    }
}

impl Allocator for Eager {
    type Held = Ldo;

    #[inline]
    fn allocate(&self, size: usize) -> Ldo {
        match self.instance().object().data(size) {
            Ok(object) => black_box(object),
            Err(error) => give_up(&error),
        }
    }

    #[inline]
    fn release(&self, held: Ldo) {
        drop(held);
    }

    fn bytes(held: &Ldo) -> *mut u8 {
        held.data_ptr().map_or_else(|error| give_up(&error), |(at, _)| at)
    }

    fn account(&self) -> Option<Account> {
        let snapshot = self.instance().snapshot();
        let pool = snapshot.pools.first();
        pool.map(|pool| Account { mapped: pool.managed_bytes, bookkeeping: pool.bookkeeping_bytes })
    }
}

/// Memory of a general allocator.
pub struct Piece(NonNull<u8>);

// SAFETY: memory that nobody else uses.
unsafe impl Send for Piece {}

#[inline]
fn written(at: *mut c_void) -> Piece {
    let Some(at) = NonNull::new(at.cast::<u8>()) else { give_up(&"out of memory") };
    // SAFETY: at least 64 bytes were asked for.
    unsafe { at.cast::<[u8; 64]>().write_unaligned([7; 64]) };
    Piece(black_box(at))
}

#[cold]
fn give_up(why: &dyn std::fmt::Display) -> ! {
    eprintln!("lunasa-bench: {why}");
    std::process::exit(1)
}

macro_rules! general {
    ($(#[$doc:meta])* $type:ident, $malloc:path, $free:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $type;

        impl Allocator for $type {
            type Held = Piece;

            #[inline]
            fn allocate(&self, size: usize) -> Piece {
                // SAFETY: no precondition.
                written(unsafe { $malloc(size) })
            }

            #[inline]
            fn release(&self, held: Piece) {
                // SAFETY: of this allocator, and given up here.
                unsafe { $free(held.0.as_ptr().cast()) };
            }

            fn bytes(held: &Piece) -> *mut u8 {
                held.0.as_ptr()
            }
        }
    };
}

general!(
    /// mimalloc.
    Mimalloc, libmimalloc_sys::mi_malloc, libmimalloc_sys::mi_free
);
general!(
    /// jemalloc.
    Jemalloc, tikv_jemalloc_sys::malloc, tikv_jemalloc_sys::free
);
/// jemalloc, told the size again when memory is released: it need not look it up then.
#[derive(Clone, Copy)]
pub struct SizedJemalloc;

impl Allocator for SizedJemalloc {
    type Held = (Piece, usize);

    #[inline]
    fn allocate(&self, size: usize) -> (Piece, usize) {
        (Jemalloc.allocate(size), size)
    }

    #[inline]
    fn release(&self, (piece, size): (Piece, usize)) {
        // SAFETY: of jemalloc, of this size, and given up here.
        unsafe { tikv_jemalloc_sys::sdallocx(piece.0.as_ptr().cast(), size, 0) };
    }

    fn bytes(held: &(Piece, usize)) -> *mut u8 {
        Jemalloc::bytes(&held.0)
    }
}

#[cfg(feature = "snmalloc")]
general!(
    /// snmalloc.
    Snmalloc, snmalloc_sys::sn_malloc, snmalloc_sys::sn_free
);
general!(
    /// The C library's.
    Glibc, libc::malloc, libc::free
);

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Symbol = NonNull<c_void>;

/// The tcmalloc of gperftools, loaded so that it serves nobody else's `malloc`.
#[derive(Clone, Copy)]
pub struct Gperftools {
    malloc: Malloc,
    free: Free,
}

impl Gperftools {
    /// `None` when it is not installed.
    pub fn load() -> Option<Self> {
        let symbols = [c"libtcmalloc_minimal.so.4", c"libtcmalloc.so.4"].into_iter().find_map(|name| {
            const FLAGS: c_int = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_DEEPBIND;
            // SAFETY: a library that is meant to be loaded into any process; it is never unloaded.
            let library = NonNull::new(unsafe { libc::dlopen(name.as_ptr(), FLAGS) })?;
            let symbol = |name: &CStr| {
                // SAFETY: an open library and a terminated name.
                NonNull::new(unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) })
            };
            symbol(c"tc_malloc").zip(symbol(c"tc_free"))
        });
        symbols.map(|(malloc, free)| {
            // SAFETY: gperftools declares `void *tc_malloc(size_t)` and `void tc_free(void *)`.
            let (malloc, free) =
                unsafe { (std::mem::transmute::<Symbol, Malloc>(malloc), std::mem::transmute::<Symbol, Free>(free)) };
            Self { malloc, free }
        })
    }
}

impl Allocator for Gperftools {
    type Held = Piece;

    #[inline]
    fn allocate(&self, size: usize) -> Piece {
        // SAFETY: no precondition.
        written(unsafe { (self.malloc)(size) })
    }

    #[inline]
    fn release(&self, held: Piece) {
        // SAFETY: of this allocator, and given up here.
        unsafe { (self.free)(held.0.as_ptr().cast()) };
    }

    fn bytes(held: &Piece) -> *mut u8 {
        held.0.as_ptr()
    }
}

/// Lunasa's name among the contenders; it comes first.
pub const LUNASA: &str = "lunasa";

/// The names of all that are there.
pub fn names() -> Vec<&'static str> {
    let snmalloc = cfg!(feature = "snmalloc").then_some("snmalloc");
    let gperftools = Gperftools::load().map(|_| "gperftools");
    [Some(LUNASA), Some("mimalloc"), Some("jemalloc"), Some("jemalloc sized"), snmalloc, gperftools, Some("glibc")]
        .into_iter()
        .flatten()
        .collect()
}

/// Does the job with the one of this name. A new Lunasa is started for it if none is given.
pub fn with_named<J: Job>(name: &str, lunasa: Option<&Eager>, job: &J) -> Outcome<J::Made> {
    Ok(match name {
        LUNASA => job.run(LUNASA, lunasa.map_or_else(Eager::new, |lunasa| Ok(lunasa.clone()))?),
        "mimalloc" => job.run("mimalloc", Mimalloc),
        "jemalloc" => job.run("jemalloc", Jemalloc),
        "jemalloc sized" => job.run("jemalloc sized", SizedJemalloc),
        #[cfg(feature = "snmalloc")]
        "snmalloc" => job.run("snmalloc", Snmalloc),
        "gperftools" => job.run("gperftools", Gperftools::load().ok_or("libtcmalloc-minimal4 is not installed")?),
        "glibc" => job.run("glibc", Glibc),
        _ => return Err(format!("no contender '{name}'; there are: {}", names().join(", ")).into()),
    })
}

/// Does the job with each of them, Lunasa first.
pub fn with_each<J: Job>(lunasa: &Eager, job: &J) -> Outcome<Vec<J::Made>> {
    names().into_iter().map(|name| with_named(name, Some(lunasa), job)).collect()
}
