//! hwloc, behind our own small types: which NUMA node is mine, which are there, and which cpus this rank may use.
//!
//! Only this file calls hwloc2, and only its sound part: the root's nodeset, the processing units at the deepest level
//! with their nodesets, and the binding. Memory per node is read from `/sys/devices/system/node`.

mod cpu_list;
mod current;
mod host;

use std::collections::BTreeMap;
use std::fs;

use hwloc2::{Bitmap, CpuBindFlags};

use crate::error::{Error, Result, os_error};
use crate::snapshot::{MachineInfo, NodeInfo};
pub use cpu_list::CpuList;
pub(crate) use current::current_cpu;
pub use host::Host;

/// The NUMA nodes of this host and this process's place among them, as it was when discovered.
#[derive(Debug, Clone)]
pub struct Topology {
    nodes: Vec<NumaNode>,
    cpus: CpuList,
    bound: bool,
    local_node: Option<u32>,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// The operating system's index.
    pub id: u32,
    /// Its cpus; empty for a node that has only memory. No cpu is in two nodes.
    pub cpus: CpuList,
    /// Its memory; 0 when the system does not say.
    pub memory_bytes: u64,
    /// What of it is free; 0 when the system does not say.
    pub free_bytes: u64,
}

impl Topology {
    /// Asks hwloc and the system. With `HWLOC_SYNTHETIC` or `HWLOC_XMLFILE` in the environment, hwloc tells of that
    /// machine instead of this one, with its binding unknown (all cpus) and its memory 0.
    ///
    /// Takes milliseconds: once at the start, not on a fast path.
    ///
    /// # Errors
    /// [`Error::Launch`] when hwloc cannot read the machine, or the binding cannot be read.
    pub fn discover() -> Result<Self> {
        let hwloc = hwloc2::Topology::new()
            .ok_or_else(|| Error::Launch("hwloc cannot read this machine's topology; is /sys mounted?".into()))?;
        let here = describes_this_machine();
        let root = hwloc.object_at_root();
        let nodes = root.nodeset().map(members).unwrap_or_default();
        let near: Vec<(u32, Vec<u32>)> = hwloc
            .objects_at_depth(hwloc.depth().saturating_sub(1))
            .into_iter()
            .map(|unit| (unit.os_index(), unit.nodeset().map(members).unwrap_or_default()))
            .collect();
        let nodes = nodes
            .iter()
            .map(|&id| {
                let memory = if here { NodeMemory::read(id).unwrap_or_default() } else { NodeMemory::default() };
                (id, memory, here && is_without_cpus(id))
            })
            .collect::<Vec<_>>();
        let binding = hwloc.get_cpubind(CpuBindFlags::CPUBIND_PROCESS).map(members).unwrap_or_default();
        let allowed = if binding.is_empty() { affinity()? } else { binding.into_iter().collect() };
        // SAFETY: `sched_getcpu` takes nothing and only returns a number.
        let current = u32::try_from(unsafe { libc::sched_getcpu() }).ok().filter(|_| here);
        // hwloc leaves out what a cgroup forbids; the kernel names all that are there.
        let online = fs::read_to_string("/sys/devices/system/cpu/online").ok().filter(|_| here);
        let machine =
            online.and_then(|text| text.parse().ok()).unwrap_or_else(|| near.iter().map(|(cpu, _)| *cpu).collect());
        Ok(Self::assemble(&near, &nodes, &machine, allowed, current))
    }

    /// Puts together what was read. `near`: for every cpu the nodes that hwloc names for it; `nodes`: id, memory, and
    /// whether the kernel says that it has no cpus; `machine`: all cpus; `current`: the cpu we run on.
    fn assemble(
        near: &[(u32, Vec<u32>)],
        nodes: &[(u32, NodeMemory, bool)],
        machine: &CpuList,
        allowed: CpuList,
        current: Option<u32>,
    ) -> Self {
        // hwloc names for a cpu every node attached at or above it, also those that have only memory. The cpu's own
        // node is the one that the fewest cpus share; of several such (fast and slow memory) the first.
        let mut shared_by: BTreeMap<u32, usize> = BTreeMap::new();
        for id in near.iter().flat_map(|(_, ids)| ids) {
            *shared_by.entry(*id).or_default() += 1;
        }
        let may_own = |id: &u32| nodes.iter().any(|(node, _, without_cpus)| node == id && !without_cpus);
        let owner = |ids: &[u32]| ids.iter().copied().filter(may_own).min_by_key(|id| (shared_by[id], *id));
        let mut cpus_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (cpu, ids) in near {
            if let Some(id) = owner(ids) {
                cpus_of.entry(id).or_default().push(*cpu);
            }
        }
        let nodes: Vec<NumaNode> = nodes
            .iter()
            .map(|&(id, memory, _)| NumaNode {
                id,
                cpus: cpus_of.remove(&id).unwrap_or_default().into_iter().collect(),
                memory_bytes: memory.total,
                free_bytes: memory.free,
            })
            .collect();
        let bound = machine.iter().any(|cpu| !allowed.contains(cpu));
        let runs_here = |node: &NumaNode| current.is_some_and(|cpu| node.cpus.contains(cpu));
        let local_node = nodes
            .iter()
            .filter(|node| !node.cpus.is_empty())
            .max_by_key(|node| {
                let mine = node.cpus.intersection(&allowed).len();
                let rank = if bound { (mine, runs_here(node)) } else { (usize::from(runs_here(node)), mine > 0) };
                (rank, std::cmp::Reverse(node.id))
            })
            .map(|node| node.id);
        Self { nodes, cpus: allowed, bound, local_node }
    }

    /// The NUMA nodes that this process may use, by rising id.
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    /// The cpus that this process may run on.
    pub fn cpus(&self) -> &CpuList {
        &self.cpus
    }

