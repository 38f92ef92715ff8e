//! The device, its port and GID, how far it is, and what a registration costs.

use super::{Finding, Rank};
use crate::config::RegistrarKind;
use crate::instance::choose_registrar;
use crate::registrar::{RegistrarLimits, cost};
use crate::sizes::bytes;
use crate::verbs::{Context, Port, Wanted, distance, node_of};

/// The findings, and whether what will register memory pins it.
pub(super) fn examine(rank: &Rank<'_>) -> (Vec<Finding>, bool) {
    let mut findings = vec![place(rank)];
    findings.extend(device(rank));
    let registrar = match choose_registrar(rank.settings, rank.topology) {
        Ok(registrar) => registrar,
        Err(error) => {
            findings.push(Finding::failed("registration", &error));
            return (findings, true);
        }
    };
    let name = registrar.name();
    findings.push(match cost::measure(&*registrar) {
        Ok(cost) => Finding::ok("registration", format!("{name}: {{}} µs and {{}} µs for each MiB"))
            .measured([cost.fixed_s * 1e6, cost.per_byte_s * 1e6 * 1048576.0]),
        Err(error) => Finding::failed("registration", &error),
    });
    findings.extend(limits(rank, registrar.limits()));
    (findings, registrar.pins())
}

/// What the device allows at most, against the largest block.
fn limits(rank: &Rank<'_>, limits: RegistrarLimits) -> Option<Finding> {
    let regions = limits.regions.map(|most| format!("at most {most} regions"));
    let region = limits.region_bytes.map(|most| format!("at most {} in one", bytes(most)));
    let found: Vec<String> = regions.into_iter().chain(region).collect();
    let found = (!found.is_empty()).then(|| Finding::ok("device limits", found.join(", ")))?;
    let largest = rank.settings.tcmalloc_max_system_alloc as u64;
    Some(match limits.region_bytes.filter(|most| *most < largest) {
        Some(most) => found.fails(format!("set lunasa.tcmalloc.max_system_alloc = \"{}\" or less", bytes(most))),
        None => found,
    })
}

/// Where the rank's cores are.
fn place(rank: &Rank<'_>) -> Finding {
    let nodes = rank.topology.nodes().len();
    match rank.topology.local_node() {
        Some(node) => Finding::ok("NUMA node", format!("{node} of {nodes}")),
        None if nodes <= 1 => Finding::ok("NUMA node", "there is one"),
        None => Finding::ok("NUMA node", format!("the rank's cores are on several of {nodes}"))
            .warns("bind each rank to one: mpirun --bind-to numa (or core), srun --cpu-bind=ldoms"),
    }
}

/// The device that the rank would use.
fn device(rank: &Rank<'_>) -> Vec<Finding> {
    let settings = rank.settings;
    if settings.registrar == RegistrarKind::Host {
        return vec![Finding::ok("device", "not used: lunasa.registrar = \"host\"")];
    }
    let near = rank.topology.local_node();
    match Context::open(&Wanted::of(settings, near)) {
        Ok((context, port)) => {
            let Port { number, ethernet, lid, mtu, gid, .. } = port;
            let link = if ethernet { "Ethernet".to_owned() } else { format!("InfiniBand, LID {lid}") };
            vec![
                Finding::ok("device", context.name()),
                Finding::ok("port", format!("{number}: active, {link}, MTU {mtu}")),
                Finding::ok("GID", gid.to_string()),
                distance_of(context.name(), near),
            ]
        }
        Err(error) if settings.registrar == RegistrarKind::Verbs => vec![Finding::failed("device", &error)],
        Err(error) => {
            let finding = Finding::failed("device", &error);
            let there = std::fs::read_dir("/sys/class/infiniband").is_ok_and(|devices| devices.count() > 0);
            let advice = finding.advice.clone().unwrap_or_default();
            // None is no fault; one that cannot be used probably is.
            vec![if there { finding.warns(advice) } else { Finding::ok("device", "none; the registrar is host") }]
        }
    }
}

fn distance_of(name: &str, near: Option<u32>) -> Finding {
    let what = "device's node";
    match (node_of(name), near) {
        (Some(node), Some(near)) => match distance(near, node) {
            Some(far) if far > 10 => {
                Finding::ok(what, format!("{node}, at distance {far} from the rank's node {near}"))
                    .warns("bind the rank to the device's node, or name a nearer device with lunasa.verbs.device")
            }
            Some(_) => Finding::ok(what, format!("{node}, the rank's own")),
            None => Finding::ok(what, format!("{node}, at unknown distance")),
        },
        (Some(node), None) => Finding::ok(what, node.to_string()),
        (None, _) => Finding::ok(what, "none: it is in software, or the host has one node"),
    }
}
