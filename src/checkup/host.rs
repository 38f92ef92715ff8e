//! What the host and its limits allow: locked and other memory, the pin budget, huge pages, and memory that peers open.

use std::fs;

use super::{Finding, Rank};
use crate::config::{RouteKind, WhenRefused};
use crate::memory::{self, PageKind, PeerMapping, Pins, Shared};
use crate::sizes::bytes;

/// The findings, when registered memory is pinned or not.
pub(super) fn examine(rank: &Rank<'_>, pins: bool) -> Vec<Finding> {
    vec![memlock(rank, pins), budget(rank, pins), mapped(rank), huge_pages(rank, pins), peers(rank)]
}

/// RLIMIT_MEMLOCK against what is registered at the start.
fn memlock(rank: &Rank<'_>, pins: bool) -> Finding {
    let what = "memlock";
    let limits = Pins::read();
    let Some((limit, left)) = limits.left() else {
        return Finding::ok(what, "unlimited, or the process is exempt");
    };
    let found = Finding::ok(what, format!("RLIMIT_MEMLOCK is {}", bytes(limit)));
    let first = rank.first_bytes();
    match () {
        () if !pins => Finding { found: found.found + ", but the registrar pins nothing", ..found },
        () if left < first && rank.settings.eager_when_refused == WhenRefused::Error => {
            let found =
                Finding { found: format!("{}, and the start registers {}", found.found, bytes(first)), ..found };
            found.fails(limits.advice())
        }
        () => found.warns(limits.advice()),
    }
}

/// The pin budget against what all ranks of the host register at the start.
fn budget(rank: &Rank<'_>, pins: bool) -> Finding {
    let (what, setting, ranks) = ("pin budget", rank.settings.pin_budget, rank.ranks);
    let (memory, file) = memory::memory_to_have();
    let Some(budget) = setting.of(memory) else {
        return Finding::ok(what, "none");
    };
    let of = format!("{} (lunasa.pin_budget = \"{setting}\"; {} by {file})", bytes(budget), bytes(memory));
    if !pins {
        return Finding::ok(what, format!("{of}, not charged: the registrar pins nothing"));
    }
    let found = Finding::ok(what, format!("{of}; {} kept for each rank", bytes(budget / 2 / ranks)));
    let first = rank.first_bytes().saturating_mul(ranks);
    let enough = first <= budget || rank.settings.eager_when_refused == WhenRefused::Lazy;
    if enough {
        return found;
    }
    found.fails(format!(
        "the first blocks of all ranks take {}: raise lunasa.pin_budget, lower lunasa.tcmalloc.min_system_alloc, or use fewer \
         ranks per host",
        bytes(first)
    ))
}

/// Whether the first blocks of all ranks can be mapped.
fn mapped(rank: &Rank<'_>) -> Finding {
    let what = "memory";
    let each = rank.settings.tcmalloc_min_system_alloc as u64;
    let all = (rank.first_blocks().1 * rank.ranks).saturating_mul(each);
    if let Some(refusal) = memory::memory_refusal(all) {
        let (found, advice) = refusal.split_once("; ").unwrap_or((&refusal, "ask for less"));
        return Finding::ok(what, format!("{found}, and the first blocks of all ranks take {}", bytes(all)))
            .fails(advice);
    }
    match memory::cgroup_limit() {
        None => Finding::ok(what, "no cgroup limit"),
        Some((file, limit, left)) => {
            Finding::ok(what, format!("cgroup limit {} ({file}), {{}} MiB left", bytes(limit)))
                .measured([(left >> 20) as f64])
        }
    }
}

/// What pages the first block can expect.
fn huge_pages(rank: &Rank<'_>, pins: bool) -> Finding {
    let what = "huge pages";
    let (mode, node) = (rank.settings.memory_huge_pages, rank.topology.local_node());
    // What the ranks near the same node take from one reserve.
    let near = rank.ranks.div_ceil(rank.topology.nodes().len().max(1) as u64);
    let Ok(len) = usize::try_from(rank.first_bytes().saturating_mul(near).min(isize::MAX as u64 / 4)) else {
        return Finding::ok(what, "not looked at");
    };
    match memory::prospects(len.max(1), node, mode) {
        Err(error) => Finding::failed(what, &error),
        Ok((PageKind::Ordinary, Some(advice))) if pins => {
            Finding::ok(what, "too few for the first blocks: ordinary pages, which cost more to register").warns(advice)
        }
        Ok((kind, _)) => Finding::ok(what, format!("the first blocks get {kind} pages")),
    }
}

/// What the `shm` route and the directory need: a memfd that is opened by its owner's process id.
fn peers(rank: &Rank<'_>) -> Finding {
    let what = "shared memory";
    let (name, len) = (format!("lunasa-doctor-{:016x}", rand::random::<u64>()), 4096);
    let opened = Shared::create(&name, len)
        .and_then(|memory| PeerMapping::open(std::process::id(), memory.fd(), &name, len, true));
    if let Err(error) = opened {
        return Finding::failed(what, &error);
    }
    // SAFETY: only asks.
    let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) } == 1;
    // SAFETY: only asks.
    if !dumpable && unsafe { libc::geteuid() } != 0 {
        return Finding::ok(
            what,
            "this process may not be looked at by the other ranks of its host: it is not dumpable",
        )
        .fails(
            "run a program that is not set-user-ID and has no file capabilities, or call prctl(PR_SET_DUMPABLE, 1)",
        );
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let scope = match scope.trim() {
        "" => String::new(),
        scope => format!(" (ptrace_scope {scope} is no matter: nothing is traced)"),
    };
    let route = if rank.settings.routes.contains(&RouteKind::Shm) { "" } else { "; the route shm is not allowed" };
    Finding::ok(what, format!("memfd and /proc/PID/fd serve{scope}{route}"))
}
