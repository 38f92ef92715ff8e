//! Paths: from a request to a page, past the guard that every request meets first.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response, Sse};
use axum::routing::{any, get};
use axum::{Extension, Json, Router};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::access::{Credential, bears, without_token};
use super::events::{self, Watching};
use super::hooks::{allowed, is_reading};
use super::pages::{self, Part};
use super::query::{Query, Sorting};
use super::server::Shared;
use super::{Source, answers, documents, programs};
use crate::snapshot::PeerTraffic;

/// Streams of live values that may be open at once.
pub(super) const STREAMS: usize = 16;
/// How long one answer may take to be made, hooks included, whatever their own limits.
const ANSWER_TIME: Duration = Duration::from_secs(50);

/// On every answer: nobody else is told the address (a form needs it told to ourselves, or its `Origin` is null), nothing is stored, nothing is loaded from elsewhere, no script runs but our own file, nobody frames it.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
             form-action 'self'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
];

/// The connection that a request came by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection {
    /// The address of this host on which it came in; none for a socket in the file system.
    pub(super) reached: Option<IpAddr>,
    /// When it ends.
    pub(super) until: Instant,
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(live))
        .route("/lunasa", get(live))
        .route("/lunasa/blocks", get(live))
        .route("/lunasa/{pool}", get(answers::objects))
        .route("/lunasa/{pool}/{address}", get(answers::object))
        .route("/peers", get(live))
        .route("/job", get(live))
        .route("/hooks", get(answers::hooks))
        .route("/hooks/{name}", any(answers::hook))
        .route("/brief", get(brief))
        .route("/events", get(events))
        .route("/healthz", get(health))
        .route("/enter", get(enter))
        .merge(programs::routes())
        .route("/style.css", get(style))
        .route("/script.js", get(script))
        .route("/icon.svg", get(icon))
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

async fn guard(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Connection>,
    request: Request,
    next: Next,
) -> Response {
    // One who sends request upon request waits after each for all the others.
    yield_now().await;
    let mut response = match refusal(&shared, connection, &request) {
        Some(refusal) => refusal,
        None => timeout(ANSWER_TIME, next.run(request)).await.unwrap_or_else(|_| {
            pages::message(StatusCode::GATEWAY_TIMEOUT, "Too slow", "This took too long, and was given up.")
        }),
    };
    response.headers_mut().extend(HEADERS);
    response
}

/// The answer to a request that does not get to a page: one too many, called by a wrong name or from another's page, of a
/// wrong method, without the token, or with the token in its URL.
fn refusal(shared: &Shared, connection: Connection, request: &Request) -> Option<Response> {
    let (uri, headers) = (request.uri(), request.headers());
    if !shared.rate.admits() {
        let page = pages::message(StatusCode::TOO_MANY_REQUESTS, "Too many requests", "Ask again in a second.");
        return Some(([(header::RETRY_AFTER, "1")], page).into_response());
    }
    // Who reaches a socket in the file system is its user, and no browser does.
    let by_socket = connection.reached.is_none();
    let reached = connection.reached.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if !by_socket && !shared.names.allow(uri, headers, reached) {
        return Some(pages::message(StatusCode::MISDIRECTED_REQUEST, "Not this endpoint's name", pages::WRONG_HOST));
    }
    if !by_socket && !shared.names.allow_origin(headers, reached) {
        return Some(pages::message(
            StatusCode::FORBIDDEN,
            "Another's page",
            "Pages of other places may not ask this one.",
        ));
    }
    if let Some(allow) = refused_method(shared, request) {
        let page =
            pages::message(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", &format!("Only {allow} is answered."));
        return Some(([(header::ALLOW, allow)], page).into_response());
    }
    let public = matches!(uri.path(), "/healthz" | "/readyz" | "/style.css" | "/script.js" | "/icon.svg");
    if by_socket || public || (matches!(uri.path(), "/brief" | "/ranks") && bears(headers, &shared.between)) {
        return None;
    }
    let port = shared.address.map_or(0, |address| address.port());
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

/// The methods that are answered, when that of a request is not one of them.
fn refused_method(shared: &Shared, request: &Request) -> Option<&'static str> {
    if is_reading(request.method()) {
        return None;
    }
    let hook = request.uri().path().strip_prefix("/hooks/");
    let post = hook.is_some_and(|name| shared.hooks.answers_post(name) == Some(true));
    (!post || request.method() != Method::POST).then_some(allowed(post))
}

/// The source, or a 503 while there is none.
pub(super) struct Ready(pub(super) Arc<dyn Source>);

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
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Html,
    Json,
}

