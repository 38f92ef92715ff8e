//! Paths: from a request to a page, past the guard that every request meets first.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::json;

use super::access::{Credential, arguments, without_token};
use super::hooks::{HookBody, HookRequest};
use super::server::Shared;
use super::{Source, pages};
use crate::snapshot::SCHEMA;

/// Objects listed on one page, at most.
const OBJECTS: usize = 1000;

/// On every answer: nothing is stored, nothing is loaded from elsewhere, no script runs, nobody frames it.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// The address of this host on which a connection came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReachedAt(pub(super) IpAddr);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(rank))
        .route("/lunasa", get(memory))
        .route("/lunasa/{pool}", get(objects))
        .route("/job", get(job))
        .route("/hooks", get(hooks))
        .route("/hooks/{name}", get(hook))
        .route("/healthz", get(health))
        .route("/enter", get(enter))
        .route("/style.css", get(style))
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

async fn guard(
    State(shared): State<Arc<Shared>>,
    Extension(reached): Extension<ReachedAt>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match refusal(&shared, reached, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    response.headers_mut().extend(HEADERS);
    response
}

/// The answer to a request that does not get to a page: called by a wrong name, of a wrong method, without the token, or
/// with the token in its URL.
fn refusal(shared: &Shared, reached: ReachedAt, request: &Request) -> Option<Response> {
    let (uri, headers, port) = (request.uri(), request.headers(), shared.address.port());
    if !shared.names.allow(uri, headers, reached.0) {
        return Some(pages::message(StatusCode::MISDIRECTED_REQUEST, "Not this endpoint's name", pages::WRONG_HOST));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let page =
            pages::message(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", "Only GET and HEAD are answered.");
        return Some(([(header::ALLOW, "GET, HEAD")], page).into_response());
    }
    if matches!(uri.path(), "/healthz" | "/style.css") {
        return None;
    }
    match shared.access.credential(uri, headers, port) {
        Credential::Granted => None,
        Credential::InUrl if uri.path() == "/enter" => {
            Some(([(header::SET_COOKIE, shared.access.cookie(port))], pages::enter()).into_response())
        }
        Credential::InUrl => {
            let headers = [(header::SET_COOKIE, shared.access.cookie(port)), (header::LOCATION, without_token(uri))];
            Some((StatusCode::SEE_OTHER, headers).into_response())
        }
        Credential::Refused => {
            let page = pages::message(StatusCode::UNAUTHORIZED, "A token is needed", pages::WHERE_THE_TOKEN_IS);
            Some(([(header::WWW_AUTHENTICATE, "Bearer realm=\"lunasa\"")], page).into_response())
        }
    }
}

/// The source, or a 503 while there is none.
struct Ready(Arc<dyn Source>);

impl FromRequestParts<Arc<Shared>> for Ready {
    type Rejection = Response;

    async fn from_request_parts(_: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        shared.source().map(Ready).ok_or_else(|| {
            let page =
                pages::message(StatusCode::SERVICE_UNAVAILABLE, "Starting", "This rank is starting. Try again soon.");
            ([(header::RETRY_AFTER, "1")], page).into_response()
        })
    }
}

/// How a page is wanted: `?format=json`, else as HTML.
enum Format {
    Html,
    Json,
}

impl<S: Sync> FromRequestParts<S> for Format {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        match arguments(&parts.uri).find(|(name, _)| name == "format").as_ref().map(|(_, value)| value.as_str()) {
            None | Some("html") => Ok(Self::Html),
            Some("json") => Ok(Self::Json),
            Some(_) => Err(pages::message(StatusCode::BAD_REQUEST, "Unknown format", "format must be html or json.")),
        }
    }
}

async fn rank(State(shared): State<Arc<Shared>>, Ready(source): Ready) -> Response {
    pages::rank(&source.snapshot(), &shared.hooks.names()).into_response()
}

async fn memory(Ready(source): Ready, format: Format) -> Response {
    let snapshot = source.snapshot();
    match format {
        Format::Html => pages::memory(&snapshot).into_response(),
        Format::Json => Json(snapshot).into_response(),
    }
}

/// The objects of one pool, or of all eager or lazy ones.
async fn objects(
    Ready(source): Ready,
    format: Format,
    pool: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Response {
    let snapshot = source.snapshot();
    // A name that is not UTF-8 is nobody's.
    let pool = pool.map_or_else(|_| String::new(), |Path(pool)| pool);
    let is_meant = |name: &str| name.split_once('.').is_some_and(|(time, _)| time == pool) || name == pool;
    let meant: Vec<u64> = snapshot.pools.iter().filter(|own| is_meant(&own.name)).map(|own| own.live_objects).collect();
    if meant.is_empty() {
        return not_found(uri).await;
    }
    let live = meant.iter().sum();
    let mut objects = source.objects(&pool, OBJECTS + 1);
    let cut = objects.len() > OBJECTS;
    objects.truncate(OBJECTS);
    match format {
        Format::Html => pages::objects(&snapshot.rank, &pool, live, cut, &objects).into_response(),
        Format::Json => {
            Json(json!({ "schema": SCHEMA, "pool": pool, "live_objects": live, "cut": cut, "objects": objects }))
                .into_response()
        }
    }
}

async fn job(State(shared): State<Arc<Shared>>, Ready(source): Ready, format: Format) -> Response {
    let (rank, peers) = (source.snapshot().rank, source.peers());
    match format {
        Format::Html => pages::job(&rank, &peers, shared.access.token()).into_response(),
        Format::Json => {
            Json(json!({ "schema": SCHEMA, "run": rank.run, "rank": rank.rank, "ranks": rank.ranks, "peers": peers }))
                .into_response()
        }
    }
}

async fn hooks(State(shared): State<Arc<Shared>>, Ready(source): Ready) -> Response {
    pages::hooks(&source.snapshot().rank, &shared.hooks.names()).into_response()
}

async fn hook(
    State(shared): State<Arc<Shared>>,
    Ready(source): Ready,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Response {
    // A name that is not UTF-8 is nobody's.
    let Ok(Path(name)) = name else { return not_found(uri).await };
    match shared.hooks.run(&name, &HookRequest { arguments: arguments(&uri).collect() }) {
        None => not_found(uri).await,
        Some(None) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("The hook {name} panicked; the program's own log says more.\n"))
                .into_response()
        }
        Some(Some(reply)) => match reply.body {
            HookBody::Fragment(fragment) => pages::hook(&source.snapshot().rank, &name, fragment).into_response(),
            HookBody::Whole { content_type, bytes } => {
                let content_type = HeaderValue::try_from(content_type)
                    .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
                ([(header::CONTENT_TYPE, content_type)], bytes).into_response()
            }
        },
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let health = shared.source().map_or_else(|| Err("starting".to_string()), |source| source.health());
    match health {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Without the token in its URL (the guard deals with that): who is let in already moves on all the same.
async fn enter() -> Response {
    pages::enter().into_response()
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css")).into_response()
}

async fn not_found(uri: Uri) -> Response {
    pages::message(StatusCode::NOT_FOUND, "Not found", &format!("There is no {} here.", uri.path()))
}
