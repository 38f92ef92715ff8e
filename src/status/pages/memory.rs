//! `/lunasa`: pools, size classes, registrations.

use maud::{Markup, html};

use super::elements::{bar, count, facts, many, percent, size, table, text};
use super::{Part, pretty};
use crate::snapshot::{PoolInfo, RegistrationCost, Snapshot};

pub(in super::super) fn memory(snapshot: &Snapshot) -> Vec<Part> {
    let classes = html! { @for pool in &snapshot.pools { h3 { (pool.name) } (class_table(pool)) } };
    vec![
        Part::new("pools", "Pools", pool_cards(snapshot)),
        Part::new("fragmentation", "Fragmentation", fragmentation(snapshot)),
        Part::new("classes", "Size classes", classes),
        Part::new("registrations", "Registrations", registrations(snapshot)),
    ]
}

/// Each pool with its fill as a bar.
pub(super) fn pool_cards(snapshot: &Snapshot) -> Markup {
    html! { div.cards { @for pool in &snapshot.pools { (pool_card(pool)) } } }
}

fn pool_card(pool: &PoolInfo) -> Markup {
    let rounding = pool.used_bytes.saturating_sub(pool.allocated_bytes);
    let asked = pool.used_bytes - rounding;
    let cached = pool.cached_bytes.min(pool.free_bytes);
    let words = format!("{} of {} used", pretty::bytes(pool.used_bytes), pretty::bytes(pool.managed_bytes));
    html! {
        article {
            h3 { a href={ "/lunasa/" (pool.name) } { (pool.name) } " " span.quiet { (pool.manager) } }
            (bar(&words, &[("asked", asked), ("rounding", rounding), ("cached", cached)], pool.managed_bytes))
            p { (words) }
            ul.legend {
                li.asked { (size(asked)) " asked for" }
                li.rounding { (size(rounding)) " rounding" }
                li.cached { (size(cached)) " cached" }
                li.free { (size(pool.free_bytes - cached)) " free" }
            }
            p.quiet { (many(pool.live_objects, "live object")) ", " (count(pool.allocations)) " allocated since the start" }
            p.quiet {
                "At most " (many(pool.most_live_objects, "object")) " with " (size(pool.most_allocated_bytes)) ", "
                (size(pool.high_water_bytes)) " managed"
            }
        }
    }
}

/// What of the memory serves nobody, and why.
fn fragmentation(snapshot: &Snapshot) -> Markup {
    table(
        "Memory that serves no object",
        &["Pool", "#Rounding", "#÷ used", "#Kept in caches", "#Free in cut spans", "#÷ managed", "#Books"],
        None,
        snapshot.pools.iter().map(|pool| {
            let rounding = pool.used_bytes.saturating_sub(pool.allocated_bytes);
            let in_spans = pool.classes.iter().map(|class| class.free * class.size).sum::<u64>();
            vec![
                text(&pool.name),
                size(rounding),
                percent(rounding, pool.used_bytes),
                size(pool.cached_bytes),
                size(in_spans),
                percent(pool.cached_bytes + in_spans, pool.managed_bytes),
                size(pool.bookkeeping_bytes),
            ]
        }),
    )
}

fn class_table(pool: &PoolInfo) -> Markup {
    if pool.classes.is_empty() {
        return html! { p.quiet { "None: nothing is allocated, or the manager has no size classes." } };
    }
    table(
        &format!("Size classes, {}", pool.name),
        &["#Size", "#Live", "#Cached", "#Free", "#Spans", "Occupied"],
        None,
        pool.classes.iter().map(|class| {
            let whole = class.live.saturating_add(class.cached).saturating_add(class.free);
            let words = format!("{} of {} pieces live", pretty::count(class.live), pretty::count(whole));
            vec![
                size(class.size),
                count(class.live),
                count(class.cached),
                count(class.free),
                count(class.spans),
                bar(&words, &[("asked", class.live), ("cached", class.cached)], whole),
            ]
        }),
    )
}

fn registrations(snapshot: &Snapshot) -> Markup {
    let registrations = &snapshot.registrations;
    facts(&[
        ("Done", count(registrations.done)),
        ("Avoided by reuse", html! { (count(registrations.avoided)) " of " (size(registrations.avoided_bytes)) }),
        ("Time in the registrar", text(pretty::moment(registrations.spent_s))),
        ("One costs", cost(registrations.cost)),
        ("Time saved", registrations.saved_s.map_or(text("not known"), |saved| text(pretty::moment(saved)))),
        ("Regions now", count(registrations.regions)),
        ("Bytes now", size(registrations.bytes)),
    ])
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
