//! `/lunasa/POOL`: live objects, some at a time, in the order asked for.

use maud::{Markup, html};

use super::super::query::{Query, Sorting};
use super::elements::{count, many, size, table, text, yes};
use super::page;
use crate::snapshot::{ObjectInfo, ObjectPage, RankInfo};

/// A list of objects, and how it was asked for.
pub(in super::super) struct ObjectView<'a> {
    pub(in super::super) pool: &'a str,
    /// Objects alive in the pool.
    pub(in super::super) live: u64,
    pub(in super::super) page: &'a ObjectPage,
    pub(in super::super) query: &'a Query,
    pub(in super::super) sorting: &'a Sorting<'a>,
}

pub(in super::super) fn objects(rank: &RankInfo, view: &ObjectView<'_>, open: bool) -> Markup {
    let ObjectView { pool, live, page: found, query, .. } = view;
    let path = format!("/lunasa/{pool}");
    let filtered = ["type", "min", "max"].iter().any(|name| query.get(name).is_some());
    let body = html! {
        p {
            (many(*live, "live object")) ". "
            @if filtered { b { (count(found.matched)) " fit" } " what is asked for, with " (size(found.matched_bytes)) " of data. " }
            @if !found.complete { b.warn { "There was no time to look at all of them. " } }
            a href={ (path) (query.link(&[("format", "json")])) } { "As JSON" }
        }
        (filter(view))
        @if !found.types.is_empty() { (types(view)) }
        @if found.objects.is_empty() {
            p.quiet { "None to show." }
        } @else {
            (list(view))
            (paging(view))
        }
    };
    let (time, node) = pool.split_once('.').unwrap_or((pool, ""));
    let time = if time == "eager" { "Eager" } else { "Lazy" };
    let title = if node.is_empty() { format!("{time} objects") } else { format!("{time} objects of node {node}") };
    page(rank, &path, &title, body, open)
}

/// What to show, as a form that works without script.
fn filter(view: &ObjectView<'_>) -> Markup {
    let value = |name: &str| view.query.get(name).unwrap_or_default().to_owned();
    html! {
        form.filter method="get" role="search" aria-label="Which objects" {
            input type="hidden" name="sort" value=(view.sorting.key);
            input type="hidden" name="order" value=(if view.sorting.descending { "desc" } else { "asc" });
            label { "Type" input type="text" name="type" value=(value("type")) placeholder="name or number"; }
            label { "Data from" input type="text" inputmode="numeric" pattern="[0-9]*" name="min" value=(value("min")) placeholder="bytes"; }
            label { "to" input type="text" inputmode="numeric" pattern="[0-9]*" name="max" value=(value("max")) placeholder="bytes"; }
            button type="submit" { "Show" }
            @if ["type", "min", "max"].iter().any(|name| view.query.get(name).is_some()) {
                a href=(view.query.link(&[("type", ""), ("min", ""), ("max", ""), ("after", "")])) { "Show all" }
            }
        }
    }
}

fn types(view: &ObjectView<'_>) -> Markup {
    html! {
        details open[view.page.types.len() <= 8] {
            summary { "By type" }
            (table("Objects by type", &["Type", "#Objects", "#Data"], None, view.page.types.iter().map(|total| vec![
                html! {
                    a href=(view.query.link(&[("type", &total.type_id.to_string()), ("after", "")])) {
                        (named(total.type_name.as_deref(), total.type_id))
                    }
                },
                count(total.objects),
                size(total.bytes),
            ])))
        }
    }
}

fn list(view: &ObjectView<'_>) -> Markup {
    let recorded = view.page.objects.iter().any(|object| object.allocated_at.is_some());
    let mut headings = vec![
        "Type@type",
        "Kind",
        "#Data@data",
        "#Metadata@meta",
        "#References@references",
        "Registered",
        "Address@address",
    ];
    headings.extend(recorded.then_some("Allocated at"));
    table(
        "Live objects",
        &headings,
        Some(view.sorting),
        view.page.objects.iter().map(|object| {
            let mut row = vec![
                named(object.type_name.as_deref(), object.type_id),
                text(&object.kind),
                size(object.data_bytes),
                size(object.meta_bytes),
                count(object.references.into()),
                yes(object.registered),
                place(view.pool, object),
            ];
            row.extend(recorded.then(|| html! { @if let Some(site) = &object.allocated_at { code { (site) } } }));
            row
        }),
    )
}

fn place(pool: &str, object: &ObjectInfo) -> Markup {
    let address = format!("{:#x}", object.address);
    html! {
        code { @if object.kind == "damaged" { (address) } @else { a href={ "/lunasa/" (pool) "/" (address) } { (address) } } }
    }
}

/// A type: its name, if it has one, and its number.
pub(super) fn named(name: Option<&str>, number: u32) -> Markup {
    html! { @if let Some(name) = name { (name) " " } span.quiet { (number) } }
}

fn paging(view: &ObjectView<'_>) -> Markup {
    let shown = view.page.objects.len() as u64;
    html! {
        nav.paging aria-label="More objects" {
            span { (count(shown)) " of " (count(view.page.matched)) " shown" }
            @if view.query.get("after").is_some() { a href=(view.query.link(&[("after", "")])) { "To the first" } }
            @if let Some((key, address)) = view.page.next {
                a rel="next" href=(view.query.link(&[("after", &format!("{key}-{address}"))])) { "Next" }
            }
        }
    }
}
