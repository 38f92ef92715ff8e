//! `/lunasa/blocks`: every block, what of it is taken, and where its pages are.

use maud::{Markup, html};

use super::elements::{address, count, many, size, table, text, yes};
use super::{Part, pretty};
use crate::snapshot::{BlockInfo, BlockMap, Snapshot};

/// Cells of the map of one block.
pub(in super::super) const CELLS: usize = 128;
/// Blocks that are drawn, at most.
const DRAWN: usize = 500;

pub(in super::super) fn blocks(snapshot: &Snapshot, maps: &[BlockMap]) -> Vec<Part> {
    vec![Part::new("map", "Map", map(snapshot, maps)), Part::new("blocks", "Where they are", block_table(snapshot))]
}

fn map(snapshot: &Snapshot, maps: &[BlockMap]) -> Markup {
    if snapshot.blocks.is_empty() {
        return html! { p.quiet { "No block is mapped." } };
    }
    let of = |block: &BlockInfo| maps.iter().find(|map| map.address == block.address && map.pool == block.pool);
    html! {
        ul.legend {
            li.asked { "live" }
            li.cached { "kept for reuse" }
            li.free { "free" }
        }
        @if snapshot.blocks.len() > DRAWN {
            p.quiet { "The first " (DRAWN) " of " (many(snapshot.blocks.len() as u64, "block")) " are drawn." }
        }
        div.blocks {
            @for block in snapshot.blocks.iter().take(DRAWN) {
                figure {
                    figcaption {
                        (block.pool) " " (address(block.address)) " " span.quiet { (size(block.bytes)) }
                    }
                    @match of(block) {
                        Some(map) => (strip(block, &map.cells)),
                        None => p.quiet { "Mapped just now." },
                    }
                }
            }
        }
    }
}

/// A block from its first byte to its last: live bytes from below, those kept for reuse on them.
fn strip(block: &BlockInfo, cells: &[(u8, u8)]) -> Markup {
    let mean = |of: fn(&(u8, u8)) -> u8| {
        cells.iter().map(|cell| u64::from(of(cell))).sum::<u64>() as f64 / cells.len().max(1) as f64
    };
    let words = format!(
        "Block of {}: {:.0} % live, {:.0} % kept for reuse, the rest free",
        pretty::bytes(block.bytes),
        mean(|cell| cell.0),
        mean(|cell| cell.1)
    );
    let column = |from: u8, height: u8, at: usize| match height {
        0 => String::new(),
        _ => format!("M{at} {}v-{height}h1v{height}z", 100 - u32::from(from)),
    };
    let live: String = cells.iter().enumerate().map(|(at, (live, _))| column(0, *live, at)).collect();
    let kept: String = cells.iter().enumerate().map(|(at, (live, kept))| column(*live, *kept, at)).collect();
    html! {
        svg.strip role="img" aria-label=(words) viewBox={ "0 0 " (cells.len()) " 100" } preserveAspectRatio="none" {
            path.asked d=(live) {}
            path.cached d=(kept) {}
        }
    }
}

/// Every block with its place.
fn block_table(snapshot: &Snapshot) -> Markup {
    table(
        "Blocks",
        &["Pool", "#Size", "#Used", "Node", "Pages", "Registered", "Address", "Note"],
        None,
        snapshot.blocks.iter().map(|block| {
            vec![
                text(&block.pool),
                size(block.bytes),
                size(block.used_bytes),
                placement(block),
                html! { (size(block.page_bytes)) " " span.quiet { (block.page_kind) } },
                yes(block.registered),
                address(block.address),
                html! { @if let Some(note) = &block.note { span.warn.note { (note) } } },
            ]
        }),
    )
}

/// The NUMA node asked for, and where the sampled pages were found when that is not simply there.
fn placement(block: &BlockInfo) -> Markup {
    let asked = match (block.node_asked, block.interleaved.as_slice()) {
        (Some(node), _) => node.to_string(),
        (None, []) => "any".to_string(),
        (None, nodes) => format!("all of {}", nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    };
    let sampled = block.nodes_found.iter().map(|(_, pages)| pages).sum();
    let all_there = block.nodes_found.iter().all(|(node, _)| Some(*node) == block.node_asked);
    html! {
        (asked)
        @if block.nodes_found.is_empty() {
            span.quiet { " not verified" }
        } @else if all_there {
            span.quiet { " verified" }
        } @else {
            span class=[block.node_asked.is_some().then_some("warn")] {
                " found "
                @for (i, (node, pages)) in block.nodes_found.iter().enumerate() {
                    @if i > 0 { ", " }
                    (count(*pages)) " of " (count(sampled)) " on " (node)
                }
            }
        }
    }
}
