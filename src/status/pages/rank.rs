//! `/`: who this rank is, how its memory stands, and what it was told.

use maud::{Markup, html};

use super::super::pretty;
use super::memory::{block_table, pool_cards};
use super::{count, facts, hook_list, many, page, size, table, text};
use crate::snapshot::{RankInfo, Snapshot};

pub(in super::super) fn rank(snapshot: &Snapshot, hooks: &[String]) -> Markup {
    let rank = &snapshot.rank;
    let body = html! {
        (identity(rank))
        section { h2 { "Pools" } (pool_cards(snapshot)) p { a href="/lunasa" { "Size classes and registrations" } } }
        section { h2 { "Traffic by route" } (traffic(snapshot)) p { a href="/job" { "All ranks of the job" } } }
        section { h2 { "Blocks" } (block_table(snapshot)) }
        section { h2 { "Hooks" } (hook_list(hooks)) }
        section { h2 { "Configuration" } (configuration(snapshot)) }
    };
    page(rank, "/", &format!("Rank {}", rank.rank), body)
}

fn identity(rank: &RankInfo) -> Markup {
    let node = rank.numa_node.map_or("none".to_string(), |node| node.to_string());
    facts(&[
        ("Host", html! { (rank.host) " " span.quiet { "of " (many(rank.hosts.into(), "host")) } }),
        ("Up", text(pretty::duration(rank.uptime_s))),
        ("Process", text(rank.pid.to_string())),
        ("MPI", text(&rank.mpi)),
        ("NUMA node", text(node)),
        ("Cores", text(&rank.cpus)),
        ("Registrar", text(&rank.registrar)),
        ("Address", html! { code { (rank.url.trim_start_matches("http://").trim_end_matches('/')) } }),
        ("Run", html! { code { (rank.run) } }),
        ("Lunasa", text(&rank.version)),
    ])
}

fn traffic(snapshot: &Snapshot) -> Markup {
    if snapshot.traffic.is_empty() {
        return html! { p.quiet { "Nothing has passed yet." } };
    }
    let headings = ["Route", "#Read", "#Gets", "#Written", "#Puts", "#Served", "#Requests", "#Errors"];
    table(
        "Traffic by route",
        &headings,
        snapshot.traffic.iter().map(|route| {
            vec![
                text(&route.route),
                size(route.get_bytes),
                count(route.gets),
                size(route.put_bytes),
                count(route.puts),
                size(route.served_bytes),
                count(route.served),
                if route.errors == 0 {
                    count(0)
                } else {
                    html! { strong.bad { (count(route.errors)) } }
                },
            ]
        }),
    )
}

fn configuration(snapshot: &Snapshot) -> Markup {
    table(
        "Configuration",
        &["Key", "Value", "From"],
        snapshot
            .config
            .iter()
            .map(|entry| vec![html! { code { (entry.key) } }, html! { code { (entry.value) } }, text(&entry.source)]),
    )
}