    /// Whether this process is bound to less than the machine's cpus, by its affinity or its cgroup.
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// The node that holds most of this process's cpus; when it is bound nowhere, the node of the cpu it ran on when
    /// the topology was discovered. Never a node without cpus.
    pub fn local_node(&self) -> Option<u32> {
        self.local_node
    }

    /// The nodes that have memory, by rising id; all, when the system says of none how much it has.
    pub fn memory_nodes(&self) -> Vec<u32> {
        let told = self.nodes.iter().any(|node| node.memory_bytes > 0);
        self.nodes.iter().filter(|node| node.memory_bytes > 0 || !told).map(|node| node.id).collect()
    }

    /// The node with memory that is nearest to `node`: itself when it has some, else the one at the least distance as the
    /// kernel tells it (of several the first). `None` when there is no such node.
    pub fn memory_near(&self, node: u32) -> Option<u32> {
        self.nodes.iter().find(|known| known.id == node)?;
        nearest(node, &self.memory_nodes(), &distances)
    }

    /// The machine as it is shown, with what is free now.
    pub(crate) fn picture(&self) -> MachineInfo {
        let node = |node: &NumaNode| NodeInfo {
            node: node.id,
            cpus: node.cpus.iter().collect(),
            own_cpus: node.cpus.iter().filter(|cpu| self.cpus.contains(*cpu)).collect(),
            memory_bytes: node.memory_bytes,
            free_bytes: NodeMemory::read(node.id).map_or(node.free_bytes, |now| now.available),
        };
        MachineInfo { nodes: self.nodes.iter().map(node).collect(), bound: self.bound }
    }

    /// The cpus of the machine that are not this process's.
    pub(crate) fn others_cpus(&self) -> Vec<u32> {
        self.nodes.iter().flat_map(|node| node.cpus.iter()).filter(|cpu| !self.cpus.contains(*cpu)).collect()
    }

    /// The cpus of `node`, whether or not this process may run on them; `None` when there is no such node.
    pub fn cpus_of(&self, node: u32) -> Option<&CpuList> {
        self.nodes.iter().find(|n| n.id == node).map(|n| &n.cpus)
    }
}

/// The one of `candidates` that is nearest to `node`, by the distances from it.
fn nearest(node: u32, candidates: &[u32], distances: &dyn Fn(u32) -> Vec<(u32, u32)>) -> Option<u32> {
    if candidates.contains(&node) {
        return Some(node);
    }
    let distances = distances(node);
    let distance =
        |id: &u32| distances.iter().find(|(known, _)| known == id).map_or(u32::MAX, |(_, distance)| *distance);
    candidates.iter().copied().min_by_key(distance)
}

/// The distance of each node from `node`, as the kernel tells it.
fn distances(node: u32) -> Vec<(u32, u32)> {
    let read = |path: &str| fs::read_to_string(format!("/sys/devices/system/node/{path}")).ok();
    let online: Option<CpuList> = read("online").and_then(|text| text.trim().parse().ok());
    let distances = read(&format!("node{node}/distance")).unwrap_or_default();
    let distances = distances.split_whitespace().filter_map(|word| word.parse().ok());
    online.iter().flat_map(CpuList::iter).zip(distances).collect()
}

/// Memory of a NUMA node now, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodeMemory {
    /// All of it.
    pub(crate) total: u64,
    /// What nothing uses.
    pub(crate) free: u64,
    /// What is free or holds only cached files.
    pub(crate) available: u64,
}

impl NodeMemory {
    /// What the kernel says about `node` now; `None` when there is no such node.
    pub(crate) fn read(node: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo")).ok()?;
        Some(Self::parse(&text))
    }

    /// Reads lines such as `Node 0 MemFree:  123 kB`.
    fn parse(text: &str) -> Self {
        let bytes = |key: &str| {
            let line = text.lines().find_map(|line| line.split_once(key).map(|(_, value)| value));
            line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let free = bytes(" MemFree:");
        Self { total: bytes(" MemTotal:"), free, available: free + bytes(" Active(file):") + bytes(" Inactive(file):") }
    }
}

/// Whether hwloc tells of this machine, and not of one described in the environment.
fn describes_this_machine() -> bool {
    let told = ["HWLOC_SYNTHETIC", "HWLOC_XMLFILE"].iter().any(|name| std::env::var_os(name).is_some());
    !told || std::env::var("HWLOC_THISSYSTEM").is_ok_and(|value| value == "1")
}

/// Whether the kernel says that `node` has memory only.
fn is_without_cpus(node: u32) -> bool {
    let list = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
    list.is_ok_and(|text| text.trim().is_empty())
}

/// The members of a finite hwloc bitmap; none of an infinite one.
fn members(bitmap: Bitmap) -> Vec<u32> {
    if bitmap.weight() < 0 { Vec::new() } else { bitmap.into_iter().collect() }
}

/// The cpus that the calling thread may run on.
fn affinity() -> Result<CpuList> {
    let mut mask: Vec<libc::c_ulong> = vec![0; 16];
    loop {
        let bytes = std::mem::size_of_val(mask.as_slice());
        // SAFETY: the mask has `bytes` bytes that the call may write.
        if unsafe { libc::sched_getaffinity(0, bytes, mask.as_mut_ptr().cast()) } == 0 {
            return Ok(CpuList::from_mask(&mask));
        }
        // EINVAL: the kernel's own mask is longer.
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) || mask.len() >= 1024 {
            return Err(Error::Launch(format!("cannot read which cpus this process may use: {}", os_error())));
        }
        mask.resize(mask.len() * 2, 0);
    }
}

#[cfg(test)]
mod tests;
