//! Binding a block to a NUMA node, and proving where its pages are.

use std::collections::BTreeMap;
use std::io;
use std::ptr;

use super::limits::bytes;
use super::mapping::Mapping;
use super::pages::PageKind;
use crate::topology::{NodeMemory, Topology};

/// How many pages of a block are asked for their node.
const SAMPLE: usize = 64;

/// Binds `mapping` to `node` before it is touched; says what did not go as asked.
///
/// Reserved huge pages are only preferred to be there: a strict binding that its node's pool cannot meet is a SIGBUS. So
/// are ordinary ones when the node has too little memory left: there a strict binding calls the kernel's killer.
pub(super) fn bind(mapping: &Mapping, kind: PageKind, node: u32, topology: &Topology) -> Option<String> {
    if topology.cpus_of(node).is_none() {
        let ids: Vec<String> = topology.nodes().iter().map(|node| node.id.to_string()).collect();
        return Some(format!("node {node} was asked for, but there are only: {}; not bound", ids.join(", ")));
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
    match set_policy(mapping, policy, node) {
        Err(error) => Some(format!("not bound to node {node}, mbind: {error}; placed by who touched first")),
        Ok(()) => short.map(|left| format!("node {node} has only {} left: preferred, not bound strictly", bytes(left))),
    }
}

fn set_policy(mapping: &Mapping, policy: libc::c_int, node: u32) -> io::Result<()> {
    #[cfg(test)]
    super::faults::pass()?;
    let bits = libc::c_ulong::BITS;
    let mut nodes: Vec<libc::c_ulong> = vec![0; (node / bits) as usize + 1];
    nodes[(node / bits) as usize] = 1 << (node % bits);
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
/// # Errors
/// When the system does not tell, as in some containers.
pub(super) fn find(mapping: &Mapping, page_size: usize) -> io::Result<Vec<(u32, u64)>> {
    let pages = mapping.len() / page_size;
    let sample = pages.min(SAMPLE);
    let addresses: Vec<*mut u8> =
        (0..sample).map(|i| mapping.base().as_ptr().wrapping_add(i * pages / sample * page_size)).collect();
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

/// What to say when pages `found` are not all on the node `asked`.
pub(super) fn mismatch(asked: u32, found: &[(u32, u64)]) -> Option<String> {
    let total: u64 = found.iter().map(|(_, pages)| pages).sum();
    let away: Vec<String> = found
        .iter()
        .filter(|(node, _)| *node != asked)
        .map(|(node, pages)| format!("{pages} of {total} sampled pages are on node {node}"))
        .collect();
    (!away.is_empty()).then(|| format!("{}, not on node {asked}", away.join(", ")))
}
