//! `/peers`: what passed between this rank and each that it talked to.

use maud::{Markup, html};

use super::super::query::Sorting;
use super::elements::{count, faults, many, size, table, text};
use super::{Part, pretty};
use crate::snapshot::{PeerTraffic, RankInfo};

/// Peers on one page.
const ROWS: usize = 200;

pub(in super::super) fn peers(rank: &RankInfo, peers: &[PeerTraffic], sorting: &Sorting<'_>) -> Vec<Part> {
    let mut all: Vec<u64> = Vec::new();
    for peer in peers {
        all.resize(all.len().max(peer.latency.len()), 0);
        all.iter_mut().zip(&peer.latency).for_each(|(sum, count)| *sum += count);
    }
    let latency = html! {
        p { "Of sixteen transfers to a peer one is timed: how long they took, each column twice as long as the one before." }
        (histogram(&all, "latency"))
        (quantiles(&all))
    };
    let mut parts = vec![Part::new("peers", "Peers talked to", list(rank, peers, sorting))];
    if all.iter().sum::<u64>() > 0 {
        parts.push(Part::new("latency", "How long transfers took", latency));
    }
    parts
}

fn list(rank: &RankInfo, peers: &[PeerTraffic], sorting: &Sorting<'_>) -> Markup {
    if peers.is_empty() {
        return html! { p.quiet { "This rank has not read from another or written to one yet." } };
    }
    let headings = [
        "#Rank@rank",
        "Host",
        "Route",
        "Connection",
        "#Bytes@bytes",
        "#Read",
        "#Written",
        "#Transfers@transfers",
        "#Errors@errors",
        "#Median",
        "Latency",
    ];
    let rows = peers.iter().take(ROWS).map(|peer| {
        vec![
            count(peer.rank.into()),
            text(&peer.host),
            text(&peer.route),
            text(&peer.state),
            size(peer.get_bytes + peer.put_bytes),
            size(peer.get_bytes),
            size(peer.put_bytes),
            count(peer.gets + peer.puts),
            faults(peer.errors),
            html! { @if let Some(median) = quantile(&peer.latency, 0.5) { "< " (pretty::moment(median)) } },
            histogram(&peer.latency, "spark"),
        ]
    });
    html! {
        p {
            (many(peers.len() as u64, "peer")) " of " (many(rank.ranks.into(), "rank")) "."
            @if peers.len() > ROWS { " The first " (ROWS) " in this order are shown." }
        }
        (table("Peers", &headings, Some(sorting), rows))
    }
}

/// The time below which this part of the transfers was, to a power of two.
fn quantile(latency: &[u64], part: f64) -> Option<f64> {
    let all: u64 = latency.iter().sum();
    let wanted = (all as f64 * part).ceil() as u64;
    let mut seen = 0;
    let bucket = latency.iter().position(|count| {
        seen += count;
        seen >= wanted.max(1)
    })?;
    Some(2f64.powi(bucket as i32 + 1) * 1e-9)
}

fn quantiles(latency: &[u64]) -> Markup {
    let parts = [(0.5, "Half"), (0.9, "Nine of ten"), (0.99, "99 of 100"), (1.0, "All")];
    html! {
        ul.legend.plain {
            @for (part, name) in parts {
                @if let Some(time) = quantile(latency, part) { li { (name) " below " b { (pretty::moment(time)) } } }
            }
        }
    }
}

/// Counts per power of two, from 64 ns on.
fn histogram(latency: &[u64], class: &str) -> Markup {
    const FIRST: usize = 6;
    const LAST: usize = 32;
    let most = latency.iter().copied().max().unwrap_or(0).max(1) as f64;
    let within: Vec<(usize, u64)> = latency.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
    let words: Vec<String> = within
        .iter()
        .map(|(bucket, count)| format!("{count} below {}", pretty::moment(2f64.powi(*bucket as i32 + 1) * 1e-9)))
        .collect();
    let at = |bucket: usize| bucket.clamp(FIRST, LAST - 1) - FIRST;
    html! {
        svg class=(class) role="img" aria-label={ "Latency: " (words.join(", ")) } viewBox={ "0 0 " (LAST - FIRST) " 20" }
            preserveAspectRatio="none" {
            @for (bucket, count) in within {
                @let height = (count as f64 / most * 20.0).max(1.0);
                rect.asked x=(at(bucket)) y=(format!("{:.1}", 20.0 - height)) width="0.9" height=(format!("{height:.1}")) {
                    title { (count) " below " (pretty::moment(2f64.powi(bucket as i32 + 1) * 1e-9)) }
                }
            }
        }
        @if class == "latency" { p.axis aria-hidden="true" { span { "64 ns" } span { "0.5 ms" } span { "4 s" } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_end_of_the_bucket_that_it_falls_into() {
        let latency = [0, 0, 0, 0, 0, 0, 0, 50, 49, 0, 1];
        for (part, nanos) in [(0.5, 256.0), (0.51, 512.0), (0.99, 512.0), (1.0, 2048.0)] {
            let found = quantile(&latency, part).unwrap_or(0.0) * 1e9;
            assert!((found - nanos).abs() < 1e-3, "{part}: {found}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
