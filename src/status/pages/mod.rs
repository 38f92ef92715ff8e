//! Pages: plain data in, HTML out. `maud` escapes all that is put into them.
//!
//! They can be read without script. Those that are live are made of [`Part`]s, which the script replaces by newer ones; it
//! never makes any itself. Pictures are drawn as SVG, since the content security policy (rightly) allows no inline style.

mod blocks;
mod elements;
mod hooks;
mod job;
mod machine;
mod memory;
mod object;
mod objects;
mod outliers;
mod peers;
mod plot;
mod rank;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::pretty;
use super::query::Query;
use crate::snapshot::RankInfo;

pub(super) use blocks::{CELLS, blocks};
pub(super) use hooks::{hook, hooks};
pub(super) use job::job;
pub(super) use memory::memory;
pub(super) use object::{object, object_told};
pub(super) use objects::{ObjectView, objects};
pub(super) use peers::peers;
pub(super) use rank::rank;

/// Where the token is kept, in words: the page is for those who have not shown it.
pub(super) const WHERE_THE_TOKEN_IS: &str = "This endpoint answers those who show the job's token. It is in a file that \
    only the user of the job can read, on the job's hosts: lunasa-UID/RUN-RANK/token (RANK being the first of the host) in the \
    directory that the job was configured with, else in XDG_RUNTIME_DIR, else in /tmp. Add ?token=… with its contents to this address, or send the header \
    Authorization: Bearer with them.";

/// What to do about a wrong `Host`.
pub(super) const WRONG_HOST: &str = "Ask by the address that this rank printed, by localhost or by the host's own name, \
    with the endpoint's port. A forwarded port must have the same number on both sides.";

const TABS: [(&str, &str); 8] = [
    ("/", "Rank"),
    ("/lunasa", "Memory"),
    ("/lunasa/blocks", "Blocks"),
    ("/lunasa/eager", "Eager"),
    ("/lunasa/lazy", "Lazy"),
    ("/peers", "Peers"),
    ("/job", "Job"),
    ("/hooks", "Hooks"),
];

/// A part of a live page, with a heading.
pub(super) struct Part {
    pub(super) id: &'static str,
    title: &'static str,
    pub(super) body: Markup,
}

impl Part {
    fn new(id: &'static str, title: &'static str, body: Markup) -> Self {
        Self { id, title, body }
    }
}

/// A live page: its parts one below the other.
pub(super) fn live(rank: &RankInfo, path: &str, parts: &[Part], query: &Query, open: bool) -> Markup {
    let title = match path {
        "/" => format!("Rank {}", rank.rank),
        _ => TABS.iter().find(|(own, _)| *own == path).map_or("", |(_, name)| name).to_owned(),
    };
    let body = html! {
        p { a href={ (path) (query.link(&[("format", "json")])) } { "As JSON" } }
        @for part in parts {
            section aria-labelledby={ (part.id) "-title" } {
                h2 id={ (part.id) "-title" } { (part.title) }
                div id=(part.id) { (part.body) }
            }
        }
    };
    frame(rank, path, &title, body, Frame { live: true, open })
}

/// A page of this rank that stays as it is.
fn page(rank: &RankInfo, here: &str, title: &str, body: Markup, open: bool) -> Markup {
    frame(rank, here, title, body, Frame { live: false, open })
}

/// What is around a page.
struct Frame {
    /// Whether the script keeps it up to date.
    live: bool,
    /// Whether everybody on the network may look.
    open: bool,
}

/// A page of this rank: `here` is its path, for the tab that is shown as the current one.
fn frame(rank: &RankInfo, here: &str, title: &str, body: Markup, frame: Frame) -> Markup {
    let document = format!("{title} · rank {} · Lunasa", rank.rank);
    let top = html! {
        p.who { "rank " b { (rank.rank) } " of " (rank.ranks) " on " b { (rank.host) } }
        nav aria-label="Pages" {
            @for (path, name) in TABS {
                a href=(path) aria-current=[(path == here).then_some("page")] { (name) }
            }
        }
    };
    let main = html! {
        @if frame.open {
            p.alarm role="note" { "Everybody who reaches this port sees these pages: status.access is \"open\"." }
        }
        h1 { (title) }
        (body)
    };
    document_of(&document, top, main, None, frame.live)
}

/// A small page that says one thing.
pub(super) fn message(status: StatusCode, title: &str, text: &str) -> Response {
    let body = html! { h1 { (title) } p { (text) } };
    (status, document_of(&format!("{title} · Lunasa"), html! {}, body, None, false)).into_response()
}

/// The page that moves on to the rank's own, once its answer has set the cookie.
pub(super) fn enter() -> Markup {
    document_of("Lunasa", html! {}, html! { p { a href="/" { "To this rank's page" } } }, Some("0; url=/"), false)
}

fn document_of(title: &str, top: Markup, body: Markup, refresh: Option<&str>, live: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(refresh) = refresh { meta http-equiv="refresh" content=(refresh); }
                title { (title) }
                link rel="icon" href="/icon.svg";
                link rel="stylesheet" href="/style.css";
                @if live { script src="/script.js" defer {} }
            }
            body {
                a.skip href="#main" { "Skip to the page" }
                header { p.brand { "Lunasa" } (top) }
                main #main tabindex="-1" { (body) }
            }
        }
    }
}
