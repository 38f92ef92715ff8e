//! `/lunasa` and below: pools, size classes, blocks, registrations, live objects.

use maud::{Markup, html};

use super::super::pretty;
use super::{address, bar, count, facts, many, page, size, table, text, yes};
use crate::snapshot::{BlockInfo, ObjectInfo, PoolInfo, RankInfo, RegistrationCost, Snapshot};

pub(in super::super) fn memory(snapshot: &Snapshot) -> Markup {
    let registrations = &snapshot.registrations;
    let body = html! {
        p { a href="/lunasa?format=json" { "As JSON" } }
        section { h2 { "Pools" } (pool_cards(snapshot)) }
        @for pool in &snapshot.pools { section { h2 { "Size classes, " (pool.name) } (class_table(pool)) } }
        section { h2 { "Blocks" } (block_table(snapshot)) }
        section {
            h2 { "Registrations" }
            (facts(&[
                ("Done", count(registrations.done)),
                ("Avoided by reuse", html! { (count(registrations.avoided)) " of " (size(registrations.avoided_bytes)) }),
                ("Time in the registrar", text(pretty::moment(registrations.spent_s))),
                ("One costs", cost(registrations.cost)),
                ("Time saved", registrations.saved_s.map_or(text("not known"), |saved| text(pretty::moment(saved)))),
                ("Regions now", count(registrations.regions)),
                ("Bytes now", size(registrations.bytes)),
            ]))
        }
        @if snapshot.late_writes.count > 0 { section { h2 { "Writes into freed memory" } (late_writes(snapshot)) } }
    };
    page(&snapshot.rank, "/lunasa", "Memory", body)
}

fn cost(cost: Option<RegistrationCost>) -> Markup {
    html! {
        @match cost {
            None => { "not measured: the registrar refused" }
            Some(RegistrationCost { fixed_s, per_byte_s }) => {
                (pretty::moment(fixed_s)) " and " (pretty::moment(per_byte_s * 1048576.0)) " for each MiB"
            }
        }
    }
}

/// What poison found.
fn late_writes(snapshot: &Snapshot) -> Markup {
    let late = &snapshot.late_writes;
    html! {
        p.warn { (many(late.count, "write")) " found, the first of them:" }
        ul { @for write in &late.first { li { (write.to_string()) } } }
    }
}

/// The live objects of a pool; `cut` when there are more than these.
pub(in super::super) fn objects(rank: &RankInfo, pool: &str, live: u64, cut: bool, objects: &[ObjectInfo]) -> Markup {
    let path = format!("/lunasa/{pool}");
    let shown = objects.len() as u64;
    let mut headings = vec!["Type", "Kind", "#Data", "#Metadata", "#References", "Registered", "Address"];
    let recorded = objects.iter().any(|object| object.allocated_at.is_some());
    headings.extend(recorded.then_some("Allocated at"));
    let row = |object: &ObjectInfo| {
        let mut row = vec![
            html! { @if let Some(name) = &object.type_name { (name) " " } span.quiet { (object.type_id) } },
            text(&object.kind),
            size(object.data_bytes),
            size(object.meta_bytes),
            count(object.references.into()),
            yes(object.registered),
            address(object.address),
        ];
        row.extend(recorded.then(|| html! { @if let Some(site) = &object.allocated_at { code { (site) } } }));
        row
    };
    let body = html! {
        p {
            @if cut {
                "The list is cut: " b { (count(shown)) " of " (count(live.max(shown + 1))) } " live objects are shown. "
            } @else {
                (many(shown, "live object")) ". "
            }
            a href={ (path) "?format=json" } { "As JSON" }
        }
        @if !objects.is_empty() {
            (table("Live objects", &headings, objects.iter().map(row)))
        }
    };
    let (time, node) = pool.split_once('.').unwrap_or((pool, ""));
    let time = if time == "eager" { "Eager" } else { "Lazy" };
    let title = if node.is_empty() { format!("{time} objects") } else { format!("{time} objects of node {node}") };
    page(rank, &path, &title, body)
}

/// Each pool with its fill as a bar.
pub(super) fn pool_cards(snapshot: &Snapshot) -> Markup {
    html! { div.cards { @for pool in &snapshot.pools { (pool_card(pool)) } } }
}

fn pool_card(pool: &PoolInfo) -> Markup {
    let rounding = pool.used_bytes.saturating_sub(pool.allocated_bytes);
    let asked = pool.used_bytes - rounding;
    let words = format!("{} of {} used", pretty::bytes(pool.used_bytes), pretty::bytes(pool.managed_bytes));
    html! {
        article {
            h3 { a href={ "/lunasa/" (pool.name) } { (pool.name) } " " span.quiet { (pool.manager) } }
            (bar(&words, &[("asked", asked), ("rounding", rounding)], pool.managed_bytes))
            p { (words) }
            ul.legend {
                li.asked { (size(asked)) " asked for" }
                li.rounding { (size(rounding)) " rounding" }
                li.free { (size(pool.free_bytes)) " free" }
            }
            p.quiet { (many(pool.live_objects, "live object")) ", " (count(pool.allocations)) " allocated since the start" }
            p.quiet {
                "At most " (many(pool.most_live_objects, "object")) " with " (size(pool.most_allocated_bytes)) ", "
                (size(pool.high_water_bytes)) " managed"
            }
            @if pool.quarantined_objects > 0 {
                p.quiet { (many(pool.quarantined_objects, "object")) " in quarantine, " (size(pool.quarantined_bytes)) }
            }
        }
    }
}

fn class_table(pool: &PoolInfo) -> Markup {
    if pool.classes.is_empty() {
        return html! { p.quiet { "None: nothing is allocated, or the manager has no size classes." } };
    }
    table(
        &format!("Size classes, {}", pool.name),
        &["#Size", "#Live", "#Cached", "#Free", "#Spans", "Occupied"],
        pool.classes.iter().map(|class| {
            let whole = class.live.saturating_add(class.cached).saturating_add(class.free);
            let words = format!("{} of {} pieces live", pretty::count(class.live), pretty::count(whole));
            vec![
                size(class.size),
                count(class.live),
                count(class.cached),
                count(class.free),
                count(class.spans),
                bar(&words, &[("asked", class.live)], whole),
            ]
        }),
    )
}

/// Every block with its fill and its place.
pub(super) fn block_table(snapshot: &Snapshot) -> Markup {
    if snapshot.blocks.is_empty() {
        return html! { p.quiet { "No block is mapped." } };
    }
    table(
        "Blocks",
        &["Pool", "#Size", "#Used", "Fill", "Node", "Pages", "Registered", "Address", "Note"],
        snapshot.blocks.iter().map(|block| {
            let words = format!("{} of {} used", pretty::bytes(block.used_bytes), pretty::bytes(block.bytes));
            vec![
                text(&block.pool),
                size(block.bytes),
                size(block.used_bytes),
                bar(&words, &[("asked", block.used_bytes)], block.bytes),
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
