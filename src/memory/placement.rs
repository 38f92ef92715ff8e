//! Placing a block on a NUMA node or on several, and proving where its pages are.

use std::collections::BTreeMap;
use std::io;
use std::ptr;

use super::limits::bytes;
use super::mapping::Mapping;
use super::pages::PageKind;
use crate::topology::{NodeMemory, Topology};

/// How many pages of a block are asked for their node.
const SAMPLE: usize = 64;

/// Where the pages of a block shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// Wherever the system puts them.
    #[default]
    Anywhere,
    /// On this NUMA node.
    Node(u32),
    /// One page after the other on each NUMA node that has memory and that this process may use.
    Interleaved,
}

impl Place {
    /// The one node, when it is one.
    pub fn node(self) -> Option<u32> {
        match self {
            Self::Node(node) => Some(node),
            Self::Anywhere | Self::Interleaved => None,
        }
    }
}

/// Places `mapping` before it is touched; says what did not go as asked.
pub(super) fn place(mapping: &Mapping, kind: PageKind, place: Place, topology: &Topology) -> Option<String> {
    match place {
        Place::Anywhere => None,
        Place::Node(node) => bind(mapping, kind, node, topology),
        Place::Interleaved => {
            let error = set_policy(mapping, libc::MPOL_INTERLEAVE, &topology.memory_nodes()).err()?;
            Some(format!("not interleaved, mbind: {error}; placed by who touched first"))
        }
    }
}

/// Binds `mapping` to `node`; says what did not go as asked.
///
/// Reserved huge pages are only preferred to be there: a strict binding that its node's pool cannot meet is a SIGBUS. So
/// are ordinary ones when the node has too little memory left: there a strict binding calls the kernel's killer.
fn bind(mapping: &Mapping, kind: PageKind, node: u32, topology: &Topology) -> Option<String> {
    match topology.memory_near(node) {
        None => {
            let ids = listed(topology.nodes().iter().map(|node| node.id));
            return Some(format!("node {node} was asked for, but there are only: {ids}; not bound"));
        }
        Some(near) if near != node => {
            let failed = set_policy(mapping, libc::MPOL_PREFERRED, &[near]).err();
            let how =
                failed.map_or_else(|| "preferred".to_owned(), |error| format!("not even preferred, mbind: {error}"));
            return Some(format!("node {node} has no memory; of those that have, node {near} is the nearest: {how}"));
        }
        Some(_) => {}
    }
    let short = match NodeMemory::read(node) {
        _ if kind == PageKind::HugeReserved => None,
        // A part is left to the kernel, which begins to reclaim before a node is full.
        Some(memory) => {
            Some(memory.available.saturating_sub(memory.total / 64)).filter(|left| *left < mapping.len() as u64)
        }
        None => None,
    };
    let strict = kind != PageKind::HugeReserved && short.is_none();
    let policy = if strict { libc::MPOL_BIND } else { libc::MPOL_PREFERRED };
    match set_policy(mapping, policy, &[node]) {
        Err(error) => Some(format!("not bound to node {node}, mbind: {error}; placed by who touched first")),
        Ok(()) => short.map(|left| format!("node {node} has only {} left: preferred, not bound strictly", bytes(left))),
    }
}

