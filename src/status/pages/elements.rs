//! What pages are put together from: facts, tables, bars, numbers.

use maud::{Markup, html};

use super::super::query::Sorting;
use super::pretty;

/// Names and values, one below the other.
pub(super) fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! { dl { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } } }
}

/// A table that scrolls by itself where the page is too narrow. A heading that begins with `#` is of numbers; one that ends
/// with `@KEY` is a link that sorts by KEY, when there is a sorting.
pub(super) fn table(
    caption: &str,
    headings: &[&str],
    sorting: Option<&Sorting<'_>>,
    rows: impl Iterator<Item = Vec<Markup>>,
) -> Markup {
    let numeric: Vec<bool> = headings.iter().map(|heading| heading.starts_with('#')).collect();
    let class = |column: usize| numeric.get(column).copied().unwrap_or(false).then_some("n");
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr {
                    @for (i, heading) in headings.iter().enumerate() { (head(heading, class(i), sorting)) }
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

fn head(heading: &str, class: Option<&str>, sorting: Option<&Sorting<'_>>) -> Markup {
    let (title, key) = heading.trim_start_matches('#').split_once('@').unwrap_or((heading.trim_start_matches('#'), ""));
    let Some(sorting) = sorting.filter(|_| !key.is_empty()) else {
        return html! { th scope="col" class=[class] { (title) } };
    };
    let current = sorting.key == key;
    let now = current.then_some(if sorting.descending { "descending" } else { "ascending" });
    // Numbers are first asked for by the largest, words from the beginning.
    let descending = if current { !sorting.descending } else { class.is_some() };
    let order = if descending { "desc" } else { "asc" };
    let link = sorting.query.link(&[("sort", key), ("order", order), ("after", ""), ("from", "")]);
    html! { th scope="col" class=[class] aria-sort=[now] { a href=(link) { (title) } } }
}

/// A bar of `parts` (class and amount) out of `whole`, with its meaning in words.
pub(super) fn bar(label: &str, parts: &[(&str, u64)], whole: u64) -> Markup {
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

pub(super) fn text(value: impl AsRef<str>) -> Markup {
    html! { (value.as_ref()) }
}

pub(super) fn size(bytes: u64) -> Markup {
    text(pretty::bytes(bytes))
}

pub(super) fn count(number: u64) -> Markup {
    text(pretty::count(number))
}

/// A count of what should not be there.
pub(super) fn faults(number: u64) -> Markup {
    html! { @if number == 0 { "0" } @else { strong.bad { (count(number)) } } }
}

/// A count with what it counts, in the singular or the plural.
pub(super) fn many(number: u64, what: &str) -> Markup {
    html! { (count(number)) " " (what) @if number != 1 { "s" } }
}

pub(super) fn yes(value: bool) -> Markup {
    text(if value { "yes" } else { "no" })
}

pub(super) fn address(value: u64) -> Markup {
    html! { code { (format!("{value:#x}")) } }
}

/// A part in percent.
pub(super) fn percent(part: u64, whole: u64) -> Markup {
    html! { (format!("{:.1} %", part as f64 / whole.max(1) as f64 * 100.0)) }
}
