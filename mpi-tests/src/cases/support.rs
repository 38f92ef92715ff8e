//! What several cases need: configurations, samples of random contents, and meeting points that serve meanwhile.

use lunasa::{Config, Error, HandleFault, Ldo, Lunasa, RemoteHandle, Section};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// What a case gives back.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Every choice of routes that reaches all peers of one host, without a device.
pub const ROUTES: [&[&str]; 3] = [&["self", "shm", "mpi"], &["self", "mpi"], &["mpi"]];

/// Bytes of the largest message in the tests: small, so that objects of moderate size travel in many pieces.
const PIECE: &str = "64 KiB";

/// The choices of routes that a case goes through: that of its argument `routes=FIRST,SECOND..` if it has one.
pub fn choices(arguments: &[String]) -> Vec<Vec<&str>> {
    match arguments.iter().find_map(|argument| argument.strip_prefix("routes=")) {
        Some(routes) => vec![routes.split(',').collect()],
        None => ROUTES.map(<[&str]>::to_vec).to_vec(),
    }
}

/// The configuration of the tests: no endpoint, small first blocks so that pools have to grow, many pieces.
pub fn config(routes: &[&str]) -> Result<Config, Error> {
    Config::new()
        .ignore_environment()
        .set("lunasa.status.enabled", false)?
        .set("lunasa.tcmalloc.reserve_ahead", 0)?
        .set("lunasa.tcmalloc.min_system_alloc", "4 MiB")?
        .set("lunasa.mpi.piece", PIECE)?
        .set("lunasa.routes", routes.to_vec())
}

/// Starts with the configuration of the tests.
pub fn start(world: &SimpleCommunicator, routes: &[&str]) -> Result<Lunasa, Error> {
    Lunasa::start(world, config(routes)?)
}

/// Waits until nothing is alive here: an object that was dropped goes when the last message that serves it is through,
/// which the peer may know before its owner does.
pub fn until_nothing_is_alive(lunasa: &Lunasa) {
    let start = std::time::Instant::now();
    while lunasa.snapshot().pools.iter().any(|pool| pool.live_objects > 0) {
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "something stays alive: {:?}", lunasa.snapshot());
        lunasa.progress();
    }
}

/// Ends an instance that nothing is alive in.
pub fn finish(lunasa: Lunasa) -> Result<(), Error> {
    let report = lunasa.finish()?;
    assert_eq!(report.objects(), 0, "left alive: {report}");
    Ok(())
}

/// The case's seed: its argument `seed=N`, or a random one; the same on every rank, and printed so that it can be given.
pub fn seed(world: &SimpleCommunicator, arguments: &[String]) -> Result<u64, Box<dyn std::error::Error>> {
    let mut seed = match arguments.iter().find_map(|argument| argument.strip_prefix("seed=")) {
        Some(given) => given.parse()?,
        None => rand::random(),
    };
    world.process_at_rank(0).broadcast_into(&mut seed);
    if world.rank() == 0 {
        println!("seed={seed}");
    }
    Ok(seed)
}

/// The line that says rank 0 came to the end of the case.
pub fn done(world: &SimpleCommunicator, case: &str) -> Outcome {
    if world.rank() == 0 {
        println!("ok {case} ranks={}", world.size());
    }
    Ok(())
}

/// Waits for all ranks, serving them meanwhile however progress is made.
pub fn meet(world: &SimpleCommunicator, lunasa: &Lunasa) {
    let mut barrier = world.immediate_barrier();
    while let Err(pending) = barrier.test() {
        barrier = pending;
        if !lunasa.progress() {
            std::thread::yield_now();
        }
    }
}

/// Every rank's handle, by rank.
pub fn everybodys(world: &SimpleCommunicator, lunasa: &Lunasa, mine: RemoteHandle) -> Vec<RemoteHandle> {
    let mut all = vec![mine; world.size() as usize];
    meet(world, lunasa);
    world.all_gather_into(&mine, &mut all[..]);
    all
}

/// The other ranks, from the next one round, so that not all ask the same rank at once; this one last.
pub fn peers(lunasa: &Lunasa) -> impl Iterator<Item = usize> {
    let (rank, ranks) = (lunasa.rank() as usize, lunasa.ranks() as usize);
    (1..=ranks).map(move |step| (rank + step) % ranks)
}

/// The fault of a handle that was refused.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> HandleFault {
    match result {
        Err(Error::Handle(fault)) => fault,
        other => panic!("the handle should have been refused, but: {other:?}"),
    }
}

/// Whether a call was refused because of a stale handle.
pub fn is_stale<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(refusal(result), HandleFault::Stale(_))
}

