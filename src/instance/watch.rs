//! What the endpoint sees of an instance: everything that can be shown.

use std::sync::Arc;
use std::time::Instant;

use crate::bootstrap::Directory;
use crate::config::Resolved;
use crate::object;
use crate::pool::Pool;
use crate::registrar::Regions;
use crate::snapshot::{self, LateWrites, ObjectInfo, PeerInfo, RankInfo, Snapshot};
use crate::status::Source;
use crate::topology::Topology;
use crate::trace::Recorder;
use crate::transfer::Transfers;

/// The shared parts of an instance.
#[derive(Debug)]
pub(super) struct Watch {
    pub transfers: Arc<Transfers>,
    /// Eager, then lazy.
    pub pools: [Arc<Pool>; 2],
    pub regions: Arc<Regions>,
    pub directory: Arc<Directory>,
    pub resolved: Resolved,
    pub topology: Topology,
    pub started: Instant,
    pub mpi: String,
    pub recorder: Option<Arc<Recorder>>,
}

impl Source for Watch {
    fn snapshot(&self) -> Snapshot {
        let rank = self.regions.rank();
        let (mut pools, mut blocks) = (Vec::new(), Vec::new());
        let (mut registrations, mut late_writes) = (self.regions.info(), LateWrites::default());
        for pool in &self.pools {
            let (info, its_blocks) = pool.info();
            registrations.avoided += pool.avoided();
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
            registrations,
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
        self.pools.iter().find(|known| known.name() == pool).map_or_else(Vec::new, |pool| object::list(pool, limit))
    }

    fn health(&self) -> Result<(), String> {
        if self.pools.iter().any(|pool| pool.is_closed()) { Err("finishing".to_owned()) } else { Ok(()) }
    }
}
