//! What programs ask for that is no page: the numbers, who else is there, and whether the start is over.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::documents;
use super::metrics::Exposition;
use super::routes::Ready;
use super::server::Shared;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/metrics", get(metrics)).route("/ranks", get(ranks)).route("/readyz", get(ready))
}

async fn metrics(Ready(source): Ready, headers: HeaderMap) -> Response {
    let exposition = Exposition::wanted(&headers);
    match exposition.write(source.snapshot()) {
        Ok(written) => ([(CONTENT_TYPE, exposition.content_type())], written).into_response(),
        Err(error) => {
            tracing::error!("the numbers could not be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Every rank and where its endpoint is, without asking any of them.
async fn ranks(Ready(source): Ready) -> Response {
    documents::ranks(&source.snapshot().rank, Arc::new(source.peers()))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.source() {
        Some(_) => "ready\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], "starting\n").into_response(),
    }
}
