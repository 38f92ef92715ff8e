//! Who is where: for every rank its node id, its host, and how its memory is reached. One copy per host.
//!
//! The directory lies in a memfd that the first rank of a host makes and the others map read-only: a line of 64 bytes per
//! host, then one per rank. No rank keeps a copy. Its bytes are written before the others map it and never again. What it
//! is and whose is said by its name and length, which are checked when it is mapped.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Result};
use crate::memory::{OfHost, PeerMapping, Shared};
use crate::node_id::NodeId;
use crate::registrar::{Network, Region};

const LINE: usize = 64;

/// One rank, as it tells the others of itself.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Entry {
    address: [u8; 16],
    port: u16,
    /// The kind of network that its RDMA device is on ([`Network`]).
    pub link: u16,
    host: u32,
    /// Process id, as its host's ranks see it.
    pub pid: u32,
    /// Descriptor of its table of regions in that process.
    pub regions_fd: i32,
    first_base: u64,
    first_len: u64,
    first_key: u32,
    first_generation: u32,
    rank: u32,
    /// How many ranks of its host come before it.
    pub place: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HostEntry {
    key: u64,
    first_rank: u32,
    ranks: u32,
    /// The host's name, cut at 48 bytes, filled up with zeros.
    name: [u8; 48],
}

const _: () = assert!(size_of::<Entry>() == LINE && size_of::<HostEntry>() == LINE);

/// What one host contributes: its own line, then its ranks'.
pub(crate) type HostPart = Vec<u8>;

impl Entry {
    /// This rank, with the region that holds its first eager block.
    pub(crate) fn new(node: NodeId, regions_fd: i32, first: Option<Region>, network: Network) -> Self {
        let (address, port) = node.parts();
        Self {
            address,
            port,
            link: network as u16,
            host: 0,
            pid: std::process::id(),
            regions_fd,
            first_base: first.map_or(0, |region| region.base().addr() as u64),
            first_len: first.map_or(0, |region| region.len() as u64),
            first_key: first.map_or(0, |region| region.keys().remote),
            first_generation: first.map_or(0, |region| region.generation()),
            rank: node.rank(),
            place: 0,
        }
    }
}

/// Puts the entries of one host's ranks (in their order) behind the host's own line.
pub(crate) fn host_part(key: u64, name: &str, entries: &[u8]) -> Result<HostPart> {
    let entries = <[Entry]>::ref_from_bytes(entries).map_err(|_| damaged("entries of a host"))?;
    let first_rank = entries.first().ok_or_else(|| damaged("a host without ranks"))?.rank;
    let mut line = HostEntry { key, first_rank, ranks: entries.len() as u32, name: [0; 48] };
    let cut = (0..=line.name.len().min(name.len())).rfind(|&at| name.is_char_boundary(at)).unwrap_or(0);
    line.name[..cut].copy_from_slice(&name.as_bytes()[..cut]);
    let mut part = line.as_bytes().to_vec();
    for (place, entry) in entries.iter().enumerate() {
        part.extend_from_slice(Entry { place: place as u32, ..*entry }.as_bytes());
    }
    Ok(part)
}

fn damaged(what: &str) -> Error {
    Error::Launch(format!("the exchange at start delivered {what} that do not fit; do all ranks run the same program?"))
}

/// The directory, as every rank sees it.
#[derive(Debug)]
pub(crate) struct Directory {
    memory: OfHost,
    ranks: u32,
    hosts: u32,
    me: u32,
}

/// How the ranks of a host find the directory that the first of them made.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Whereabouts {
    hosts: u32,
    ranks: u32,
    pid: u32,
    fd: i32,
}

impl Whereabouts {
    fn bytes(&self) -> usize {
        LINE * (self.hosts as usize + self.ranks as usize)
    }
}

fn memory_name(run: u64) -> String {
    format!("lunasa-{run:016x}-directory")
}

impl Directory {
    /// Makes the directory of this host from the parts of all hosts.
    pub(crate) fn create(run: u64, me: u32, ranks: u32, parts: &[&[u8]]) -> Result<Self> {
        let mut hosts: Vec<(HostEntry, &[Entry])> = Vec::with_capacity(parts.len());
        for part in parts {
            let (line, entries) = HostEntry::read_from_prefix(part).map_err(|_| damaged("a host's line"))?;
            hosts.push((line, <[Entry]>::ref_from_bytes(entries).map_err(|_| damaged("entries of a host"))?));
        }
        hosts.sort_by_key(|(line, _)| line.first_rank);
        let len = LINE * (hosts.len() + ranks as usize);
        let shared = Shared::create(&memory_name(run), len)?;
        // SAFETY: ours alone until the others are told of it; mapped for that many lines, page-aligned.
        let bytes = unsafe { std::slice::from_raw_parts_mut(shared.base().as_ptr(), len) };
        let (lines, _) = bytes.as_chunks_mut::<LINE>();
        let mut seen = 0;
        for (index, (line, entries)) in hosts.iter().enumerate() {
            lines[index].copy_from_slice(line.as_bytes());
            for entry in *entries {
                let at = (entry.rank < ranks).then_some(hosts.len() + entry.rank as usize);
                let at = at.ok_or_else(|| damaged("a rank beyond the last"))?;
                lines[at].copy_from_slice(Entry { host: index as u32, ..*entry }.as_bytes());
                seen += 1;
            }
        }
        if seen != ranks {
            return Err(damaged("more or fewer ranks"));
        }
        Ok(Self { hosts: hosts.len() as u32, memory: OfHost::Own(shared), ranks, me })
    }

