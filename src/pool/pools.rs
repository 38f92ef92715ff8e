//! All pools of a rank: an eager and a lazy one, or with `lunasa.numa.policy = "per-node"` such a pair for each NUMA node
//! with memory, from which an allocation takes the one near the thread that asks, or the one that it names.

use std::sync::Arc;

use super::{Pool, Registration};
use crate::error::{Error, Result};
use crate::topology::{Topology, current_cpu};

/// All pools of a rank.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Those for whoever runs anywhere: eager, then lazy.
    here: [Arc<Pool>; 2],
    /// With one pair per node, what is near which cpu.
    near: Option<Near>,
    /// Each pool once; the eager ones first.
    all: Vec<Arc<Pool>>,
}

/// One pair of pools per node; a manager that cannot place memory gives the same pool to all of them.
#[derive(Debug)]
struct Near {
    pairs: Vec<[Arc<Pool>; 2]>,
    /// The place in `pairs` of the node with memory that is nearest to each cpu.
    by_cpu: Box<[usize]>,
}

impl Pools {
    /// One pair for all.
    pub(crate) fn new(here: [Arc<Pool>; 2]) -> Self {
        Self { all: here.to_vec(), here, near: None }
    }

    /// One pair for each of these nodes, which are those of the topology with memory. Threads on cpus that the topology does
    /// not know take that of its local node.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is none.
    pub(crate) fn per_node(nodes: &[u32], pairs: Vec<[Arc<Pool>; 2]>, topology: &Topology) -> Result<Self> {
        let place = |node| topology.memory_near(node).and_then(|near| nodes.iter().position(|known| *known == near));
        let own = topology.local_node().and_then(place).unwrap_or(0);
        let here = pairs.get(own).cloned().ok_or_else(|| {
            Error::Memory("no NUMA node with memory is known; set lunasa.numa.policy = \"none\"".to_owned())
        })?;
        let cpus = topology.nodes().iter().flat_map(|node| node.cpus.iter().map(|cpu| (cpu as usize, node.id)));
        let cpus: Vec<(usize, u32)> = cpus.collect();
        let mut by_cpu = vec![own; cpus.iter().map(|(cpu, _)| cpu + 1).max().unwrap_or(0)].into_boxed_slice();
        cpus.into_iter().for_each(|(cpu, node)| by_cpu[cpu] = place(node).unwrap_or(own));
        let mut all: Vec<Arc<Pool>> = Vec::new();
        for pool in [0, 1].iter().flat_map(|&time| pairs.iter().map(move |pair| &pair[time])) {
            if !all.iter().any(|known| Arc::ptr_eq(known, pool)) {
                all.push(pool.clone());
            }
        }
        Ok(Self { here, near: Some(Near { pairs, by_cpu }), all })
    }

    /// Each pool once; the eager ones first.
    pub(crate) fn all(&self) -> &[Arc<Pool>] {
        &self.all
    }

    /// The pool for every thread, unless there is one for each node.
    #[inline(always)]
    pub(crate) fn anywhere(&self, time: Registration) -> Option<&Pool> {
        match &self.near {
            None => Some(&self.here[time as usize]),
            Some(_) => None,
        }
    }

    /// The pool for the calling thread.
    pub(crate) fn here(&self, time: Registration) -> &Arc<Pool> {
        match &self.near {
            None => &self.here[time as usize],
            Some(near) => near.to_thread().map_or(&self.here[time as usize], |pair| &pair[time as usize]),
        }
    }

    /// The pool whose blocks are on this node.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is none, with what there is and what to set.
    #[cold]
    pub(crate) fn on(&self, node: u32, time: Registration) -> Result<&Arc<Pool>> {
        let mine = || self.all.iter().filter(|pool| pool.time == time);
        if let Some(pool) = mine().find(|pool| pool.node() == Some(node)) {
            return Ok(pool);
        }
        let nodes: Vec<String> = mine().filter_map(|pool| pool.node()).map(|node| node.to_string()).collect();
        let own = &self.here[time as usize];
        Err(Error::Memory(match (&self.near, nodes.is_empty()) {
            (_, true) if !own.places_memory() => format!(
                "an object on NUMA node {node} was asked for, but the {time} pool's manager, {}, does not place memory; set \
                 lunasa.{time}_memory_manager = \"tcmalloc\"",
                own.manager_name()
            ),
            (None, _) => format!(
                "an object on NUMA node {node} was asked for, but the {time} pool is {}; set lunasa.numa.policy = \
                 \"per-node\"",
                own.node().map_or_else(|| "on no particular node".to_owned(), |own| format!("on node {own} only"))
            ),
            (Some(_), _) => format!(
                "an object on NUMA node {node} was asked for, but the nodes with memory that this rank may use are: {}",
                nodes.join(", ")
            ),
        }))
    }
}

impl Near {
    #[inline]
    fn to_thread(&self) -> Option<&[Arc<Pool>; 2]> {
        self.pairs.get(*self.by_cpu.get(current_cpu() as usize)?)
    }
}
