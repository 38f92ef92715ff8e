//! Pages as JSON: the same facts for programs. Each document has `schema`, which rises when a field changes its meaning, and
//! the `version` of Lunasa that wrote it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream::iter;
use serde::Serialize;
use serde_json::{Value, json};

use super::Source;
use super::pages::CELLS;
use super::routes::Live;
use super::server::Shared;
use crate::snapshot::{RankInfo, SCHEMA};

/// Ranks written at a time, so that ten thousand of them are never in memory as text.
const ROWS: usize = 256;

/// A document of these fields.
pub(super) fn document(body: impl Serialize) -> Response {
    match serde_json::to_value(body) {
        Ok(Value::Object(mut fields)) => {
            fields.insert("schema".to_owned(), SCHEMA.into());
            fields.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
            Json(Value::Object(fields)).into_response()
        }
        other => {
            tracing::error!("a page could not be written as JSON: {other:?}");
            axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// What a live page shows, as JSON.
pub(super) async fn of(live: Live, shared: &Shared, source: &Arc<dyn Source>) -> Response {
    let snapshot = source.snapshot();
    match live {
        Live::Memory => document(snapshot),
        Live::Rank => {
            let (history, hooks) = (shared.history().clone(), shared.hooks.list());
            let whole = serde_json::to_value(snapshot).map(|mut whole| {
                whole["history"] = json!(history.samples());
                whole["hooks"] = json!(hooks);
                whole
            });
            document(whole.unwrap_or_default())
        }
        Live::Blocks => document(json!({
            "rank": snapshot.rank.rank, "blocks": snapshot.blocks, "maps": source.block_maps(CELLS),
        })),
        Live::Peers => document(json!({ "rank": snapshot.rank.rank, "peers": source.talked_to() })),
        Live::Job => ranks(&snapshot.rank, shared.job.look(shared, source).await),
    }
}

/// A row for each rank; when they are many, written piece by piece.
pub(super) fn ranks<R: Serialize + Send + Sync + 'static>(own: &RankInfo, rows: Arc<Vec<R>>) -> Response {
    let head = json!({
        "schema": SCHEMA, "version": env!("CARGO_PKG_VERSION"), "run": own.run, "rank": own.rank, "ranks": own.ranks,
        "hosts": own.hosts,
    });
    let head = head.to_string();
    let head = format!("{},\"peers\":[", head.strip_suffix('}').unwrap_or_default());
    let few = rows.len() <= ROWS;
    let pieces = (0..rows.len().div_ceil(ROWS)).map(move |piece| {
        let (start, end) = (piece * ROWS, rows.len().min((piece + 1) * ROWS));
        let rows: Vec<String> = rows[start..end].iter().map(|row| json!(row).to_string()).collect();
        format!("{}{}", if start > 0 { "," } else { "" }, rows.join(","))
    });
    let text = std::iter::once(head).chain(pieces).chain(std::iter::once("]}".to_owned()));
    let body = match few {
        true => Body::from(text.collect::<String>()),
        false => Body::from_stream(iter(text.map(|piece| Ok::<_, Infallible>(Bytes::from(piece))))),
    };
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
