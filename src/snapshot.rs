//! All that can be shown of a rank, as plain data.
//!
//! The web pages, the JSON, the command line and `Debug` output all render one [`Snapshot`]: what is shown has one source.
//! The JSON schema carries [`SCHEMA`]; a field that changes its meaning raises it.

mod live;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sizes::bytes;
pub use live::{
    BlockMap, MachineInfo, NodeInfo, ObjectDump, ObjectKey, ObjectPage, ObjectQuery, PeerTraffic, RankBrief, Sample,
    TypeTotal,
};

/// Version of the JSON that a [`Snapshot`] serializes to.
pub const SCHEMA: u32 = 1;

/// One rank at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of this schema: [`SCHEMA`].
    pub schema: u32,
    /// Who and where this rank is.
    pub rank: RankInfo,
    /// The configuration in force, and where each value came from.
    pub config: Vec<ConfigEntry>,
    /// The pools: the eager one, then the lazy one; with one pool per NUMA node all eager ones, then all lazy ones.
    pub pools: Vec<PoolInfo>,
    /// Every block of memory, in the order they were mapped.
    pub blocks: Vec<BlockInfo>,
    /// What was registered.
    pub registrations: RegistrationInfo,
    /// Bytes and operations by route.
    pub traffic: Vec<TrafficInfo>,
    /// Writes into freed memory that were found; only with `lunasa.debug.poison`.
    #[serde(default)]
    pub late_writes: LateWrites,
    /// The machine, and this rank's place in it.
    #[serde(default)]
    pub machine: MachineInfo,
}

/// Who and where a rank is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankInfo {
    /// Rank in the instance's communicator.
    pub rank: u32,
    /// Number of ranks.
    pub ranks: u32,
    /// Name of the host.
    pub host: String,
    /// Number of hosts of the job.
    pub hosts: u32,
    /// Process id.
    pub pid: u32,
    /// Where this rank's endpoint answers, as `http://address:port/`; empty when it has none.
    pub url: String,
    /// Identity of the run, in hexadecimal; the same on every rank.
    pub run: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Version of Lunasa.
    pub version: String,
    /// The MPI library and the level of threads it gave; "none" without MPI.
    pub mpi: String,
    /// The NUMA node near this rank's cores, when there is one.
    pub numa_node: Option<u32>,
    /// The cores this rank may run on, as a list such as `0-3,8`.
    pub cpus: String,
    /// The registrar in use.
    pub registrar: String,
}

/// One key of the configuration in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// The dotted key.
    pub key: String,
    /// Its value, as TOML.
    pub value: String,
    /// Where it came from: `default`, `file PATH`, `environment VAR`, `program`.
    pub source: String,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// `eager` or `lazy`; with one pool per NUMA node `eager.0` and so on.
    pub name: String,
    /// The memory manager behind it.
    pub manager: String,
    /// The NUMA node that its blocks are asked to be on, when it is one.
    #[serde(default)]
    pub node: Option<u32>,
    /// Objects alive.
    pub live_objects: u64,
    /// Objects allocated since the start.
    pub allocations: u64,
    /// Bytes asked for by live objects, headers included (the original's TotalAllocated).
    pub allocated_bytes: u64,
    /// Objects that were dropped and wait in quarantine (`lunasa.debug.quarantine`), beside the live ones.
    #[serde(default)]
    pub quarantined_objects: u64,
    /// Their bytes, which count as used.
    #[serde(default)]
    pub quarantined_bytes: u64,
    /// Bytes mapped from the system (TotalManaged).
    pub managed_bytes: u64,
    /// Bytes taken from the managed ones, with rounding (TotalUsed).
    pub used_bytes: u64,
    /// Bytes managed and not used (TotalFree).
    pub free_bytes: u64,
    /// Of the free bytes, those that caches keep for reuse.
    pub cached_bytes: u64,
    /// The most bytes that ever were managed.
    pub high_water_bytes: u64,
    /// The most objects that ever were alive. With `tcmalloc` threads tell what they did when their caches are filled or
    /// emptied, so each may have had a cache's fill more or less at the moment.
    #[serde(default)]
    pub most_live_objects: u64,
    /// The most bytes that live objects ever had asked for, headers included; as exact as `most_live_objects`.
    #[serde(default)]
    pub most_allocated_bytes: u64,
    /// Bytes of the manager's own books, outside the managed memory.
    pub bookkeeping_bytes: u64,
    /// LDOs that the lazy pool gave instead, as more memory for this pool was refused to be registered
    /// (`lunasa.eager.when_refused`).
    #[serde(default)]
    pub passed_on: u64,
    /// Size classes with something in them; empty for `malloc`.
    pub classes: Vec<ClassInfo>,
}

