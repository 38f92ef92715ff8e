//! `/job`: every rank, with a link to its page.

use maud::{Markup, html};

use super::{many, page, table, text};
use crate::snapshot::{PeerInfo, RankInfo};

/// `token`: what the links carry, so that one click works.
pub(in super::super) fn job(rank: &RankInfo, peers: &[PeerInfo], token: Option<&str>) -> Markup {
    let body = html! {
        p { (many(peers.len() as u64, "rank")) " on " (many(rank.hosts.into(), "host")) ". "
            a href="/job?format=json" { "As JSON" } }
        (table("Ranks", &["#Rank", "Host", "Page", "Route from here"], peers.iter().map(|peer| vec![
            html! { @if peer.rank == rank.rank { b { (peer.rank) } } @else { (peer.rank) } },
            text(&peer.host),
            if peer.rank == rank.rank { html! { a href="/" { "this rank" } } } else { link(peer, token) },
            text(&peer.route),
        ])))
    };
    page(rank, "/job", "Job", body)
}

fn link(peer: &PeerInfo, token: Option<&str>) -> Markup {
    // Nothing but a page is worth a click: no other scheme ever becomes a link.
    if !peer.url.starts_with("http://") {
        return html! { span.quiet { "none" } };
    }
    let base = peer.url.trim_end_matches('/');
    let target = token.map_or_else(|| format!("{base}/"), |token| format!("{base}/enter?token={token}"));
    html! { a href=(target) { (peer.url) } }
}
