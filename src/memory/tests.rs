//! Tests of blocks, peers' mappings, locks and the fork guard, on the machine as it is.

#![allow(clippy::unwrap_used)]
use super::mapping::{HUGE, Mapping, page_size};
use super::pages::Pages;
use super::*;
use crate::error::Result;
use crate::topology::Topology;
use proptest::prelude::*;
use std::fs;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::OnceLock;

fn topology() -> &'static Topology {
    static TOPOLOGY: OnceLock<Topology> = OnceLock::new();
    TOPOLOGY.get_or_init(|| Topology::discover().unwrap())
}

fn request(name: &str, len: usize) -> BlockRequest<'_> {
    BlockRequest {
        name,
        len,
        place: Place::Anywhere,
        huge_pages: HugePages::Off,
        touch_threads: 0,
        topology: topology(),
    }
}

fn read(base: NonNull<u8>, at: usize) -> u8 {
    // SAFETY: every caller passes the base of a live mapping that is longer than `at`.
    unsafe { base.as_ptr().add(at).read_volatile() }
}

fn write(base: NonNull<u8>, at: usize, value: u8) {
    // SAFETY: as in `read`, and the mapping is writable.
    unsafe { base.as_ptr().add(at).write_volatile(value) }
}

/// Runs `f` in a forked child; what it returns as an error, or a panic, fails the test.
fn in_child(f: impl FnOnce() -> Result<(), String>) {
    let (mut from_child, to_parent) = std::io::pipe().unwrap();
    // SAFETY: the child runs `f` alone and leaves by `_exit`; the C library's allocator is usable after a fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: only makes a child that hangs end.
        unsafe { libc::alarm(60) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        let text = result.unwrap_or_else(|_| Err("panicked".into())).err().unwrap_or_else(|| "fine".into());
        std::io::Write::write_all(&mut &to_parent, text.as_bytes()).ok();
        // SAFETY: ends the child without running the parent's destructors in it.
        unsafe { libc::_exit(0) };
    }
    drop(to_parent);
    let text = std::io::read_to_string(&mut from_child).unwrap();
    let mut status = 0;
    // SAFETY: `status` is writable, and the child is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!((text.as_str(), status), ("fine", 0));
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// How many descriptors and mappings this process has whose text holds `name`.
fn traces(name: &str) -> (usize, usize) {
    let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let fds = fds.filter(|target| target.to_string_lossy().contains(name)).count();
    (fds, maps.lines().filter(|line| line.contains(name)).count())
}

/// How many descriptors and mapped bytes this process has.
fn counts() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let number = |hex| usize::from_str_radix(hex, 16).unwrap();
    let bytes = maps.lines().map(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        number(to) - number(from)
    });
    (traces("").0, bytes.sum())
}

#[test]
fn a_block_leaves_no_descriptor_and_no_mapping() {
    let name = "lunasa-test-traces";
    for (len, huge_pages) in [(5000, HugePages::Off), (5 << 20, HugePages::Off), (5 << 20, HugePages::Auto)] {
        let block = Block::map(&BlockRequest { huge_pages, ..request(name, len) }).unwrap();
        let peer = PeerMapping::open(std::process::id(), block.fd(), name, block.len(), true).unwrap();
        assert_eq!(traces(name), (1, 2));
        drop(block);
        assert_eq!(traces(name), (0, 1), "the peer's mapping stays");
        drop(peer);
        assert_eq!(traces(name), (0, 0));
    }
}

#[test]
fn mapping_and_failing_again_and_again_leaves_everything_as_it_was() {
    // In a child with one thread, where no other test maps anything; the first round may fill caches.
    in_child(|| {
        let mut before = None;
        // Lengths that end differently, so that a part left over of one mapping does not fit the next.
        for round in 0..6 {
            for (len, touch_threads) in [(4096, 1), (3 << 20, 1), (8 << 20, 3), (9_000_000, 2)] {
                let request =
                    BlockRequest { touch_threads, huge_pages: HugePages::Auto, ..request("lunasa-rounds", len) };
                let block = Block::map(&request).map_err(|e| e.to_string())?;
                let peer = |name, len| PeerMapping::open(std::process::id(), block.fd(), name, len, true);
                check(peer("lunasa-other", block.len()).is_err(), || "wrong name".into())?;
                check(peer("lunasa-rounds", len + 1).is_err(), || "wrong length".into())?;
                check(Block::map(&BlockRequest { len: 1 << 60, ..request }).is_err(), || "too long".into())?;
            }
            if round == 2 {
                before = Some(counts());
            }
        }
        check(before == Some(counts()), || format!("{before:?} became {:?}", counts()))
    });
}