/// Random numbers that all ranks can make alike.
pub fn numbers(seed: u64, rank: usize, number: usize) -> SmallRng {
    let mix = |seed: u64, part: usize| (seed ^ part as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    SmallRng::seed_from_u64(mix(mix(seed, rank), number))
}

/// A length from 0 to `most`, of any order of magnitude; now and then at the border between inline and piecewise.
pub fn any_len(numbers: &mut impl Rng, most: usize) -> usize {
    match numbers.random_range(0..8) {
        0 => numbers.random_range(8190..8195).min(most),
        1 => 0,
        _ => {
            let smaller = numbers.random_range(0..most.ilog2());
            numbers.random_range(0..=most >> smaller)
        }
    }
}

/// Random bytes.
pub fn any_bytes(numbers: &mut impl Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    numbers.fill_bytes(&mut bytes);
    bytes
}

/// The contents of object `number` of a rank: random, and known to all ranks.
#[derive(Debug, PartialEq)]
pub struct Sample {
    pub type_id: u32,
    pub meta: Vec<u8>,
    pub data: Vec<u8>,
}

impl Sample {
    pub fn of(seed: u64, rank: usize, number: usize) -> Self {
        let mut numbers = numbers(seed, rank, number);
        let (meta, data) = (any_len(&mut numbers, 20_000), any_len(&mut numbers, 2 << 20));
        Self { type_id: numbers.random(), meta: any_bytes(&mut numbers, meta), data: any_bytes(&mut numbers, data) }
    }

    /// An eager object with these contents.
    pub fn object(&self, lunasa: &Lunasa) -> Result<Ldo, Error> {
        self.fill(lunasa.object().type_id(self.type_id).meta(self.meta.len()).data(self.data.len())?)
    }

    /// A lazy object with these contents.
    pub fn lazy_object(&self, lunasa: &Lunasa) -> Result<Ldo, Error> {
        self.fill(lunasa.object().lazy().type_id(self.type_id).meta(self.meta.len()).data(self.data.len())?)
    }

    fn fill(&self, mut object: Ldo) -> Result<Ldo, Error> {
        object.meta_mut()?.copy_from_slice(&self.meta);
        object.data_mut()?.copy_from_slice(&self.data);
        Ok(object)
    }

    /// The bytes that travel: header, metadata, data.
    pub fn image(&self) -> Vec<u8> {
        let (meta, data) = (self.meta.len() as u32, self.data.len() as u64);
        [&self.type_id.to_le_bytes()[..], &meta.to_le_bytes(), &data.to_le_bytes(), &self.meta, &self.data].concat()
    }

    /// # Panics
    /// When the object differs, naming what and where.
    #[track_caller]
    pub fn check(&self, object: &Ldo) -> Result<(), Error> {
        assert_eq!(object.type_id().0, self.type_id);
        same(object.meta()?, &self.meta);
        same(object.data()?, &self.data);
        Ok(())
    }

    /// Fetches the object whole and in parts through its handle.
    ///
    /// # Panics
    /// When a byte differs.
    pub fn check_remote(&self, lunasa: &Lunasa, handle: &RemoteHandle, numbers: &mut impl Rng) -> Result<(), Error> {
        self.check(&lunasa.fetch(handle)?)?;
        let image = self.image();
        let whole = handle.section(Section::Object);
        let sections = [(whole, &image), (handle.section(Section::Meta), &self.meta), (*handle, &self.data)];
        for (part, expected) in sections {
            let (from, to) = any_range(numbers, expected.len());
            let mut bytes = vec![0x55; to - from];
            lunasa.get_bytes(&part, from, &mut bytes)?;
            same(&bytes, &expected[from..to]);
        }
        Ok(())
    }
}

/// Some range within `len`, often at its borders.
pub fn any_range(numbers: &mut impl Rng, len: usize) -> (usize, usize) {
    let (a, b) = (numbers.random_range(0..=len), numbers.random_range(0..=len));
    match numbers.random_range(0..4) {
        0 => (0, a),
        1 => (a, len),
        _ => (a.min(b), a.max(b)),
    }
}

/// # Panics
/// When the bytes differ, naming the first place.
#[track_caller]
pub fn same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
        panic!("byte {at} of {} is {:#x}, not {:#x}", found.len(), found[at], expected[at]);
    }
}

/// How many bytes this rank got and put by a route.
pub fn traffic(lunasa: &Lunasa, route: &str) -> (u64, u64) {
    let found = lunasa.snapshot().traffic.into_iter().find(|traffic| traffic.route == route);
    found.map_or((0, 0), |traffic| (traffic.get_bytes, traffic.put_bytes))
}
