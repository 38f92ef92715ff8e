//! `/job`: every rank, as a heat map and as a table with links; what there is on each host; what stands out.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::super::ask::{Answer, JobRow, address_of};
use super::super::query::{Query, Sorting};
use super::elements::{count, faults, many, size, table, text};
use super::outliers::Usual;
use super::{Part, pretty};
use crate::snapshot::{RankBrief, RankInfo};

/// Rows of a table at a time.
const ROWS: usize = 100;
/// Hosts in their table, at most.
const HOSTS: usize = 200;
/// Ranks up to which each cell of the map is a link of its own.
const LINKED: usize = 1024;
/// Shades of the map.
const SHADES: usize = 6;

/// What the map shows, and the name under which it is asked for.
type Measure = (&'static str, &'static str, fn(&RankBrief) -> f64, fn(f64) -> String);

const MEASURES: [Measure; 4] = [
    ("allocated", "Allocated", |brief| brief.allocated_bytes as f64, |value| pretty::bytes(value as u64)),
    ("rate", "Transfer rate", |brief| brief.moved_per_s, |value| format!("{}/s", pretty::bytes(value as u64))),
    ("objects", "Live objects", |brief| brief.live_objects as f64, |value| pretty::count(value as u64)),
    ("errors", "Errors", |brief| brief.errors as f64, |value| pretty::count(value as u64)),
];