#[test]
fn a_block_is_zeros_rounded_aligned_and_keeps_its_length() {
    for len in [1, page_size(), page_size() + 1, HUGE, 3 * HUGE + 1] {
        let block = Block::map(&request("lunasa-shape", len)).unwrap();
        assert_eq!(block.len(), len.next_multiple_of(page_size()));
        let align = if len >= HUGE { HUGE } else { page_size() };
        assert_eq!(block.base().as_ptr() as usize % align, 0);
        assert!((0..block.len()).step_by(97).all(|at| read(block.base(), at) == 0));
        // SAFETY: takes numbers only, and is to fail.
        assert_eq!(unsafe { libc::ftruncate(block.fd(), 0) }, -1, "a peer could shorten it");
    }
}

#[test]
fn every_page_is_there_before_its_first_use() {
    for (touch_threads, len) in [(0, 9 << 20), (1, 4096), (3, 9 << 20), (64, 8192)] {
        let block = Block::map(&BlockRequest { touch_threads, ..request("lunasa-present", len) }).unwrap();
        assert_all_present(block.base(), block.len());
    }
}

fn assert_all_present(base: NonNull<u8>, len: usize) {
    let mut present = vec![0u8; len.div_ceil(page_size())];
    // SAFETY: the vector has a byte for each page of the range.
    assert_eq!(unsafe { libc::mincore(base.as_ptr().cast(), len, present.as_mut_ptr()) }, 0);
    assert!(present.iter().all(|page| page & 1 == 1));
}

#[test]
fn kernels_that_cannot_populate_are_served_too() {
    // Reserved huge pages where this machine has some.
    let reserved = pages::choices("lunasa-old", 1, None, HugePages::Require).map(|(kinds, _)| kinds[0]);
    for pages in [Some(Pages::ordinary()), reserved.ok()].into_iter().flatten() {
        let len = 7 * pages.size;
        let file = block::create("lunasa-old", pages.kind, len).unwrap();
        let mapping = Mapping::shared(file.as_fd(), len, pages.size, true).unwrap();
        assert_eq!(placement::find(&mapping, pages.size, 1).unwrap(), [], "nothing is there before");
        touch::touch(&mapping, file.as_fd(), pages, touch::Method::Write, 3, topology().cpus()).unwrap();
        assert_eq!(
            placement::find(&mapping, pages.size, 1).unwrap().iter().map(|(_, n)| n).sum::<u64>(),
            7,
            "{pages:?}"
        );
    }
}

#[test]
fn a_child_writes_into_the_same_memory_and_its_drop_leaves_the_parents() {
    let block = Block::map(&request("lunasa-forked", 1 << 16)).unwrap();
    let base = block.base();
    let mut block = Some(block);
    in_child(|| {
        write(base, 4321, 77);
        block.take();
        check(traces("lunasa-forked") == (0, 0), || "not released in the child".into())
    });
    assert_eq!(read(base, 4321), 77);
    assert!(block.is_some());
}

#[test]
fn a_peers_mapping_is_the_same_memory() {
    let block = Block::map(&request("lunasa-peer", 3 << 20)).unwrap();
    let (pid, len) = (std::process::id(), block.len());
    let writable = PeerMapping::open(pid, block.fd(), block.name(), len, true).unwrap();
    let readable = PeerMapping::open(pid, block.fd(), block.name(), len, false).unwrap();
    assert_eq!((writable.len(), readable.len()), (len, len));
    write(writable.base(), len - 1, 9);
    write(block.base(), 0, 8);
    assert_eq!((read(readable.base(), 0), read(readable.base(), len - 1)), (8, 9));
    in_child(|| {
        let theirs = PeerMapping::open(pid, block.fd(), "lunasa-peer", len, true).map_err(|e| e.to_string())?;
        write(theirs.base(), 5, 55);
        Ok(())
    });
    drop(block);
    assert_eq!(read(readable.base(), 5), 55, "it outlives its owner's mapping");
}

#[test]
fn what_is_not_the_peers_block_is_refused_by_what_it_is() {
    let block = Block::map(&request("lunasa-proof", 8192)).unwrap();
    let file = tempfile::NamedTempFile::with_prefix("memfd").unwrap();
    let (pid, fd, len) = (std::process::id(), block.fd(), block.len());
    let refused = |pid, fd, name: &str, len| PeerMapping::open(pid, fd, name, len, false).unwrap_err().to_string();
    let cases = [
        (refused(pid, fd, "lunasa-proo", len), "another file"),
        (refused(pid, fd, "lunasa-proof2", len), "/memfd:lunasa-proof (deleted)"),
        (refused(pid, fd, "lunasa-proof", len - 4096), "has 8 KiB, not the 4 KiB"),
        (refused(pid, fd, "lunasa-proof", 0), "not the 0 B"),
        (refused(pid, 1_000_000, "lunasa-proof", len), "no such process or descriptor"),
        (refused(pid, -1, "lunasa-proof", len), "no such process or descriptor"),
        (refused(u32::MAX, fd, "lunasa-proof", len), "no such process or descriptor"),
        (refused(pid, std::os::fd::AsRawFd::as_raw_fd(&file), "lunasa-proof", len), "another file"),
    ];
    for (error, part) in cases {
        assert!(error.contains(part) && error.contains("lunasa-proo"), "{part}: {error}");
    }
}

