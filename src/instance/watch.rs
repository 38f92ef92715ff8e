//! What the endpoint sees of an instance: everything that can be shown.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::bootstrap::Directory;
use crate::config::Resolved;
use crate::object;
use crate::pool::{Pool, Pools};
use crate::registrar::Regions;
use crate::snapshot::{
    self, BlockMap, LateWrites, ObjectDump, ObjectInfo, ObjectPage, ObjectQuery, PeerInfo, PeerTraffic, RankInfo,
    RegistrationCost, RegistrationInfo, Sample, Snapshot,
};
use crate::status::Source;
use crate::topology::Topology;
use crate::trace::Recorder;
use crate::transfer::Transfers;

/// The shared parts of an instance.
#[derive(Debug)]
pub(super) struct Watch {
    pub transfers: Arc<Transfers>,
    pub pools: Pools,
    pub regions: Arc<Regions>,
    /// What a registration costs, when that could be measured.
    pub cost: Option<RegistrationCost>,
    pub directory: Arc<Directory>,
    pub resolved: Resolved,
    pub topology: Topology,
    pub started: Instant,
    pub mpi: String,
    pub recorder: Option<Arc<Recorder>>,
    /// The endpoint's socket, when it listens on one instead of a port.
    pub socket: Option<PathBuf>,
}

impl Watch {
    /// Where this rank's endpoint answers; empty when it has none.
    pub fn url(&self) -> String {
        let by_port = || self.directory.node(self.regions.rank()).map_or_else(String::new, |node| node.url());
        self.socket.as_ref().map_or_else(by_port, |path| format!("unix:{}", path.display()))
    }

    /// The pool of this name; all eager or lazy ones with `eager` or `lazy`.
    fn meant<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a Arc<Pool>> {
        self.pools.all().iter().filter(move |known| known.name() == pool || known.time.to_string() == pool)
    }

    /// At most `limit` live objects.
    pub fn list(&self, pool: &str, limit: usize) -> Vec<ObjectInfo> {
        self.meant(pool).fold(Vec::new(), |mut objects, pool| {
            objects.extend(object::list(pool, limit - objects.len()));
            objects
        })
    }

    /// What was registered, what was avoided, and what that cost.
    pub fn registrations(&self) -> RegistrationInfo {
        let avoided = self.pools.all().iter().map(|pool| pool.avoided());
        let (avoided, avoided_bytes) = avoided.fold((0, 0), |(objects, bytes), (o, b)| (objects + o, bytes + b));
        let saved_s = self.cost.map(|cost| cost.of(avoided, avoided_bytes));
        let (pins, limits) = (self.regions.pins(), self.regions.limits());
        RegistrationInfo { avoided, avoided_bytes, cost: self.cost, saved_s, pins, limits, ..self.regions.info() }
    }
}

impl Source for Watch {
    fn snapshot(&self) -> Snapshot {
        let rank = self.regions.rank();
        let (mut pools, mut blocks) = (Vec::new(), Vec::new());
        let mut late_writes = LateWrites::default();
        for pool in self.pools.all() {
            let (info, its_blocks) = pool.info();
            pools.push(info);
            blocks.extend(its_blocks);
            late_writes.add(pool.late_writes());
        }
        Snapshot {
            schema: snapshot::SCHEMA,
            rank: RankInfo {
                rank,
                ranks: self.directory.ranks(),
                host: self.directory.host_name(rank).to_owned(),
                hosts: self.directory.hosts(),
                pid: std::process::id(),
                url: self.url(),
                run: format!("{:016x}", self.regions.run()),
                uptime_s: self.started.elapsed().as_secs_f64(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                mpi: self.mpi.clone(),
                numa_node: self.topology.local_node(),
                cpus: self.topology.cpus().to_string(),
                registrar: self.regions.registrar().name().to_owned(),
            },
            config: self.resolved.entries.clone(),
            pools,
            blocks,
            registrations: self.registrations(),
            traffic: self.transfers.traffic(),
            late_writes,
            machine: self.topology.picture(),
        }
    }

    fn sample(&self) -> Sample {
        let live = self.pools.all().iter().map(|pool| pool.live_and_bytes());
        let (live_objects, allocated_bytes) =
            live.fold((0, 0), |sum, (objects, bytes)| (sum.0 + objects, sum.1 + bytes));
        let moved = self.transfers.traffic().into_iter().map(|route| (route.route, route.get_bytes + route.put_bytes));
        Sample {
            at_s: self.started.elapsed().as_secs_f64(),
            allocated_bytes,
            live_objects,
            registered_bytes: self.regions.info().bytes,
            moved: moved.collect(),
        }
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let peer = |rank| PeerInfo {
            rank,
            host: self.directory.host_name(rank).to_owned(),
            url: self.directory.node(rank).map_or_else(String::new, |node| node.url()),
            route: self.transfers.route_to(rank).map_or_else(|| "none".to_owned(), |route| route.to_string()),
        };
        (0..self.directory.ranks()).map(peer).collect()
    }

    fn talked_to(&self) -> Vec<PeerTraffic> {
        self.transfers.talked_to()
    }

    fn objects(&self, query: &ObjectQuery) -> ObjectPage {
        let mut selection = object::Selection::new(query);
        self.meant(&query.pool).for_each(|pool| selection.walk(pool));
        selection.finish()
    }

    fn object(&self, pool: &str, address: u64, offset: u64, limit: usize) -> Option<ObjectDump> {
        self.meant(pool).find_map(|pool| object::dump(pool, address, offset, limit))
    }

    fn block_maps(&self, cells: usize) -> Vec<BlockMap> {
        self.pools.all().iter().flat_map(|pool| object::block_maps(pool, cells)).collect()
    }

    fn health(&self) -> Result<(), String> {
        if self.pools.all().iter().any(|pool| pool.is_closed()) { Err("finishing".to_owned()) } else { Ok(()) }
    }
}
