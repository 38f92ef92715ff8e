//! The machine as a picture: its NUMA nodes, their cores, and which of them are the rank's.

use maud::{Markup, html};

use super::elements::{bar, many};
use super::pretty;
use crate::snapshot::{NodeInfo, Snapshot};

/// Cores in a row.
const ROW: usize = 16;
/// Distance from one core to the next, and the side of its square.
const STEP: usize = 12;
const SIDE: usize = 10;

pub(super) fn machine(snapshot: &Snapshot) -> Markup {
    let machine = &snapshot.machine;
    let own: usize = machine.nodes.iter().map(|node| node.own_cpus.len()).sum();
    let all: usize = machine.nodes.iter().map(|node| node.cpus.len()).sum();
    html! {
        p {
            @if machine.nodes.is_empty() {
                "The machine does not tell its NUMA nodes."
            } @else if machine.bound {
                "This rank is bound to " (own) " of " (many(all as u64, "core")) "."
            } @else {
                "This rank may run on all " (many(all as u64, "core")) ": it is not bound."
            }
        }
        div.cards { @for node in &machine.nodes { (node_card(node, snapshot)) } }
    }
}

fn node_card(node: &NodeInfo, snapshot: &Snapshot) -> Markup {
    let rows = node.cpus.len().div_ceil(ROW).max(1);
    let words = format!("{} of {} cores of node {} are this rank's", node.own_cpus.len(), node.cpus.len(), node.node);
    let here = snapshot.blocks.iter().map(|block| bytes_on(block, node.node)).sum::<u64>();
    let taken = node.memory_bytes.saturating_sub(node.free_bytes);
    let (ours, others) = (here.min(taken), taken.saturating_sub(here));
    let memory = format!("{} of {} free", pretty::bytes(node.free_bytes), pretty::bytes(node.memory_bytes));
    html! {
        article.node {
            h3 {
                "Node " (node.node)
                @if snapshot.rank.numa_node == Some(node.node) { " " span.quiet { "nearest to this rank" } }
            }
            @if node.cpus.is_empty() {
                p.quiet { "Memory only, no cores." }
            } @else {
                svg.cores role="img" aria-label=(words) viewBox={ "0 0 " (ROW * STEP) " " (rows * STEP) } {
                    @for (i, cpu) in node.cpus.iter().enumerate() {
                        rect class=[node.own_cpus.contains(cpu).then_some("own")] x=(i % ROW * STEP + 1) y=(i / ROW * STEP + 1)
                            width=(SIDE) height=(SIDE) rx="2" { title { "core " (cpu) } }
                    }
                }
                p.quiet { (words) }
            }
            @if node.memory_bytes > 0 {
                (bar(&memory, &[("asked", ours), ("others", others)], node.memory_bytes))
                ul.legend {
                    li.asked { (pretty::bytes(here)) " in this rank's blocks" }
                    li.others { (pretty::bytes(others)) " of all others" }
                    li.free { (memory) }
                }
            }
        }
    }
}

/// Bytes of a block on a node, as far as its sampled pages tell; all of it on the node asked for when none was sampled.
fn bytes_on(block: &crate::snapshot::BlockInfo, node: u32) -> u64 {
    let sampled: u64 = block.nodes_found.iter().map(|(_, pages)| pages).sum();
    let found = block.nodes_found.iter().find(|(id, _)| *id == node).map_or(0, |(_, pages)| *pages);
    match sampled {
        0 if block.node_asked == Some(node) => block.bytes,
        0 => 0,
        _ => (block.bytes as f64 * found as f64 / sampled as f64) as u64,
    }
}
