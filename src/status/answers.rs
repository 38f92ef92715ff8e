//! Answers that are not live pages: lists of objects, one object, and what the program's own functions say.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use maud::Markup;
use serde_json::json;
use tokio::time::timeout;

use super::documents::document;
use super::hooks::{Ended, HookBody, HookReply, HookRequest, is_reading};
use super::pages::{self, ObjectView};
use super::query::{OBJECT_KEYS, Query, Sorting, object_query};
use super::routes::{Format, Ready, named, not_found};
use super::server::Shared;

/// Objects on one page, at most: as HTML, and as JSON.
const ROWS: (usize, usize) = (100, 1000);
/// Bytes of an object shown at once as they are.
const DUMPED: usize = 1024;
/// Bytes of an object that the program's own function gets to see.
const DESCRIBED: usize = 1 << 20;
/// Bytes of a request's body, and how long it may take to come.
const BODY: (usize, Duration) = (64 << 10, Duration::from_secs(10));

/// The objects of one pool, or of all eager or lazy ones.
pub(super) async fn objects(
    State(shared): State<Arc<Shared>>,
    Ready(source): Ready,
    format: Format,
    pool: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Response {
    let (snapshot, pool, query) = (source.snapshot(), named(pool), Query::of(&uri));
    let is_meant = |name: &str| name.split_once('.').is_some_and(|(time, _)| time == pool) || name == pool;
    let meant: Vec<u64> = snapshot.pools.iter().filter(|own| is_meant(&own.name)).map(|own| own.live_objects).collect();
    if meant.is_empty() {
        return not_found(uri).await;
    }
    let live = meant.iter().sum();
    let sorting = Sorting::new(&query, &OBJECT_KEYS, true);
    let limit = if format == Format::Html { ROWS.0 } else { ROWS.1 };
    let page = source.objects(&object_query(&pool, &query, &sorting, limit));
    if format == Format::Html {
        let view = ObjectView { pool: &pool, live, page: &page, query: &query, sorting: &sorting };
        return pages::objects(&snapshot.rank, &view, shared.is_open_to_all()).into_response();
    }
    document(json!({
        "pool": pool, "live_objects": live, "cut": page.next.is_some(), "complete": page.complete,
        "matched": page.matched, "matched_bytes": page.matched_bytes, "types": page.types, "objects": page.objects,
        "next": page.next.map(|(key, address)| format!("{key}-{address}")),
    }))
}

/// What is in one object: in the program's own words if it has some for that type, else as bytes.
pub(super) async fn object(
    State(shared): State<Arc<Shared>>,
    Ready(source): Ready,
    format: Format,
    place: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Response {
    let ((pool, address), query) = (named(place), Query::of(&uri));
    let offset = query.get("offset").and_then(|offset| offset.parse().ok()).unwrap_or(0);
    let found = address.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let found = found.and_then(|address| source.object(&pool, address, offset, DESCRIBED));
    let Some(mut dump) = found else { return not_found(uri).await };
    let as_bytes = query.get("as") == Some("hex") || !shared.hooks.has_dump(dump.info.type_id);
    let described = if as_bytes { None } else { shared.hooks.describe(dump.clone()).await };
    dump.meta.truncate(DUMPED);
    dump.data.truncate(DUMPED);
    let rank = source.snapshot().rank;
    if format == Format::Json {
        return document(json!({
            "pool": pool, "object": dump.info, "offset": dump.offset, "meta_hex": hex(&dump.meta), "data_hex": hex(&dump.data),
        }));
    }
    match described {
        None => pages::object(&rank, &pool, &dump, shared.hooks.has_dump(dump.info.type_id)).into_response(),
        Some(ended) => {
            let name = format!("dump of type {}", dump.info.type_id);
            replied(ended, &name, |fragment| pages::object_told(&rank, &pool, &dump, fragment))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) async fn hooks(State(shared): State<Arc<Shared>>, Ready(source): Ready, format: Format) -> Response {
    let hooks = shared.hooks.list();
    match format {
        Format::Html => pages::hooks(&source.snapshot().rank, &hooks, shared.is_open_to_all()).into_response(),
        Format::Json => document(json!({ "rank": source.snapshot().rank.rank, "hooks": hooks })),
    }
}

pub(super) async fn hook(
    State(shared): State<Arc<Shared>>,
    Ready(source): Ready,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (name, uri) = (named(name), request.uri().clone());
    let mut asked = HookRequest { method: request.method().clone(), arguments: Query::of(&uri).0, body: Vec::new() };
    if !is_reading(&asked.method) {
        let is_form = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded"));
        match timeout(BODY.1, to_bytes(request.into_body(), BODY.0)).await {
            Ok(Ok(body)) => asked.body = body.to_vec(),
            Ok(Err(_)) => {
                return pages::message(StatusCode::PAYLOAD_TOO_LARGE, "Too large", "A body may have 64 KiB.");
            }
            Err(_) => return pages::message(StatusCode::REQUEST_TIMEOUT, "Too slow", "The body did not come."),
        }
        if is_form {
            asked.arguments.extend(form_urlencoded::parse(&asked.body).into_owned());
        }
    }
    let Some(ended) = shared.hooks.run(&name, asked).await else { return not_found(uri).await };
    let rank = source.snapshot().rank;
    replied(ended, &name, |fragment| pages::hook(&rank, &name, fragment))
}

/// What a function of the program answered, its HTML put into a page by `frame`; or why there is no answer.
fn replied(ended: Ended, name: &str, frame: impl FnOnce(String) -> Markup) -> Response {
    let (status, words) = match ended {
        Ended::Reply(HookReply { body: HookBody::Fragment(fragment) }) => return frame(fragment).into_response(),
        Ended::Reply(HookReply { body: HookBody::Whole { content_type, bytes } }) => return whole(content_type, bytes),
        Ended::Panicked => (StatusCode::INTERNAL_SERVER_ERROR, "panicked; the program's own log says more"),
        Ended::TooLong => (StatusCode::GATEWAY_TIMEOUT, "did not answer in its time"),
        Ended::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "was not begun: another one has not come back, or too many wait")
        }
    };
    (status, format!("The hook {name} {words}.\n")).into_response()
}

fn whole(content_type: String, bytes: Vec<u8>) -> Response {
    let content_type =
        HeaderValue::try_from(content_type).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    ([(header::CONTENT_TYPE, content_type)], bytes).into_response()
}