#[test]
fn a_block_is_found_where_it_was_asked_for() {
    for node in topology().nodes() {
        let request = BlockRequest {
            place: Place::Node(node.id),
            huge_pages: HugePages::Auto,
            ..request("lunasa-node", 8 << 20)
        };
        let block = Block::map(&request).unwrap();
        let report = block.report();
        let sampled = (block.len() as u64 / report.page_bytes).min(64);
        assert_eq!((&report.nodes_found, report.node_asked), (&vec![(node.id, sampled)], Some(node.id)), "{report:?}");
    }
}

#[test]
fn interleaved_pages_are_on_all_nodes_alike() {
    for huge_pages in [HugePages::Off, HugePages::Auto] {
        let request = BlockRequest { place: Place::Interleaved, huge_pages, ..request("lunasa-round", 16 << 20) };
        let block = Block::map(&request).unwrap();
        let (report, nodes) = (block.report(), topology().memory_nodes());
        assert_eq!((report.node_asked, &report.interleaved), (None, &nodes));
        assert_eq!(report.nodes_found.iter().map(|(node, _)| *node).collect::<Vec<_>>(), nodes, "{report:?}");
        let pages = || report.nodes_found.iter().map(|(_, pages)| *pages);
        assert!(pages().max() <= pages().min().map(|least| least + 1), "{report:?}");
        assert!(!report.note.as_ref().is_some_and(|note| note.contains("asked for was")), "{report:?}");
    }
}

#[test]
fn an_absent_node_is_a_note() {
    let block = Block::map(&BlockRequest { place: Place::Node(777), ..request("lunasa-absent", 1 << 16) }).unwrap();
    let note = block.report().note.as_deref().unwrap();
    assert!(note.contains("node 777 was asked for, but there are only: "), "{note}");
    assert!(note.contains("asked for was node 777"), "{note}");
}

#[test]
fn required_huge_pages_are_got_or_the_error_says_how_to_reserve_them() {
    let place = topology().local_node().map_or(Place::Anywhere, Place::Node);
    // More than any test machine has reserved.
    let request = BlockRequest { huge_pages: HugePages::Require, place, ..request("lunasa-required", 1 << 45) };
    let error = Block::map(&request).unwrap_err().to_string();
    for part in ["\"lunasa-required\"", "are needed, and of", "are free", "nr_hugepages", "`auto` or `off`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    match Block::map(&BlockRequest { len: 1, ..request }) {
        Ok(block) => {
            assert_eq!(block.report().page_kind, PageKind::HugeReserved);
            assert!(block.len() >= HUGE && block.len() as u64 == block.report().page_bytes);
        }
        Err(error) => assert!(error.to_string().contains("are needed"), "{error}"),
    }
}

