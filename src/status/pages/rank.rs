//! `/`: who this rank is, how its memory stands and stood, where it runs, and what it was told.

use maud::{Markup, html};

use super::super::history::History;
use super::super::hooks::HookInfo;
use super::elements::{count, facts, faults, many, size, table, text};
use super::hooks::hook_list;
use super::machine::machine;
use super::memory::pool_cards;
use super::plot::{Line, plot};
use super::{Part, pretty};
use crate::snapshot::{RankInfo, Sample, Snapshot};

pub(in super::super) fn rank(snapshot: &Snapshot, history: &History, hooks: &[HookInfo]) -> Vec<Part> {
    vec![
        Part::new("identity", "This rank", identity(&snapshot.rank)),
        Part::new(
            "pools",
            "Pools",
            html! { (pool_cards(snapshot)) p { a href="/lunasa" { "Size classes and registrations" } } },
        ),
        Part::new("history", "The last minutes", plots(history)),
        Part::new(
            "traffic",
            "Traffic by route",
            html! { (traffic(snapshot)) p { a href="/peers" { "Peer by peer" } ", " a href="/job" { "all ranks of the job" } } },
        ),
        Part::new("machine", "The machine and this rank in it", machine(snapshot)),
        Part::new("hooks", "Hooks", hook_list(hooks)),
        Part::new("configuration", "Configuration", configuration(snapshot)),
    ]
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
        (
            "Node id",
            html! { code { (rank.rank) " at " (rank.url.trim_start_matches("http://").trim_end_matches('/')) } },
        ),
        ("Run", html! { code { (rank.run) } }),
        ("Lunasa", text(&rank.version)),
    ])
}

fn plots(history: &History) -> Markup {
    let samples = history.samples();
    if samples.len() < 2 {
        return html! { p.quiet { "A sample is taken every second: there will be plots in a moment." } };
    }
    let line = |name: &str, value: fn(&Sample) -> u64| Line {
        name: name.to_owned(),
        points: samples.iter().map(|sample| (sample.at_s, value(sample) as f64)).collect(),
    };
    let routes = samples.back().map(|last| last.moved.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let rates: Vec<Line> = routes
        .into_iter()
        .flatten()
        .map(|route| {
            let of =
                |sample: &Sample| sample.moved.iter().find(|(name, _)| *name == route).map_or(0, |(_, bytes)| *bytes);
            Line { points: history.rates(of), name: route.clone() }
        })
        .collect();
    let memory =
        [line("allocated", |sample| sample.allocated_bytes), line("registered", |sample| sample.registered_bytes)];
    let bytes = |value: f64| pretty::bytes(value as u64);
    html! {
        div.cards {
            (plot("Memory", &memory, &bytes))
            (plot("Transfers", &rates, &|value| format!("{}/s", bytes(value))))
            (plot("Live objects", &[line("objects", |sample| sample.live_objects)], &|value| pretty::count(value as u64)))
        }
    }
}

fn traffic(snapshot: &Snapshot) -> Markup {
    if snapshot.traffic.is_empty() {
        return html! { p.quiet { "Nothing has passed yet." } };
    }
    let headings = ["Route", "#Read", "#Gets", "#Written", "#Puts", "#Served", "#Requests", "#Errors"];
    table(
        "Traffic by route",
        &headings,
        None,
        snapshot.traffic.iter().map(|route| {
            vec![
                text(&route.route),
                size(route.get_bytes),
                count(route.gets),
                size(route.put_bytes),
                count(route.puts),
                size(route.served_bytes),
                count(route.served),
                faults(route.errors),
            ]
        }),
    )
}

fn configuration(snapshot: &Snapshot) -> Markup {
    table(
        "Configuration in force",
        &["Key", "Value", "From"],
        None,
        snapshot.config.iter().map(|entry| {
            let from = html! { @if entry.source == "default" { span.quiet { "default" } } @else { (entry.source) } };
            vec![html! { code { (entry.key) } }, html! { code { (entry.value) } }, from]
        }),
    )
}