    /// What the others of this host need to open it.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        Whereabouts { hosts: self.hosts, ranks: self.ranks, pid: std::process::id(), fd: self.memory.fd() }
    }

    /// Opens the directory that the first rank of this host made.
    pub(crate) fn open(run: u64, me: u32, at: Whereabouts) -> Result<Self> {
        if me >= at.ranks {
            return Err(damaged("a directory"));
        }
        let mapping = PeerMapping::open(at.pid, at.fd, &memory_name(run), at.bytes(), false)?;
        let Whereabouts { ranks, hosts, .. } = at;
        Ok(Self { memory: OfHost::Peer(mapping), ranks, hosts, me })
    }

    fn base(&self) -> *const u8 {
        self.memory.base().as_ptr()
    }

    /// Bytes of this host's copy.
    pub(crate) fn bytes(&self) -> usize {
        LINE * (self.hosts as usize + self.ranks as usize)
    }

    pub(crate) fn ranks(&self) -> u32 {
        self.ranks
    }

    pub(crate) fn hosts(&self) -> u32 {
        self.hosts
    }

    /// A rank's entry; `None` when there is no such rank.
    pub(crate) fn entry(&self, rank: u32) -> Option<&Entry> {
        let at = LINE * (self.hosts as usize + rank as usize);
        // SAFETY: within the mapping for a rank that there is, aligned to 64, never written again.
        (rank < self.ranks).then(|| unsafe { &*self.base().add(at).cast::<Entry>() })
    }

    fn host(&self, index: u32) -> Option<&HostEntry> {
        // SAFETY: within the mapping for a host that there is, aligned to 64, never written again.
        (index < self.hosts).then(|| unsafe { &*self.base().add(LINE * index as usize).cast::<HostEntry>() })
    }

    /// Where a rank's endpoint answers.
    pub(crate) fn node(&self, rank: u32) -> Option<NodeId> {
        self.entry(rank).map(|entry| NodeId::from_parts(rank, entry.address, entry.port))
    }

    /// Name of a rank's host; empty when there is no such rank.
    pub(crate) fn host_name(&self, rank: u32) -> &str {
        let name = self.entry(rank).and_then(|entry| self.host(entry.host)).map_or(&[][..], |host| &host.name);
        std::str::from_utf8(name).unwrap_or_default().trim_end_matches('\0')
    }

    /// Whether the rank is on this host: its memory can be mapped here.
    pub(crate) fn is_here(&self, rank: u32) -> bool {
        match (self.entry(rank), self.entry(self.me)) {
            (Some(peer), Some(me)) => peer.host == me.host,
            _ => false,
        }
    }

    /// Number of ranks on this host.
    pub(crate) fn ranks_here(&self) -> u32 {
        self.entry(self.me).and_then(|me| self.host(me.host)).map_or(1, |host| host.ranks)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn part(name: &str, ranks: &[u32]) -> HostPart {
        let entries: Vec<Entry> = ranks
            .iter()
            .map(|&rank| {
                Entry::new(NodeId::new(rank, Some(([10, 0, 0, 1], 1990 + rank as u16).into())), 9, None, Network::None)
            })
            .collect();
        host_part(name.len() as u64, name, entries.as_bytes()).unwrap()
    }

    #[test]
    fn ranks_of_a_host_share_one_copy_of_64_bytes_each() {
        let (long, short) = ("a-host-whose-name-is-longer-than-forty-eight-bytes.example", "b");
        let parts = [part(short, &[1, 3]), part(long, &[0, 2, 4])];
        let own = Directory::create(5, 3, 5, &[&parts[0], &parts[1]]).unwrap();
        assert_eq!(own.bytes(), 64 * (2 + 5));
        let other = Directory::open(5, 1, own.whereabouts()).unwrap();
        for directory in [&own, &other] {
            assert_eq!(directory.host_name(0), &long[..48]);
            assert_eq!(directory.host_name(3), "b");
            assert_eq!(directory.node(3).unwrap().url(), "http://10.0.0.1:1993/");
            assert!(directory.is_here(1) && !directory.is_here(2) && !directory.is_here(5));
            assert_eq!(directory.ranks_here(), 2);
            assert_eq!(directory.entry(4).unwrap().place, 2);
            assert!(directory.entry(5).is_none());
        }
        assert!(Directory::open(6, 1, own.whereabouts()).is_err(), "of another run");
    }

    #[test]
    fn a_host_has_at_most_128_bytes_for_each_rank_of_the_job() {
        for ranks in [1u32, 2, 8] {
            let all: Vec<u32> = (0..ranks).collect();
            let together = part("a", &all);
            assert_eq!(Directory::create(5, 0, ranks, &[&together]).unwrap().bytes(), 64 * (1 + ranks as usize));
            // The most there can be: every rank on a host of its own.
            let apart: Vec<HostPart> = all.iter().map(|&rank| part(&format!("{rank}"), &[rank])).collect();
            let apart: Vec<&[u8]> = apart.iter().map(Vec::as_slice).collect();
            assert_eq!(Directory::create(5, 0, ranks, &apart).unwrap().bytes(), 128 * ranks as usize);
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let part = part("a", &[0, 7]);
        assert!(Directory::create(5, 0, 2, &[&part]).is_err());
        assert!(Directory::create(5, 0, 3, &[&part[..part.len() - 1]]).is_err());
        assert!(Directory::create(5, 0, 2, &[]).is_err());
        assert!(host_part(0, "a", &[]).is_err());
    }
}