/// What ranks are compared by.
type Compared = (&'static str, fn(&RankBrief) -> f64);

/// `token`: what the links carry, so that one click works.
pub(in super::super) fn job(rank: &RankInfo, rows: &[JobRow], query: &Query, token: Option<&str>) -> Vec<Part> {
    let measure = query.get("by").and_then(|by| MEASURES.iter().find(|(name, ..)| *name == by)).unwrap_or(&MEASURES[0]);
    vec![
        Part::new("summary", "The whole job", summary(rank, rows)),
        Part::new("heat", "Rank by rank", heat(rank, rows, measure, query, token)),
        Part::new("ranks", "Ranks", list(rank, rows, query, token)),
        Part::new("hosts", "Hosts", hosts(rows)),
    ]
}

fn summary(rank: &RankInfo, rows: &[JobRow]) -> Markup {
    let briefs = || rows.iter().filter_map(JobRow::brief);
    let sum = |of: fn(&RankBrief) -> u64| briefs().map(of).sum::<u64>();
    let of = |wanted: fn(&Answer) -> bool| rows.iter().filter(|row| wanted(&row.answer)).count() as u64;
    let silent = of(|answer| matches!(answer, Answer::Silent { .. }));
    html! {
        p {
            (many(rows.len() as u64, "rank")) " on " (many(rank.hosts.into(), "host")) ": "
            (count(briefs().count() as u64)) " answer"
            @if silent > 0 { ", " strong.bad { (count(silent)) (if silent == 1 { " does not" } else { " do not" }) } }
            @let unasked = of(|answer| matches!(answer, Answer::NotAsked));
            @if unasked > 0 { ", " (count(unasked)) " not asked yet" }
            @let pageless = of(|answer| matches!(answer, Answer::NoPage));
            @if pageless > 0 { ", " (count(pageless)) " without a page that is reached from here" }
            "."
        }
        ul.legend.plain {
            li { b { (size(sum(|brief| brief.allocated_bytes))) } " allocated" }
            li { b { (size(sum(|brief| brief.registered_bytes))) } " registered" }
            li { b { (count(sum(|brief| brief.live_objects))) } " live objects" }
            li { b { (size(sum(|brief| brief.moved_bytes))) } " moved" }
            li { b { (size(briefs().map(|brief| brief.moved_per_s).sum::<f64>() as u64)) "/s" } " now" }
            li { b { (faults(sum(|brief| brief.errors))) } " errors" }
        }
    }
}

fn heat(rank: &RankInfo, rows: &[JobRow], measure: &Measure, query: &Query, token: Option<&str>) -> Markup {
    let (_, name, value, say) = measure;
    let most = rows.iter().filter_map(JobRow::brief).map(value).fold(0.0, f64::max);
    let columns = ((rows.len() as f64 * 2.5).sqrt().ceil() as usize).clamp(1, 200).min(rows.len().max(1));
    let shade = |row: &JobRow| match (&row.answer, row.brief()) {
        (_, Some(brief)) if most > 0.0 => {
            format!("heat-{}", ((value(brief) / most * SHADES as f64) as usize).min(SHADES - 1))
        }
        (_, Some(_)) => "heat-0".to_owned(),
        (Answer::Silent { .. }, _) => "silent".to_owned(),
        _ => "unknown".to_owned(),
    };
    let words = format!("{name} of {} ranks, the darker the more, at most {}", rows.len(), say(most));
    let height = rows.len().div_ceil(columns);
    html! {
        p { "By "
            @for (i, (key, title, ..)) in MEASURES.iter().enumerate() {
                @if i > 0 { " · " }
                a href=(query.link(&[("by", key)])) aria-current=[(title == name).then_some("true")] { (title) }
            }
        }
        svg.heat.few[rows.len() <= 64] role="img" aria-label=(words) viewBox={ "0 0 " (columns) " " (height) }
            preserveAspectRatio="xMinYMin" {
            @if rows.len() <= LINKED {
                @for (i, row) in rows.iter().enumerate() {
                    (cell(i, columns, &shade(row), link_of(rank, row, token), &describe(row, measure)))
                }
            } @else {
                @for (class, path) in by_shade(rows, columns, shade) { path class=(class) d=(path) {} }
            }
        }
        ul.legend {
            li.heat-0 { "0" }
            li class={ "heat-" (SHADES - 1) } { (say(most)) }
            li.silent { "does not answer" }
            li.unknown { "not known" }
        }
    }
}

/// The cells of each shade as one path: ten thousand ranks would be as many elements.
fn by_shade(rows: &[JobRow], columns: usize, shade: impl Fn(&JobRow) -> String) -> BTreeMap<String, String> {
    let mut paths = BTreeMap::<String, String>::new();
    for (i, row) in rows.iter().enumerate() {
        let cell = format!("M{} {}h.9v.9h-.9z", i % columns, i / columns);
        paths.entry(shade(row)).or_default().push_str(&cell);
    }
    paths
}

fn cell(i: usize, columns: usize, class: &str, link: Option<String>, words: &str) -> Markup {
    let square = html! {
        rect class=(class) x=(i % columns) y=(i / columns) width="0.9" height="0.9" { title { (words) } }
    };
    html! { @match link { Some(link) => a href=(link) tabindex="-1" aria-hidden="true" { (square) }, None => (square) } }
}

fn describe(row: &JobRow, (_, _, value, say): &Measure) -> String {
    let rank = row.peer.rank;
    match (&row.answer, row.brief()) {
        (_, Some(brief)) => format!("rank {rank} on {}: {}", row.peer.host, say(value(brief))),
        (Answer::Silent { reason }, _) => format!("rank {rank} on {} does not answer: {reason}", row.peer.host),
        _ => format!("rank {rank} on {}", row.peer.host),
    }
}

fn list(rank: &RankInfo, rows: &[JobRow], query: &Query, token: Option<&str>) -> Markup {
    let usual = |of: fn(&RankBrief) -> f64| Usual::of(rows.iter().filter_map(JobRow::brief).map(of));
    let notes: [Compared; 3] = [
        ("allocated", |brief| brief.allocated_bytes as f64),
        ("registered", |brief| brief.registered_bytes as f64),
        ("moved", |brief| brief.moved_bytes as f64),
    ];
    let notes = notes.map(|(name, of)| (name, of, usual(of)));
    let outliers = |row: &JobRow| -> Vec<String> {
        let Some(brief) = row.brief() else { return Vec::new() };
        let outside = notes.iter().filter_map(|(name, of, usual)| {
            let (value, usual) = (of(brief), (*usual)?);
            usual.is_outside(value).then(|| format!("{name} {}", usual.say(value)))
        });
        outside.chain(brief.trouble.clone()).collect()
    };
    let mut sorted: Vec<&JobRow> = rows.iter().collect();
    let sorting =
        Sorting::new(query, &["rank", "state", "allocated", "objects", "moved", "rate", "errors", "notes"], false);
    let number = |row: &JobRow, of: fn(&RankBrief) -> u64| row.brief().map_or(0, of);
    sorting.apply(&mut sorted, |row| match sorting.key {
        "state" => u64::from(row.brief().is_some()),
        "allocated" => number(row, |brief| brief.allocated_bytes),
        "objects" => number(row, |brief| brief.live_objects),
        "moved" => number(row, |brief| brief.moved_bytes),
        "rate" => number(row, |brief| brief.moved_per_s as u64),
        "errors" => number(row, |brief| brief.errors),
        "notes" => outliers(row).len() as u64,
        _ => row.peer.rank.into(),
    });
    let from = query.get("from").and_then(|from| from.parse().ok()).unwrap_or(0).min(rows.len().saturating_sub(1));
    let headings = [
        "#Rank@rank",
        "Host",
        "Page",
        "Route from here",
        "Answers@state",
        "#Allocated@allocated",
        "#Objects@objects",
        "#Moved@moved",
        "#Now@rate",
        "#Errors@errors",
        "Stands out@notes",
    ];
    let shown = sorted.iter().skip(from).take(ROWS).map(|row| {
        let brief = |of: fn(&RankBrief) -> Markup| row.brief().map_or_else(|| text("–"), of);
        vec![
            html! { @if row.peer.rank == rank.rank { b { (row.peer.rank) } } @else { (row.peer.rank) } },
            text(&row.peer.host),
            page_of(rank, row, token),
            text(&row.peer.route),
            state(row),
            brief(|brief| size(brief.allocated_bytes)),
            brief(|brief| count(brief.live_objects)),
            brief(|brief| size(brief.moved_bytes)),
            brief(|brief| html! { (size(brief.moved_per_s as u64)) "/s" }),
            brief(|brief| faults(brief.errors)),
            html! { @for note in outliers(row) { span.warn.note { (note) } } },
        ]
    });
    html! {
        (table("Ranks", &headings, Some(&sorting), shown))
        @if rows.len() > ROWS {
            nav.paging aria-label="More ranks" {
                span { (from + 1) " to " (rows.len().min(from + ROWS)) " of " (count(rows.len() as u64)) }
                @if from > 0 { a rel="prev" href=(query.link(&[("from", &from.saturating_sub(ROWS).to_string())])) { "Back" } }
                @if from + ROWS < rows.len() { a rel="next" href=(query.link(&[("from", &(from + ROWS).to_string())])) { "On" } }
            }
        }
    }
}

fn state(row: &JobRow) -> Markup {
    html! {
        @match &row.answer {
            Answer::Answered { .. } => { "yes" }
            Answer::Silent { reason } => { strong.bad { "no" } " " span.quiet { (reason) } }
            Answer::NotAsked => { span.quiet { "not asked yet" } }
            Answer::NoPage => { span.quiet { "not reached" } }
        }
    }
}

fn page_of(rank: &RankInfo, row: &JobRow, token: Option<&str>) -> Markup {
    html! {
        @if row.peer.rank == rank.rank {
            a href="/" { "this rank" }
        } @else if let Some(link) = link_of(rank, row, token) {
            a href=(link) { (row.peer.url.trim_start_matches("http://").trim_end_matches('/')) }
        } @else {
            span.quiet { "none" }
        }
    }
}

/// The way to a rank's page. None to one that does not answer: whoever came to its port must not be shown the token.
fn link_of(rank: &RankInfo, row: &JobRow, token: Option<&str>) -> Option<String> {
    if row.peer.rank == rank.rank {
        return Some("/".to_owned());
    }
    // Nothing but a page is worth a click: no other scheme ever becomes a link.
    let address = address_of(&row.peer.url).filter(|_| row.brief().is_some())?;
    Some(token.map_or_else(|| format!("http://{address}/"), |token| format!("http://{address}/enter?token={token}")))
}

fn hosts(rows: &[JobRow]) -> Markup {
    let mut hosts: BTreeMap<&str, Vec<&JobRow>> = BTreeMap::new();
    rows.iter().for_each(|row| hosts.entry(&row.peer.host).or_default().push(row));
    let sum =
        |rows: &[&JobRow], of: fn(&RankBrief) -> u64| rows.iter().filter_map(|row| row.brief()).map(of).sum::<u64>();
    html! {
        @if hosts.len() > HOSTS { p.quiet { "The first " (HOSTS) " of " (many(hosts.len() as u64, "host")) "." } }
        (table(
            "Totals by host",
            &["Host", "#Ranks", "#Answer", "#Allocated", "#Registered", "#Objects", "#Moved", "#Errors"],
            None,
            hosts.iter().take(HOSTS).map(|(host, rows)| vec![
                text(host),
                count(rows.len() as u64),
                count(rows.iter().filter(|row| row.brief().is_some()).count() as u64),
                size(sum(rows, |brief| brief.allocated_bytes)),
                size(sum(rows, |brief| brief.registered_bytes)),
                count(sum(rows, |brief| brief.live_objects)),
                size(sum(rows, |brief| brief.moved_bytes)),
                faults(sum(rows, |brief| brief.errors)),
            ]),
        ))
    }
}
