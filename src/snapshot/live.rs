//! What is shown beside a [`Snapshot`](super::Snapshot): the machine, samples over time, lists of objects, peers, and a rank
//! in brief.

use serde::{Deserialize, Serialize};

use super::ObjectInfo;

/// The machine a rank runs on, and the rank's place in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Its NUMA nodes, by rising number.
    pub nodes: Vec<NodeInfo>,
    /// Whether the rank is bound to less than the machine's cores.
    pub bound: bool,
}

/// One NUMA node of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its number.
    pub node: u32,
    /// Its cores, each a number.
    pub cpus: Vec<u32>,
    /// Of these, the ones the rank may run on.
    pub own_cpus: Vec<u32>,
    /// Its memory in bytes; 0 when the system does not say.
    pub memory_bytes: u64,
    /// What of it is free now.
    pub free_bytes: u64,
}

/// What is looked at once a second for the plots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the rank's start.
    pub at_s: f64,
    /// Bytes that live objects asked for, headers included.
    pub allocated_bytes: u64,
    /// Objects alive.
    pub live_objects: u64,
    /// Bytes registered.
    pub registered_bytes: u64,
    /// Bytes that passed each route since the start, both ways: name and bytes.
    pub moved: Vec<(String, u64)>,
}

impl Sample {
    /// Bytes that passed all routes since the start.
    pub fn moved_bytes(&self) -> u64 {
        self.moved.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What a list of live objects is sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ObjectKey {
    /// Where its data are.
    #[default]
    Address,
    /// Bytes of data.
    Data,
    /// Bytes of metadata.
    Meta,
    /// References held.
    References,
    /// The number of its type.
    Type,
}

/// Which live objects are wanted, in which order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectQuery {
    /// The pool's name; `eager` or `lazy` for all of that time.
    pub pool: String,
    /// What they are sorted by; objects that are equal in it, by address.
    pub sort: ObjectKey,
    /// Whether the largest comes first.
    pub descending: bool,
    /// Only types of this number, or with this in their name; all when empty.
    pub of_type: String,
    /// Only objects with this many bytes of data at least.
    pub min_bytes: u64,
    /// Only objects with this many bytes of data at most, if said.
    pub max_bytes: Option<u64>,
    /// Only those that come after this one in the order: what it is sorted by, and its address.
    pub after: Option<(u64, u64)>,
    /// How many, at most.
    pub limit: usize,
}

/// Some of the live objects of a pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectPage {
    /// The objects, in the order asked for.
    pub objects: Vec<ObjectInfo>,
    /// How many there are that fit, on this page, before it and after it.
    pub matched: u64,
    /// Bytes of data in them.
    pub matched_bytes: u64,
    /// Whether all objects were looked at; else there was no time for more.
    pub complete: bool,
    /// Where the next page begins: `after` of its query. None on the last.
    pub next: Option<(u64, u64)>,
    /// What of them is of which type, the most bytes first; of types that do not fit here nothing is said.
    pub types: Vec<TypeTotal>,
}

/// The objects of one type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TypeTotal {
    /// The type.
    pub type_id: u32,
    /// Its name, if it has one.
    pub type_name: Option<String>,
    /// Objects.
    pub objects: u64,
    /// Bytes of data in them.
    pub bytes: u64,
}

/// One object and what is in it, copied.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectDump {
    /// The object.
    pub info: ObjectInfo,
    /// Its metadata, from their beginning.
    pub meta: Vec<u8>,
    /// Its data, from the offset asked for.
    pub data: Vec<u8>,
    /// Where in its data `data` begins.
    pub offset: u64,
}

/// How the memory of one block is taken, cell by cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockMap {
    /// The pool it belongs to.
    pub pool: String,
    /// The block's first address.
    pub address: u64,
    /// For each cell, all of one size, percent of its bytes in live objects and percent kept for reuse; the rest is free.
    pub cells: Vec<(u8, u8)>,
}

/// What passed between this rank and one that it talked to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerTraffic {
    /// The peer.
    pub rank: u32,
    /// Its host.
    pub host: String,
    /// The route that its blocks are reached by.
    pub route: String,
    /// The connection: `own memory`, `mapped`, `messages`, or `not opened`.
    pub state: String,
    /// Bytes read from it.
    pub get_bytes: u64,
    /// Reads.
    pub gets: u64,
    /// Bytes written to it.
    pub put_bytes: u64,
    /// Writes.
    pub puts: u64,
    /// Transfers that failed.
    pub errors: u64,
    /// How long transfers took, as far as they were timed: bucket `i` counts those from 2^i to 2^(i+1) nanoseconds. Buckets
    /// behind the last one that counted anything are left out.
    pub latency: Vec<u64>,
}

/// A rank in a few numbers: what `/job` asks every rank for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankBrief {
    /// The run it belongs to.
    pub run: String,
    /// The rank.
    pub rank: u32,
    /// Why it is not well, when it is not.
    pub trouble: Option<String>,
    /// Seconds since its start.
    pub uptime_s: f64,
    /// Objects alive.
    pub live_objects: u64,
    /// Bytes that live objects asked for.
    pub allocated_bytes: u64,
    /// Bytes mapped.
    pub managed_bytes: u64,
    /// Bytes registered.
    pub registered_bytes: u64,
    /// Bytes moved since the start.
    pub moved_bytes: u64,
    /// Bytes moved in a second, now.
    pub moved_per_s: f64,
    /// Transfers that failed.
    pub errors: u64,
}
