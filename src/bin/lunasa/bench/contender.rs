//! What a trace is played with: pools of Lunasa's, and malloc.

use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Duration;

use lunasa::trace::{Player, Script, Trace};
use lunasa::{Config, Error, Ldo, Lunasa, Result};

/// A round goes on for at least so long.
const ROUND: Duration = Duration::from_millis(5);

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// Each object in its own pool, with the managers that the configuration names.
    Configured,
    /// All objects in the pool of this manager that is lazy or not.
    Pool { manager: &'static str, lazy: bool },
    /// The C library's malloc and free.
    Malloc,
}

impl Contender {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Configured,
        Self::Pool { manager: "tcmalloc", lazy: false },
        Self::Pool { manager: "tcmalloc", lazy: true },
        Self::Pool { manager: "malloc", lazy: false },
        Self::Pool { manager: "malloc", lazy: true },
        Self::Malloc,
    ];

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Configured => "as configured".to_owned(),
            Self::Pool { manager, lazy } => format!("{manager}, {}", if lazy { "lazy" } else { "eager" }),
            Self::Malloc => "malloc and free".to_owned(),
        }
    }

    fn instance(self, config: &Config) -> Result<Objects> {
        let mut config = config.clone().set("lunasa.status.enabled", false)?.set("lunasa.trace.record", "")?;
        let mut place = None;
        if let Self::Pool { manager, lazy } = self {
            // The other pool is one that maps nothing by itself.
            let (eager_manager, lazy_manager) = if lazy { ("malloc", manager) } else { (manager, "malloc") };
            config = config.set("lunasa.eager_memory_manager", eager_manager)?;
            config = config.set("lunasa.lazy_memory_manager", lazy_manager)?;
            place = Some(lazy);
        }
        Ok(Objects { lunasa: Lunasa::local(config)?, place })
    }

    /// Plays it for a round; nanoseconds for playing it once.
    pub fn time(self, script: &Script, config: &Config) -> Result<f64> {
        if self == Self::Malloc {
            return round(script, &Malloc);
        }
        let objects = self.instance(config)?;
        let took = round(script, &objects)?;
        objects.finish()?;
        Ok(took)
    }

    /// Bytes mapped where most of the trace is alive.
    pub fn mapped(self, trace: &Trace, config: &Config) -> Result<u64> {
        if self == Self::Malloc {
            let before = Heap::now();
            let held = trace.play_to_peak(&Malloc)?;
            let mapped = before.grown_but_for::<Piece>(trace.objects());
            held.into_iter().for_each(|piece| Malloc.release(piece));
            return Ok(mapped);
        }
        let objects = self.instance(config)?;
        let before = Heap::now();
        let held = trace.play_to_peak(&objects)?;
        let grown = before.grown_but_for::<Ldo>(trace.objects());
        let pools = objects.lunasa.snapshot().pools;
        let managed = pools.iter().filter(|pool| pool.manager == "tcmalloc").map(|pool| pool.managed_bytes).sum();
        let of_malloc = pools.iter().any(|pool| pool.manager == "malloc" && pool.live_objects > 0);
        drop(held);
        objects.finish()?;
        Ok(if of_malloc { grown + managed } else { managed })
    }
}

fn round<P: Player>(script: &Script, player: &P) -> Result<f64> {
    let (mut took, mut times) = (Duration::ZERO, 0);
    while took < ROUND {
        took += script.play(player)?.max(Duration::from_nanos(1));
        times += 1;
    }
    Ok(took.as_secs_f64() * 1e9 / f64::from(times))
}

/// Objects of one instance.
struct Objects {
    lunasa: Lunasa,
    /// The pool for all of them, lazy or not; `None`: as they were recorded.
    place: Option<bool>,
}

impl Objects {
    fn finish(self) -> Result<()> {
        match self.lunasa.finish()? {
            report if report.objects() > 0 => Err(Error::Trace(format!("the replay left {report}"))),
            _ => Ok(()),
        }
    }
}

impl Player for Objects {
    type Held = Ldo;

    #[inline]
    fn allocate(&self, bytes: usize, lazy: bool) -> Result<Ldo> {
        let object = self.lunasa.object();
        if self.place.unwrap_or(lazy) { object.lazy() } else { object }.data(bytes)
    }

    #[inline]
    fn release(&self, held: Ldo) {
        drop(held);
    }
}

/// The C library's malloc and free.
struct Malloc;

/// Memory of malloc's.
struct Piece(NonNull<u8>);

// SAFETY: memory that nobody else uses.
unsafe impl Send for Piece {}

impl Player for Malloc {
    type Held = Piece;

    #[inline]
    fn allocate(&self, bytes: usize, _: bool) -> Result<Piece> {
        // SAFETY: no precondition.
        let piece = NonNull::new(unsafe { libc::malloc(bytes.max(64)) }.cast::<u8>());
        let piece = piece.ok_or_else(|| Error::Memory(format!("malloc refused {bytes} bytes")))?;
        // SAFETY: at least 64 bytes were asked for.
        unsafe { piece.cast::<[u8; 64]>().write_unaligned([7; 64]) };
        Ok(Piece(black_box(piece)))
    }

    #[inline]
    fn release(&self, held: Piece) {
        // SAFETY: of malloc, and given up here.
        unsafe { libc::free(held.0.as_ptr().cast()) };
    }
}

/// The heap of malloc, in bytes.
struct Heap {
    mapped: usize,
    used: usize,
}

impl Heap {
    fn now() -> Self {
        // SAFETY: neither has a precondition.
        let info = unsafe {
            libc::malloc_trim(0);
            libc::mallinfo2()
        };
        Self { mapped: info.arena + info.hblkhd, used: info.uordblks + info.hblkhd }
    }

    /// Bytes mapped now and not in use before, without those of the list of what is held.
    fn grown_but_for<T>(&self, held: usize) -> u64 {
        let now = Self::now();
        now.mapped.saturating_sub(self.used).saturating_sub(held * size_of::<Option<T>>()) as u64
    }
}