/// Node numbers in words.
fn listed(nodes: impl Iterator<Item = u32>) -> String {
    nodes.map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

fn set_policy(mapping: &Mapping, policy: libc::c_int, on: &[u32]) -> io::Result<()> {
    #[cfg(test)]
    super::faults::pass()?;
    let bits = libc::c_ulong::BITS;
    let most = on.iter().copied().max().unwrap_or(0);
    let mut nodes: Vec<libc::c_ulong> = vec![0; (most / bits) as usize + 1];
    on.iter().for_each(|node| nodes[(node / bits) as usize] |= 1 << (node % bits));
    // The kernel takes one off the number of bits it is told.
    let count = nodes.len() as libc::c_ulong * libc::c_ulong::from(bits) + 1;
    // SAFETY: the range is a mapping of ours, and `nodes` has at least `count - 1` bits; the call only reads both.
    let code = unsafe {
        libc::syscall(libc::SYS_mbind, mapping.base().as_ptr(), mapping.len(), policy, nodes.as_ptr(), count, 0)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// On which nodes the pages of `mapping` are: `(node, pages)` by rising node, over a sample of up to [`SAMPLE`] pages
/// (all when there are fewer). Pages that are not there yet are not counted.
///
/// The sample is taken in runs of `run` pages, as many as there are nodes that the pages go round: single ones at equal
/// distances could all be on one of these.
///
/// # Errors
/// When the system does not tell, as in some containers.
pub(super) fn find(mapping: &Mapping, page_size: usize, run: usize) -> io::Result<Vec<(u32, u64)>> {
    let addresses: Vec<*mut u8> = sampled(mapping.len() / page_size, run)
        .into_iter()
        .map(|page| mapping.base().as_ptr().wrapping_add(page * page_size))
        .collect();
    let sample = addresses.len();
    let mut status: Vec<libc::c_int> = vec![-libc::ENOENT; sample];
    #[cfg(test)]
    super::faults::pass()?;
    // SAFETY: both arrays have `sample` entries; with no target nodes the call only asks, and moves nothing.
    let code = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            sample,
            addresses.as_ptr(),
            ptr::null::<libc::c_int>(),
            status.as_mut_ptr(),
            0,
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = BTreeMap::new();
    for node in status.into_iter().filter_map(|status| u32::try_from(status).ok()) {
        *found.entry(node).or_insert(0) += 1;
    }
    Ok(found.into_iter().collect())
}

/// Which of so many pages are looked at.
fn sampled(pages: usize, run: usize) -> Vec<usize> {
    let run = run.clamp(1, SAMPLE);
    let runs = SAMPLE / run;
    if pages <= runs * run {
        return (0..pages.min(SAMPLE)).collect();
    }
    (0..runs).flat_map(|i| (0..run).map(move |page| i * pages / runs + page)).collect()
}

/// What to say when pages `found` are not all on the nodes `asked`, or one of these has less than half its share.
pub(super) fn mismatch(asked: &[u32], found: &[(u32, u64)]) -> Option<String> {
    let total: u64 = found.iter().map(|(_, pages)| pages).sum();
    if asked.is_empty() || total == 0 {
        return None;
    }
    let on = |node: &u32| found.iter().find(|(known, _)| known == node).map_or(0, |(_, pages)| *pages);
    let away = found.iter().filter(|(node, _)| !asked.contains(node));
    let away = away.map(|(node, pages)| format!("{pages} of {total} sampled pages are on node {node}"));
    let share = total / asked.len() as u64;
    let few = asked.iter().filter(|node| asked.len() > 1 && on(node) * 2 < share);
    let few = few.map(|node| format!("only {} of {total} sampled pages are on node {node}", on(node)));
    let said: Vec<String> = away.chain(few).collect();
    let node = if asked.len() == 1 { "node" } else { "nodes" };
    (!said.is_empty()).then(|| format!("{}; asked for was {node} {}", said.join(", "), listed(asked.iter().copied())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_sees_every_node_that_pages_go_round() {
        for nodes in 1..=9 {
            for pages in [1, 5, 63, 64, 65, 512, 1000, 16_384, 262_144] {
                let sample = sampled(pages, nodes);
                assert!(sample.windows(2).all(|pair| pair[0] < pair[1]) && sample.iter().all(|&page| page < pages));
                assert!(sample.len() <= SAMPLE && sample.len() + nodes > pages.min(SAMPLE));
                let of_node = |node| sample.iter().filter(|&page| page % nodes == node).count();
                let counts: Vec<usize> = (0..nodes).map(of_node).collect();
                assert!(counts.iter().max() <= counts.iter().min().map(|least| least + 1).as_ref(), "{counts:?}");
            }
        }
    }

    #[test]
    fn pages_that_are_elsewhere_or_few_are_told() {
        assert_eq!(mismatch(&[], &[(0, 64)]), None);
        assert_eq!(mismatch(&[1], &[(1, 64)]), None);
        let said = mismatch(&[1], &[(0, 8), (1, 56)]);
        assert_eq!(said.as_deref(), Some("8 of 64 sampled pages are on node 0; asked for was node 1"));
        assert_eq!(mismatch(&[0, 1], &[(0, 40), (1, 24)]), None);
        let said = mismatch(&[0, 1], &[(0, 64)]);
        assert_eq!(said.as_deref(), Some("only 0 of 64 sampled pages are on node 1; asked for was nodes 0, 1"));
    }
}