/// One size class of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassInfo {
    /// Bytes of one piece.
    pub size: u64,
    /// Pieces handed out.
    pub live: u64,
    /// Pieces that caches keep for reuse.
    pub cached: u64,
    /// Spans cut into pieces of this size.
    pub spans: u64,
    /// Free pieces in those spans.
    pub free: u64,
}

/// One block of memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockInfo {
    /// The pool it belongs to.
    pub pool: String,
    /// First address.
    pub address: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Bytes of it that are handed out (with rounding).
    pub used_bytes: u64,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// `ordinary`, `huge (reserved)` or `huge (transparent)`.
    pub page_kind: String,
    /// The NUMA node asked for, when it was one.
    pub node_asked: Option<u32>,
    /// The NUMA nodes that its pages were to go round, when they were to be interleaved; else none.
    #[serde(default)]
    pub interleaved: Vec<u32>,
    /// Sampled pages found on each node: `(node, pages)`.
    pub nodes_found: Vec<(u32, u64)>,
    /// Whether it is registered.
    pub registered: bool,
    /// Anything that did not go as asked, in words.
    pub note: Option<String>,
}

/// What was registered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistrationInfo {
    /// Registrations done since the start.
    pub done: u64,
    /// Objects that were handed out registered without a registration of their own: what reuse saved.
    pub avoided: u64,
    /// Regions registered now.
    pub regions: u64,
    /// Bytes registered now.
    pub bytes: u64,
    /// Bytes of the objects in `avoided`, headers included.
    #[serde(default)]
    pub avoided_bytes: u64,
    /// Seconds spent in the registrar: registering and deregistering.
    #[serde(default)]
    pub spent_s: f64,
    /// What one costs here, as measured at the start; none when the registrar refused that.
    #[serde(default)]
    pub cost: Option<RegistrationCost>,
    /// Seconds that registering each of the avoided objects by itself would have taken, by that cost; none without it.
    #[serde(default)]
    pub saved_s: Option<f64>,
    /// The pin budget, and what was taken of it.
    #[serde(default)]
    pub pins: PinInfo,
    /// What limits further registrations.
    #[serde(default)]
    pub limits: RegistrationLimits,
}

/// The pin budget of this rank's host, and what this rank and the others took of it. All are bytes, of whole pages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PinInfo {
    /// Whether registrations are charged: the registrar keeps memory where it is.
    pub charged: bool,
    /// What the ranks of the host may keep registered together; none: as much as they like.
    pub budget: Option<u64>,
    /// What of it each rank can have whatever the others do.
    pub kept: Option<u64>,
    /// Ranks that share it.
    pub ranks: u32,
    /// What this rank has registered.
    pub used: u64,
    /// What the other ranks of the host have.
    pub used_by_others: u64,
    /// What this rank asked for since the start, refused or not.
    pub asked: u64,
    /// How often it was refused.
    pub refusals: u64,
    /// What it asked for then.
    pub refused: u64,
}

impl fmt::Display for PinInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budget = self.budget.map_or("no budget".to_owned(), |budget| format!("{} for the host", bytes(budget)));
        if !self.charged {
            return write!(f, "{budget}, not charged: nothing is pinned");
        }
        write!(f, "{} of {budget}", bytes(self.used))?;
        if self.ranks > 1 {
            write!(f, ", {} by the others", bytes(self.used_by_others))?;
            self.kept.map_or(Ok(()), |kept| write!(f, ", {} kept for each rank", bytes(kept)))?;
        }
        match self.refusals {
            0 => Ok(()),
            times => write!(f, "; {times} refused, {}", bytes(self.refused)),
        }
    }
}

/// What limits further registrations: before the first failure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistrationLimits {
    /// Each limit on bytes that there is.
    pub bytes: Vec<LimitInfo>,
    /// The most bytes of one registration, when the registrar says.
    pub region_bytes: Option<u64>,
    /// The most registrations at once, when the registrar says.
    pub regions: Option<u64>,
}

/// A limit on what may be registered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitInfo {
    /// What it is called: `RLIMIT_MEMLOCK`, `lunasa.pin_budget`, the file of a cgroup.
    pub name: String,
    /// Its value in bytes.
    pub bytes: u64,
    /// Bytes that it still allows.
    pub left_bytes: u64,
}

impl RegistrationLimits {
    /// The limit that is met first, when there is one.
    pub fn tightest(&self) -> Option<&LimitInfo> {
        self.bytes.iter().min_by_key(|limit| limit.left_bytes)
    }
}

