//! `/lunasa/POOL/ADDRESS`: what is in one object.

use maud::{Markup, PreEscaped, html};

use super::elements::{address, facts, size, text, yes};
use super::objects::named;
use super::page;
use crate::snapshot::{ObjectDump, RankInfo};

/// Bytes in one row.
const ROW: usize = 16;

/// An object as bytes; `described` when the program has words of its own for that type.
pub(in super::super) fn object(rank: &RankInfo, pool: &str, dump: &ObjectDump, described: bool) -> Markup {
    let end = dump.offset + dump.data.len() as u64;
    let step = dump.data.len() as u64;
    let body = html! {
        (about(dump))
        @if described { p { a href="?" { "In the program's words" } } }
        @if !dump.meta.is_empty() { section { h2 { "Metadata" } (rows("Metadata", &dump.meta, 0)) } }
        section {
            h2 { "Data" }
            @if dump.data.is_empty() { p.quiet { "None from here on." } } @else { (rows("Data", &dump.data, dump.offset)) }
            nav.paging aria-label="More data" {
                span { "Bytes " (dump.offset) " to " (end) " of " (dump.info.data_bytes) }
                @if dump.offset > 0 { a href={ "?as=hex&offset=" (dump.offset.saturating_sub(step.max(1024))) } { "Back" } }
                @if end < dump.info.data_bytes { a rel="next" href={ "?as=hex&offset=" (end) } { "On" } }
            }
        }
    };
    framed(rank, pool, dump, body)
}

/// An object in the program's own words.
pub(in super::super) fn object_told(rank: &RankInfo, pool: &str, dump: &ObjectDump, fragment: String) -> Markup {
    let body = html! {
        (about(dump))
        p { a href="?as=hex" { "As bytes" } }
        section { h2 { "In the program's words" } (PreEscaped(fragment)) }
    };
    framed(rank, pool, dump, body)
}

fn framed(rank: &RankInfo, pool: &str, dump: &ObjectDump, body: Markup) -> Markup {
    let body = html! {
        p { a href={ "/lunasa/" (pool) } { "All objects of this pool" } ", "
            a href={ "/lunasa/" (pool) "/" (format!("{:#x}", dump.info.address)) "?format=json&offset=" (dump.offset) } { "this as JSON" } }
        (body)
    };
    page(rank, &format!("/lunasa/{pool}"), &format!("Object at {:#x}", dump.info.address), body, false)
}

fn about(dump: &ObjectDump) -> Markup {
    let info = &dump.info;
    facts(&[
        ("Type", named(info.type_name.as_deref(), info.type_id)),
        ("Kind", text(&info.kind)),
        ("Data", size(info.data_bytes)),
        ("Metadata", size(info.meta_bytes)),
        ("References", text(info.references.to_string())),
        ("Registered", yes(info.registered)),
        ("Address", address(info.address)),
    ])
}

fn rows(label: &str, bytes: &[u8], offset: u64) -> Markup {
    let row = |(i, row): (usize, &[u8])| {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters: String =
            row.iter().map(|&byte| if (32..127).contains(&byte) { byte as char } else { '·' }).collect();
        format!("{:08x}  {:<47}  {letters}\n", offset + (i * ROW) as u64, hex.join(" "))
    };
    let text: String = bytes.chunks(ROW).enumerate().map(row).collect();
    html! { pre tabindex="0" role="region" aria-label=(label) { (text) } }
}