impl<S: Sync> FromRequestParts<S> for Format {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        match Query::of(&parts.uri).get("format") {
            None | Some("html") => Ok(Self::Html),
            Some("json") => Ok(Self::Json),
            Some(_) => Err(pages::message(StatusCode::BAD_REQUEST, "Unknown format", "format must be html or json.")),
        }
    }
}

/// The pages that are kept up to date while they are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    Rank,
    Memory,
    Blocks,
    Peers,
    Job,
}

impl Live {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Rank,
            "/lunasa" => Self::Memory,
            "/lunasa/blocks" => Self::Blocks,
            "/peers" => Self::Peers,
            "/job" => Self::Job,
            _ => return None,
        })
    }
}

/// What a live page shows now, part by part.
pub(super) async fn parts(live: &Live, shared: &Shared, source: &Arc<dyn Source>, query: &Query) -> Vec<Part> {
    match live {
        Live::Rank => {
            let (snapshot, hooks) = (source.snapshot(), shared.hooks.list());
            let history = shared.history();
            pages::rank(&snapshot, &history, &hooks)
        }
        Live::Memory => pages::memory(&source.snapshot()),
        Live::Blocks => pages::blocks(&source.snapshot(), &source.block_maps(pages::CELLS)),
        Live::Peers => {
            let mut talked_to = source.talked_to();
            let sorting = Sorting::new(query, &["bytes", "rank", "errors", "transfers"], true);
            sorting.apply(&mut talked_to, |peer: &PeerTraffic| match sorting.key {
                "rank" => peer.rank.into(),
                "errors" => peer.errors,
                "transfers" => peer.gets + peer.puts,
                _ => peer.get_bytes + peer.put_bytes,
            });
            pages::peers(&source.snapshot().rank, &talked_to, &sorting)
        }
        Live::Job => {
            let rows = shared.job.look(shared, source).await;
            pages::job(&source.snapshot().rank, &rows, query, shared.access.token())
        }
    }
}

async fn live(State(shared): State<Arc<Shared>>, Ready(source): Ready, format: Format, uri: Uri) -> Response {
    let Some(live) = Live::at(uri.path()) else { return not_found(uri).await };
    let query = Query::of(&uri);
    if format == Format::Json {
        return documents::of(live, &shared, &source).await;
    }
    let parts = parts(&live, &shared, &source, &query).await;
    pages::live(&source.snapshot().rank, uri.path(), &parts, &query, shared.is_open_to_all()).into_response()
}

async fn events(
    State(shared): State<Arc<Shared>>,
    Ready(_): Ready,
    Extension(connection): Extension<Connection>,
    uri: Uri,
) -> Response {
    let query = Query::of(&uri);
    let Some(live) = query.get("page").and_then(Live::at) else { return not_found(uri).await };
    let Ok(slot) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let page = pages::message(StatusCode::SERVICE_UNAVAILABLE, "Too many watch", "Reload the page instead.");
        return ([(header::RETRY_AFTER, "30")], page).into_response();
    };
    Sse::new(events::stream(Watching { live, query, shared, until: connection.until, slot })).into_response()
}

async fn brief(State(shared): State<Arc<Shared>>, Ready(source): Ready) -> Response {
    Json(shared.brief(&source)).into_response()
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

async fn script() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("script.js")).into_response()
}

async fn icon() -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml")], include_str!("icon.svg")).into_response()
}

pub(super) async fn not_found(uri: Uri) -> Response {
    pages::message(StatusCode::NOT_FOUND, "Not found", &format!("There is no {} here.", uri.path()))
}

/// A part of a path, decoded; one that is not UTF-8 is nobody's name.
pub(super) fn named<T: Default>(part: Result<Path<T>, PathRejection>) -> T {
    part.map_or_else(|_| T::default(), |Path(name)| name)
}