impl fmt::Display for RegistrationLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tightest() {
            None => write!(f, "no limit on bytes")?,
            Some(LimitInfo { name, bytes: value, left_bytes }) => {
                write!(f, "may register {} more, limited by {name} = {}", bytes(*left_bytes), bytes(*value))?
            }
        }
        self.region_bytes.map_or(Ok(()), |most| write!(f, "; at most {} at once", bytes(most)))?;
        self.regions.map_or(Ok(()), |most| write!(f, "; at most {most} registrations"))
    }
}

/// What registering a piece of memory and ending that again costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistrationCost {
    /// Seconds for each, whatever its size.
    pub fixed_s: f64,
    /// Seconds for each byte besides.
    pub per_byte_s: f64,
}

impl RegistrationCost {
    /// Seconds for so many registrations of so many bytes in all.
    pub fn of(&self, registrations: u64, bytes: u64) -> f64 {
        registrations as f64 * self.fixed_s + bytes as f64 * self.per_byte_s
    }
}

impl fmt::Display for RegistrationInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} registrations in {:.6} s, {} avoided", self.done, self.spent_s, self.avoided)?;
        self.saved_s.map_or(Ok(()), |saved| write!(f, ", which saved {saved:.6} s"))
    }
}

/// What passed one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficInfo {
    /// `self`, `shm`, `verbs` or `mpi`.
    pub route: String,
    /// Bytes this rank read from peers.
    pub get_bytes: u64,
    /// Reads.
    pub gets: u64,
    /// Bytes this rank wrote to peers.
    pub put_bytes: u64,
    /// Writes.
    pub puts: u64,
    /// Bytes served to peers by this rank (only the `mpi` route knows).
    pub served_bytes: u64,
    /// Requests served.
    pub served: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// One rank as every other rank knows it, from the directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its rank.
    pub rank: u32,
    /// Its host.
    pub host: String,
    /// Where its endpoint answers; empty when it has none.
    pub url: String,
    /// How bytes reach it from here.
    pub route: String,
}

/// One live object, as the pages list it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Address of its data.
    pub address: u64,
    /// `ordinary` or `user`.
    pub kind: String,
    /// Its type id.
    pub type_id: u32,
    /// The name that the program gave the type, when it did.
    pub type_name: Option<String>,
    /// Bytes of metadata.
    pub meta_bytes: u64,
    /// Bytes of data.
    pub data_bytes: u64,
    /// References held.
    pub references: u32,
    /// Whether its memory is registered.
    pub registered: bool,
    /// Where the program allocated it, as `file:line:column`; only with `lunasa.debug.call_sites`.
    #[serde(default)]
    pub allocated_at: Option<String>,
}

/// Writes into freed memory that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateWrites {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<LateWrite>,
}

/// Bytes that were written into freed memory, and the object that had it: a peer's put that came late, or a stray pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateWrite {
    /// Its pool.
    pub pool: String,
    /// Its serial number.
    pub serial: u64,
    /// Its type id.
    pub type_id: u32,
    /// The name that the program gave the type, when it did.
    pub type_name: Option<String>,
    /// Bytes of its metadata.
    pub meta_bytes: u64,
    /// Bytes of its data.
    pub data_bytes: u64,
    /// Where the program allocated it; only with `lunasa.debug.call_sites`.
    pub allocated_at: Option<String>,
    /// Address of the first byte that was written.
    pub address: u64,
    /// Its offset in the object: 64 bytes of headers, then metadata, then data.
    pub offset: u64,
    /// Bytes from the first that was written to the last.
    pub bytes: u64,
    /// What was found there, in hexadecimal: 16 bytes at most.
    pub found: String,
}

impl LateWrites {
    pub(crate) fn add(&mut self, others: Self) {
        self.count += others.count;
        self.first.extend(others.first);
    }
}

impl std::fmt::Display for LateWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pool, serial, type_id, meta_bytes, data_bytes, address, offset, bytes, found, .. } = self;
        let name = self.type_name.clone().unwrap_or_else(|| format!("type {type_id}"));
        write!(f, "{bytes} bytes at offset {offset} ({address:#x}) of an object that was dropped: {name}, {pool}, ")?;
        write!(f, "serial number {serial}, 64 + {meta_bytes} + {data_bytes} bytes")?;
        if let Some(site) = &self.allocated_at {
            write!(f, ", allocated at {site}")?;
        }
        write!(f, "; found {found}")
    }
}
