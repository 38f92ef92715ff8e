//! Asking the other ranks' endpoints how they are: all at once, with a bound on how many at a time and on how long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use futures_util::StreamExt;
use futures_util::stream::iter;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::Source;
use super::server::Shared;
use crate::snapshot::{PeerInfo, RankBrief, RankInfo};

/// Ranks that are asked at a time.
const AT_A_TIME: usize = 64;
/// How long one rank may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long all of them may take together; who was not asked by then is the first the next time.
const TOGETHER: Duration = Duration::from_secs(3);
/// How long what was found is shown again before they are asked anew.
const FRESH: Duration = Duration::from_secs(1);
/// Bytes of an answer, at most.
const ANSWER: usize = 64 << 10;

/// What is known of one rank.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Answer {
    /// It answered.
    Answered {
        /// How it is.
        brief: RankBrief,
    },
    /// It did not.
    Silent {
        /// Why.
        reason: String,
    },
    /// There was no time to ask it yet.
    NotAsked,
    /// It has no page, or one that only its own host reaches.
    NoPage,
}

/// A rank of the job, and what is known of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct JobRow {
    /// Where it is.
    #[serde(flatten)]
    pub(super) peer: PeerInfo,
    /// What it said.
    #[serde(flatten)]
    pub(super) answer: Answer,
}

impl JobRow {
    pub(super) fn brief(&self) -> Option<&RankBrief> {
        match &self.answer {
            Answer::Answered { brief } => Some(brief),
            _ => None,
        }
    }
}

/// What the ranks said last.
#[derive(Default)]
pub(super) struct Job(Mutex<Known>);

#[derive(Default)]
struct Known {
    rows: Arc<Vec<JobRow>>,
    at: Option<Instant>,
    /// The rank that is asked first the next time.
    first: usize,
}

impl Job {
    /// Every rank as it is now, or was within the last second.
    pub(super) async fn look(&self, shared: &Shared, source: &Arc<dyn Source>) -> Arc<Vec<JobRow>> {
        // Who comes while the ranks are being asked waits here, and is shown the same.
        let mut known = self.0.lock().await;
        if known.at.is_some_and(|at| at.elapsed() < FRESH) {
            return known.rows.clone();
        }
        let own = source.snapshot().rank;
        let peers = source.peers();
        let ranks = peers.len();
        let mut answers: Vec<Answer> = peers.iter().map(|peer| before_asking(peer, &own)).collect();
        let order = (0..ranks).map(|i| (known.first + i) % ranks.max(1));
        let to_ask: Vec<usize> =
            order.filter(|&i| matches!(answers[i], Answer::NotAsked) && i != own.rank as usize).collect();
        if let Some(mine) = answers.get_mut(own.rank as usize) {
            *mine = Answer::Answered { brief: shared.brief(source) };
        }
        let (run, between): (Arc<str>, Arc<str>) = (own.run.as_str().into(), shared.between.as_str().into());
        let each: Vec<(usize, PeerInfo)> = to_ask.iter().map(|&i| (i, peers[i].clone())).collect();
        let asked = each.into_iter().map(move |(i, peer)| ask(i, peer, run.clone(), between.clone()));
        let mut answered = iter(asked).buffer_unordered(AT_A_TIME);
        let deadline = Instant::now() + TOGETHER;
        let mut count = 0;
        while let Ok(Some((i, answer))) = timeout_at(deadline, answered.next()).await {
            answers[i] = answer;
            count += 1;
        }
        drop(answered);
        // Some of those that were under way at the end were begun before others that answered.
        known.first = match count < to_ask.len() {
            true => to_ask[count.saturating_sub(AT_A_TIME)],
            false => 0,
        };
        // Who was not asked this time keeps what it said the last time.
        for (answer, before) in answers.iter_mut().zip(known.rows.iter()) {
            if matches!(answer, Answer::NotAsked) {
                *answer = before.answer.clone();
            }
        }
        known.rows = Arc::new(peers.into_iter().zip(answers).map(|(peer, answer)| JobRow { peer, answer }).collect());
        known.at = Some(Instant::now());
        known.rows.clone()
    }
}

fn before_asking(peer: &PeerInfo, own: &RankInfo) -> Answer {
    match address_of(&peer.url) {
        // Its loopback address would lead to somebody of this host.
        Some(address) if address.ip().to_canonical().is_loopback() && peer.host != own.host => Answer::NoPage,
        Some(_) => Answer::NotAsked,
        None => Answer::NoPage,
    }
}

/// The address in a peer's URL.
pub(super) fn address_of(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.trim_end_matches('/').parse().ok()
}

async fn ask(place: usize, peer: PeerInfo, run: Arc<str>, between: Arc<str>) -> (usize, Answer) {
    let silent = |reason: String| Answer::Silent { reason };
    let Some(address) = address_of(&peer.url) else { return (place, Answer::NoPage) };
    let answer = match timeout(PATIENCE, brief_of(address, &between)).await {
        Err(_) => silent(format!("no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(reason)) => silent(reason),
        // Its port may have come to somebody else.
        Ok(Ok(brief)) if brief.run != *run || brief.rank != peer.rank => {
            silent("somebody else answers there".to_owned())
        }
        Ok(Ok(brief)) => Answer::Answered { brief },
    };
    (place, answer)
}

async fn brief_of(address: SocketAddr, between: &str) -> Result<RankBrief, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| words(&error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    let exchange = async {
        let request = Request::get("/brief")
            .header(header::HOST, address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {between}"))
            .body(Body::empty())
            .map_err(|error| words(&error))?;
        let response = sender.send_request(request).await.map_err(|error| words(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let bytes = to_bytes(Body::new(response.into_body()), ANSWER).await.map_err(|error| words(&error))?;
        serde_json::from_slice(&bytes).map_err(|_| "somebody else answers there".to_owned())
    };
    // The connection is moved on by whoever waits for its answer, and ends with it.
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(ended.err().map_or_else(|| "it hung up".to_owned(), |error| words(&error))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_plain_addresses_are_asked() {
        assert_eq!(address_of("http://10.0.0.6:1990/"), "10.0.0.6:1990".parse().ok());
        assert_eq!(address_of("http://[::1]:7/"), "[::1]:7".parse().ok());
        for other in ["", "javascript:alert(1)", "https://10.0.0.6:1990/", "http://name:80/", "http://10.0.0.6/"] {
            assert_eq!(address_of(other), None, "{other}");
        }
    }
}
