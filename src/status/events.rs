//! Live pages: the parts of a page that changed, a stream of server-sent events.
//!
//! An event's data are JSON, `{"parts": [{"id": …, "html": …}]}`; the parts are the very ones that the page was made of.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

use super::pages::Part;
use super::query::Query;
use super::routes::{Live, parts};
use super::server::Shared;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Of the whole job, when it has many ranks.
const SELDOM: Duration = Duration::from_secs(5);
/// Ranks that are many.
const MANY: u32 = 1000;
/// How long before the end of its connection a stream ends, so that the browser finds it whole and asks again.
const AHEAD: Duration = Duration::from_secs(2);

/// One open stream.
pub(super) struct Watching {
    pub(super) live: Live,
    pub(super) query: Query,
    pub(super) shared: Arc<Shared>,
    pub(super) until: Instant,
    #[expect(dead_code, reason = "held as long as the stream is open")]
    pub(super) slot: OwnedSemaphorePermit,
}

/// The parts of the page that changed since they were last sent; all of them at first.
pub(super) fn stream(watching: Watching) -> impl Stream<Item = Result<Event, Infallible>> {
    let begun: Option<(Watching, HashMap<&'static str, u64>)> = Some((watching, HashMap::new()));
    unfold((begun, None), |(state, mut pause)| async move {
        let (watching, mut sent) = state?;
        let mut stopped = watching.shared.stopped.clone();
        loop {
            if let Some(pause) = pause {
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = stopped.changed() => return None,
                    () = sleep_until(watching.until - AHEAD) => return None,
                }
            }
            // Without a source the rank is finishing.
            let source = watching.shared.source()?;
            let many = matches!(watching.live, Live::Job) && source.snapshot().rank.ranks > MANY;
            pause = Some(if many { SELDOM } else { EVERY });
            let changed: Vec<_> = parts(&watching.live, &watching.shared, &source, &watching.query)
                .await
                .into_iter()
                .filter(|part| sent.insert(part.id, hash(part)) != Some(hash(part)))
                .map(|part| json!({ "id": part.id, "html": part.body.0 }))
                .collect();
            if !changed.is_empty() {
                let event = Event::default().data(json!({ "parts": changed }).to_string());
                return Some((Ok(event), (Some((watching, sent)), pause)));
            }
        }
    })
}

fn hash(part: &Part) -> u64 {
    let mut hasher = DefaultHasher::new();
    part.body.0.hash(&mut hasher);
    hasher.finish()
}
