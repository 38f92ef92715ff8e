//! What a hook is asked and what it answers.

use axum::http::Method;
use maud::{Markup, PreEscaped, html};

/// What a hook is asked.
#[derive(Debug, Clone, Default)]
pub struct HookRequest {
    /// `GET`, or `POST` when the hook declared it.
    pub method: Method,
    /// The arguments of the URL, decoded, in their order; of a `POST` with a form, then those of the form. They are whatever
    /// the asker wrote: escape them.
    pub arguments: Vec<(String, String)>,
    /// The body of a `POST`, 64 KiB at most.
    pub body: Vec<u8>,
}

impl HookRequest {
    /// The first argument of that name.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// What a hook answers.
#[derive(Debug, Clone)]
pub struct HookReply {
    pub(in super::super) body: HookBody,
}

#[derive(Debug, Clone)]
pub(in super::super) enum HookBody {
    Fragment(String),
    Whole { content_type: String, bytes: Vec<u8> },
}

impl HookReply {
    /// A piece of HTML, shown inside Lunasa's page. `maud::html!` escapes what is put into it; a `String` is taken as it is.
    pub fn html(fragment: impl Into<String>) -> Self {
        Self { body: HookBody::Fragment(fragment.into()) }
    }

    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// JSON.
    pub fn json(value: serde_json::Value) -> Self {
        Self::bytes("application/json", value.to_string().into_bytes())
    }

    /// Bytes of any content type. One that no header can carry is sent as `application/octet-stream`.
    pub fn bytes(content_type: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { body: HookBody::Whole { content_type: content_type.into(), bytes } }
    }
}

/// A page put together from tables and blocks of names and values. All text in it is escaped.
///
/// ```
/// use lunasa::status::HookPage;
///
/// let reply = HookPage::new()
///     .heading("Solver")
///     .facts([("step", 120.to_string()), ("residual", "1.2e-7 <ok>".to_string())])
///     .table("Faces", ["face", "cells"], [["east", "1024"], ["west", "1024"]])
///     .reply();
/// ```
#[derive(Debug, Clone, Default)]
pub struct HookPage(String);

impl HookPage {
    /// An empty page.
    pub fn new() -> Self {
        Self::default()
    }

    /// A heading.
    pub fn heading(self, text: impl AsRef<str>) -> Self {
        self.with(html! { h2 { (text.as_ref()) } })
    }

    /// A paragraph.
    pub fn text(self, text: impl AsRef<str>) -> Self {
        self.with(html! { p { (text.as_ref()) } })
    }

    /// Text as it is set out, in letters of one width.
    pub fn code(self, text: impl AsRef<str>) -> Self {
        self.with(html! { pre tabindex="0" { (text.as_ref()) } })
    }

    /// A link to another path of this endpoint, such as `/hooks/NAME?step=3`. What does not begin with `/` becomes its text
    /// only.
    pub fn link(self, path: impl AsRef<str>, text: impl AsRef<str>) -> Self {
        let (path, text) = (path.as_ref(), text.as_ref());
        let ours = path.starts_with('/') && !path[1..].starts_with(['/', '\\']);
        self.with(html! { p { @if ours { a href=(path) { (text) } } @else { (text) } } })
    }

    /// Names and values, one below the other.
    pub fn facts<N: AsRef<str>, V: AsRef<str>>(self, facts: impl IntoIterator<Item = (N, V)>) -> Self {
        self.with(html! {
            dl { @for (name, value) in facts { div { dt { (name.as_ref()) } dd { (value.as_ref()) } } } }
        })
    }

    /// A table with a caption and a heading for each column.
    pub fn table<H, R, C>(
        self,
        caption: impl AsRef<str>,
        headings: impl IntoIterator<Item = H>,
        rows: impl IntoIterator<Item = R>,
    ) -> Self
    where
        H: AsRef<str>,
        R: IntoIterator<Item = C>,
        C: AsRef<str>,
    {
        let caption = caption.as_ref();
        self.with(html! {
            div.scroll role="region" aria-label=(caption) tabindex="0" {
                table {
                    caption { (caption) }
                    thead { tr { @for heading in headings { th scope="col" { (heading.as_ref()) } } } }
                    tbody { @for row in rows { tr { @for cell in row { td { (cell.as_ref()) } } } } }
                }
            }
        })
    }

    /// HTML as it is, not escaped.
    pub fn raw(self, fragment: impl Into<String>) -> Self {
        self.with(PreEscaped(fragment.into()))
    }

    /// The page as a hook's answer.
    pub fn reply(self) -> HookReply {
        HookReply::html(self.0)
    }

    fn with(mut self, more: Markup) -> Self {
        self.0.push_str(&more.0);
        self
    }
}

impl From<HookPage> for HookReply {
    fn from(page: HookPage) -> Self {
        page.reply()
    }
}