#[test]
fn huge_pages_that_are_reported_are_there() {
    let block = Block::map(&BlockRequest { huge_pages: HugePages::Auto, ..request("lunasa-huge", 4 * HUGE) }).unwrap();
    let report = block.report();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mapping = smaps.split("memfd:lunasa-huge (deleted)").nth(1).unwrap();
    let kib = |key: &str| -> u64 {
        let line = mapping.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    match report.page_kind {
        PageKind::HugeReserved => assert_eq!(kib("KernelPageSize:") * 1024, report.page_bytes),
        PageKind::HugeTransparent => assert!(kib("ShmemPmdMapped:") > 0),
        PageKind::Ordinary => assert_eq!(kib("ShmemPmdMapped:"), 0),
    }
    assert_all_present(block.base(), block.len());
}

#[test]
fn what_cannot_be_is_refused_with_its_limits() {
    let error = |request: BlockRequest<'_>| Block::map(&request).unwrap_err().to_string();
    assert!(error(request("lunasa-none", 0)).contains("a length of 0 bytes"));
    assert!(error(request("lunasa-most", usize::MAX)).contains("cannot be mapped"));
    assert!(error(request("nul\0", 1)).contains("none of them NUL"));
    assert!(error(request(&"x".repeat(250), 1)).contains("at most 249 bytes"));
    assert!(Block::map(&request(&"x".repeat(249), 1)).is_ok());
    let large = error(request("lunasa-large", 1 << 50));
    for part in ["\"lunasa-large\" of 1024 TiB", "not mapped", "MemAvailable", "RLIMIT_AS", "ask for less"] {
        assert!(large.contains(part), "{part}: {large}");
    }
}

fn limit(resource: libc::__rlimit_resource_t, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the struct is only read.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

/// Makes a child with one thread subject to the limits that root is exempt from.
fn become_unprivileged() -> Result<(), String> {
    // SAFETY: takes a number; the child has no other thread.
    let done = unsafe { libc::getuid() != 0 || libc::setuid(65_534) == 0 };
    check(done, || "cannot become another user".into())
}

#[test]
fn resource_limits_are_errors_that_name_them() {
    in_child(|| {
        limit(libc::RLIMIT_FSIZE, 1 << 20);
        let error = Block::map(&request("lunasa-file", 2 << 20)).unwrap_err().to_string();
        check(error.contains("RLIMIT_FSIZE is 1 MiB"), || error)?;
        check(Block::map(&request("lunasa-file", 1 << 20)).is_ok(), || "within the limit".into())
    });
    in_child(|| {
        limit(libc::RLIMIT_AS, 1 << 20);
        let error = Block::map(&request("lunasa-space", 64 << 20)).unwrap_err().to_string();
        check(error.contains("mmap: Cannot allocate memory") && error.contains("RLIMIT_AS 1 MiB"), || error)
    });
    in_child(|| {
        limit(libc::RLIMIT_NOFILE, 3);
        let error = Block::map(&request("lunasa-open", 1 << 16)).unwrap_err().to_string();
        check(error.contains("memfd") && error.contains("`ulimit -n`"), || error)
    });
}

#[test]
fn without_more_threads_the_caller_touches() {
    in_child(|| {
        limit(libc::RLIMIT_NPROC, 1);
        become_unprivileged()?;
        check(std::thread::Builder::new().spawn(|| ()).is_err(), || "there are more threads".into())?;
        let block = Block::map(&BlockRequest { touch_threads: 3, ..request("lunasa-alone", 9 << 20) });
        let block = block.map_err(|e| e.to_string())?;
        assert_all_present(block.base(), block.len());
        Ok(())
    });
}

#[test]
fn a_lock_over_the_limit_names_it_and_what_to_change() {
    let block = Block::map(&request("lunasa-locked", 1 << 20)).unwrap();
    lock(block.base(), 4096).unwrap();
    unlock(block.base(), 4096).unwrap();
    in_child(|| {
        limit(libc::RLIMIT_MEMLOCK, 64 << 10);
        become_unprivileged()?;
        let error = lock(block.base(), 1 << 20).unwrap_err().to_string();
        for part in
            ["cannot lock 1 MiB", "RLIMIT_MEMLOCK is 64 KiB", "ulimit -l", "limits.conf", "PropagateResourceLimits"]
        {
            check(error.contains(part), || format!("{part}: {error}"))?;
        }
        lock(block.base(), 32 << 10).map_err(|e| e.to_string())
    });
    let base = block.base();
    let mut block = Some(block);
    // In a child, where no other thread maps anything at the address meanwhile.
    in_child(|| {
        block.take();
        let error = lock(base, 4096).unwrap_err().to_string();
        check(error.contains("not mapped") && unlock(base, 4096).is_err(), || error)
    });
}

#[test]
fn only_a_forked_child_is_one() {
    install_fork_guard();
    install_fork_guard();
    assert!(!in_forked_child());
    in_child(|| check(in_forked_child(), || "the child does not know".into()));
    assert!(!in_forked_child());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn placement_counts_each_sampled_page_once(pages in 1usize..300, threads in 0usize..4) {
        let request = BlockRequest { touch_threads: threads, ..request("lunasa-sample", pages * page_size()) };
        let block = Block::map(&request).unwrap();
        let found = &block.report().nodes_found;
        prop_assert_eq!(found.iter().map(|(_, count)| count).sum::<u64>(), pages.min(64) as u64);
        prop_assert!(found.iter().all(|(node, _)| topology().nodes().iter().any(|n| n.id == *node)));
    }

    #[test]
    fn every_byte_of_an_aligned_mapping_is_the_files(pages in 1usize..40, align in 0u32..6) {
        let file = tempfile::tempfile().unwrap();
        let len = pages * page_size();
        file.set_len(len as u64).unwrap();
        let align = page_size() << (2 * align);
        let mapping = Mapping::shared(file.as_fd(), len, align, true).unwrap();
        prop_assert_eq!((mapping.base().as_ptr() as usize % align, mapping.len()), (0, len));
        write(mapping.base(), len - 1, 3);
        let again = Mapping::shared(file.as_fd(), len, page_size(), false).unwrap();
        prop_assert_eq!(read(again.base(), len - 1), 3);
    }
}
