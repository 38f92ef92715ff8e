//! What the endpoint sees of an instance: everything that can be shown.

use std::sync::Arc;
use std::time::Instant;

use crate::bootstrap::Directory;
use crate::config::Resolved;
use crate::object;
use crate::pool::Pools;
use crate::registrar::Regions;
use crate::snapshot::{self, LateWrites, ObjectInfo, PeerInfo, RankInfo, RegistrationCost, RegistrationInfo, Snapshot};
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
}

impl Watch {
    /// What was registered, what was avoided, and what that cost.
    pub fn registrations(&self) -> RegistrationInfo {
        let avoided = self.pools.all().iter().map(|pool| pool.avoided());
        let (avoided, avoided_bytes) = avoided.fold((0, 0), |(objects, bytes), (o, b)| (objects + o, bytes + b));
        let saved_s = self.cost.map(|cost| cost.of(avoided, avoided_bytes));
        RegistrationInfo { avoided, avoided_bytes, cost: self.cost, saved_s, ..self.regions.info() }
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
                url: self.directory.node(rank).map_or_else(String::new, |node| node.url()),
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

    fn objects(&self, pool: &str, limit: usize) -> Vec<ObjectInfo> {
        let meant = self.pools.all().iter().filter(|known| known.name() == pool || known.time.to_string() == pool);
        meant.fold(Vec::new(), |mut objects, pool| {
            objects.extend(object::list(pool, limit - objects.len()));
            objects
        })
    }

    fn health(&self) -> Result<(), String> {
        if self.pools.all().iter().any(|pool| pool.is_closed()) { Err("finishing".to_owned()) } else { Ok(()) }
    }
}
