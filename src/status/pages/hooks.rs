//! `/hooks`: the program's own pages.

use maud::{Markup, PreEscaped, html};

use super::super::hooks::HookInfo;
use super::elements::{table, text};
use super::{page, pretty};
use crate::snapshot::RankInfo;

/// All hooks.
pub(in super::super) fn hooks(rank: &RankInfo, hooks: &[HookInfo], open: bool) -> Markup {
    let body = html! { p { a href="/hooks?format=json" { "As JSON" } } (hook_list(hooks)) };
    page(rank, "/hooks", "Hooks", body, open)
}

/// What a hook answered.
pub(in super::super) fn hook(rank: &RankInfo, name: &str, fragment: String) -> Markup {
    page(rank, "/hooks", name, PreEscaped(fragment), false)
}

pub(super) fn hook_list(hooks: &[HookInfo]) -> Markup {
    if hooks.is_empty() {
        return html! { p.quiet { "The program has registered none." } };
    }
    table(
        "The program's hooks",
        &["Name", "About", "Answers", "Run by", "#Within"],
        None,
        hooks.iter().map(|hook| {
            vec![
                html! { a href={ "/hooks/" (hook.name) } { (hook.name) } },
                html! { span.note { (hook.about) } },
                text(if hook.post { "GET, POST" } else { "GET" }),
                text(if hook.by_program { "the program" } else { "the endpoint" }),
                text(pretty::moment(hook.time_limit_s)),
            ]
        }),
    )
}
