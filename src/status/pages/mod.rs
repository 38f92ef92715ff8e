//! Pages: plain data in, HTML out. `maud` escapes all that is put into them.
//!
//! They need neither script nor anything from elsewhere; bars are drawn as SVG, since the content security policy (rightly)
//! allows no inline style.

mod job;
mod memory;
mod rank;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::pretty;
use crate::snapshot::RankInfo;

pub(super) use job::job;
pub(super) use memory::{memory, objects};
pub(super) use rank::rank;

/// Where the token is kept, in words: the page is for those who have not shown it.
pub(super) const WHERE_THE_TOKEN_IS: &str = "This endpoint answers those who show the job's token. It is in a file that \
    only the user of the job can read, on the job's hosts: lunasa-UID/RUN-RANK/token (RANK being the first of the host) in the \
    directory that the job was configured with, else in XDG_RUNTIME_DIR, else in /tmp. Add ?token=… with its contents to this address, or send the header \
    Authorization: Bearer with them.";

/// What to do about a wrong `Host`.
pub(super) const WRONG_HOST: &str = "Ask by the address that this rank printed, by localhost or by the host's own name, \
    with the endpoint's port. A forwarded port must have the same number on both sides.";

const TABS: [(&str, &str); 6] = [
    ("/", "Rank"),
    ("/lunasa", "Memory"),
    ("/lunasa/eager", "Eager"),
    ("/lunasa/lazy", "Lazy"),
    ("/job", "Job"),
    ("/hooks", "Hooks"),
];

/// A page of this rank: `here` is its path, for the tab that is shown as the current one.
fn page(rank: &RankInfo, here: &str, title: &str, body: Markup) -> Markup {
    let document = format!("{title} · rank {} · Lunasa", rank.rank);
    let top = html! {
        p.who { "rank " b { (rank.rank) } " of " (rank.ranks) " on " b { (rank.host) } }
        nav aria-label="Pages" {
            @for (path, name) in TABS {
                a href=(path) aria-current=[(path == here).then_some("page")] { (name) }
            }
        }
    };
    document_of(&document, top, html! { h1 { (title) } (body) }, None)
}

/// A small page that says one thing.
pub(super) fn message(status: StatusCode, title: &str, text: &str) -> Response {
    let body = html! { h1 { (title) } p { (text) } };
    (status, document_of(&format!("{title} · Lunasa"), html! {}, body, None)).into_response()
}

/// The page that moves on to the rank's own, once its answer has set the cookie.
pub(super) fn enter() -> Markup {
    document_of("Lunasa", html! {}, html! { p { a href="/" { "To this rank's page" } } }, Some("0; url=/"))
}

/// All hooks.
pub(super) fn hooks(rank: &RankInfo, names: &[String]) -> Markup {
    page(rank, "/hooks", "Hooks", hook_list(names))
}

/// What a hook answered.
pub(super) fn hook(rank: &RankInfo, name: &str, fragment: String) -> Markup {
    page(rank, "/hooks", name, PreEscaped(fragment))
}

fn hook_list(names: &[String]) -> Markup {
    html! {
        @if names.is_empty() {
            p.quiet { "The program has registered none." }
        } @else {
            ul.links { @for name in names { li { a href={ "/hooks/" (name) } { (name) } } } }
        }
    }
}

fn document_of(title: &str, top: Markup, body: Markup, refresh: Option<&str>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(refresh) = refresh { meta http-equiv="refresh" content=(refresh); }
                title { (title) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header { p.brand { "Lunasa" } (top) }
                main { (body) }
            }
        }
    }
}

/// Names and values, one below the other.
fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! { dl { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } } }
}

/// A table that scrolls by itself where the page is too narrow. A heading that begins with `#` is of numbers.
fn table(label: &str, headings: &[&str], rows: impl Iterator<Item = Vec<Markup>>) -> Markup {
    let numeric: Vec<bool> = headings.iter().map(|heading| heading.starts_with('#')).collect();
    let class = |column: usize| numeric.get(column).copied().unwrap_or(false).then_some("n");
    html! {
        div.scroll role="region" aria-label=(label) tabindex="0" {
            table {
                thead { tr {
                    @for (i, heading) in headings.iter().enumerate() {
                        th scope="col" class=[class(i)] { (heading.trim_start_matches('#')) }
                    }
                } }
                tbody {
                    @for row in rows {
                        tr { @for (i, cell) in row.iter().enumerate() { td class=[class(i)] { (cell) } } }
                    }
                }
            }
        }
    }
}

/// A bar of `parts` (class and amount) out of `whole`, with its meaning in words.
fn bar(label: &str, parts: &[(&str, u64)], whole: u64) -> Markup {
    let percent = |amount: u64| (amount as f64 / whole.max(1) as f64 * 100.0).min(100.0);
    let starts = parts.iter().scan(0, |end: &mut u64, (_, amount)| {
        let start = *end;
        *end = end.saturating_add(*amount);
        Some(start)
    });
    html! {
        svg.bar role="img" aria-label=(label) width="100%" height="10" {
            @for ((class, amount), start) in parts.iter().zip(starts) {
                rect class=(class) x={ (format!("{:.2}", percent(start))) "%" }
                    width={ (format!("{:.2}", percent(*amount))) "%" } height="100%" {}
            }
        }
    }
}

fn text(value: impl AsRef<str>) -> Markup {
    html! { (value.as_ref()) }
}

fn size(bytes: u64) -> Markup {
    text(pretty::bytes(bytes))
}

fn count(number: u64) -> Markup {
    text(pretty::count(number))
}

/// A count with what it counts, in the singular or the plural.
fn many(number: u64, what: &str) -> Markup {
    html! { (count(number)) " " (what) @if number != 1 { "s" } }
}

fn yes(value: bool) -> Markup {
    text(if value { "yes" } else { "no" })
}

fn address(value: u64) -> Markup {
    html! { code { (format!("{value:#x}")) } }
}
