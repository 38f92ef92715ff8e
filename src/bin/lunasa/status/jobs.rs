//! The running jobs of this user, and asking their ranks: all at once, with a bound on how many at a time and how long.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use lunasa::snapshot::{PeerInfo, RankBrief};
use lunasa::status::JobNote;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::client::{Ask, Place, ask};

/// Ranks that are asked at a time.
const AT_A_TIME: usize = 64;
/// How long one rank may take, at most, so that silent ones leave time for the others.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of what one rank says of itself, and of a list of all ranks, at most.
const ANSWER: (usize, usize) = (64 << 10, 1 << 30);

/// One rank, and what it said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub rank: u32,
    pub host: String,
    pub url: String,
    /// How it is; none when it did not answer.
    pub brief: Option<RankBrief>,
    /// Why it did not answer.
    pub reason: Option<String>,
}

/// A job, and what its ranks said.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Job {
    pub run: String,
    pub ranks: u32,
    #[serde(rename = "peers")]
    pub rows: Vec<Row>,
    /// Whether nothing of it is left but its files.
    #[serde(default)]
    pub left_behind: bool,
}

impl Job {
    /// How many ranks are known not to have answered.
    pub fn silent(&self) -> usize {
        self.rows.iter().filter(|row| row.brief.is_none()).count()
    }
}

/// The body of an answer to a rank's own questions; why there is none otherwise.
async fn read<T: for<'a> Deserialize<'a>>(
    place: &Place,
    target: &str,
    secret: Option<&str>,
    patience: Duration,
    limit: usize,
) -> Result<T, String> {
    let reply = ask(place, Ask { target, secret, form: None }, patience, limit).await?;
    if !reply.status.is_success() {
        return Err(format!("it answers {}", reply.status));
    }
    serde_json::from_slice(&reply.body).map_err(|_| "somebody else answers there".to_owned())
}

/// What a rank says of all.
#[derive(Debug, Deserialize)]
struct Ranks {
    run: String,
    peers: Vec<PeerInfo>,
}

/// Asks every rank of a job for itself; `notes` are those of the job's hosts that were found here.
pub async fn of_notes(notes: &[JobNote], within: Duration) -> Job {
    let deadline = Instant::now() + within;
    let mut job = Job { left_behind: true, ..Job::default() };
    for note in notes {
        (job.run, job.ranks) = (note.run.clone(), note.ranks);
        let found = match Place::of_url(&note.url) {
            Ok((place, _)) => read::<Ranks>(&place, "/ranks", Some(&note.between), within, ANSWER.1).await,
            Err(reason) => Err(reason),
        };
        let reason = match found {
            Ok(ranks) if ranks.run == note.run => {
                let rows = all(note, ranks.peers, deadline, within).await;
                return Job { rows, left_behind: false, ..job };
            }
            Ok(_) => "somebody else answers there".to_owned(),
            Err(reason) => reason,
        };
        job.left_behind &= is_over(note);
        let (host, url) = (note.host.clone(), note.url.clone());
        job.rows.push(Row { rank: note.rank, host, url, brief: None, reason: Some(reason) });
    }
    job
}

async fn all(entry: &JobNote, peers: Vec<PeerInfo>, deadline: Instant, within: Duration) -> Vec<Row> {
    let too_late = format!("no answer within {} s", within.as_secs_f64());
    let mut rows: Vec<Row> = peers
        .into_iter()
        .map(|PeerInfo { rank, host, url, .. }| Row { rank, host, url, brief: None, reason: Some(too_late.clone()) })
        .collect();
    let patience = PATIENCE.min(within);
    let places: Vec<_> = rows.iter().enumerate().map(|(i, row)| (i, row.rank, place_of(entry, row))).collect();
    let asked = places.into_iter().map(async |(i, rank, place)| {
        let found = match place {
            Ok(place) => read::<RankBrief>(&place, "/brief", Some(&entry.between), patience, ANSWER.0).await,
            Err(reason) => Err(reason),
        };
        // Its port may have come to somebody else.
        let is_it = |brief: &RankBrief| brief.run == entry.run && brief.rank == rank;
        let found = match found {
            Ok(brief) if !is_it(&brief) => Err("somebody else answers there".to_owned()),
            found => found,
        };
        (i, found)
    });
    let mut answers = std::pin::pin!(iter(asked).buffer_unordered(AT_A_TIME));
    while let Ok(Some((i, found))) = timeout_at(deadline, answers.next()).await {
        match found {
            Ok(brief) => (rows[i].brief, rows[i].reason) = (Some(brief), None),
            Err(reason) => rows[i].reason = Some(reason),
        }
    }
    rows
}

/// Where a rank is asked, seen from where `entry` was found.
fn place_of(entry: &JobNote, row: &Row) -> Result<Place, String> {
    if let Some(path) = entry.url.strip_prefix("unix:") {
        // All sockets of a host are in one directory.
        let socket = Path::new(path).with_file_name(format!("{}-{}.socket", entry.run, row.rank));
        return if socket.exists() { Ok(Place::Socket(socket)) } else { Err("it has no socket here".to_owned()) };
    }
    if row.url.is_empty() {
        return Err("it has no page".to_owned());
    }
    let (place, _) = Place::of_url(&row.url)?;
    let loopback = row.url.starts_with("http://127.") || row.url.starts_with("http://[::1]");
    // Its loopback address would lead to somebody of this host.
    if loopback && row.host != entry.host { Err("only its own host reaches it".to_owned()) } else { Ok(place) }
}

/// Whether the process that wrote this is gone.
fn is_over(note: &JobNote) -> bool {
    let here = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    here.trim() == note.host && !Path::new(&format!("/proc/{}", note.pid)).exists()
}

/// Has the rank at this place ask the others: what is behind a forwarded port cannot be reached otherwise.
pub async fn of_place(place: &Place, token: Option<&str>, within: Duration) -> Result<Job, String> {
    let mut job: Job = read(place, "/job?format=json", token, within, ANSWER.1).await?;
    for row in job.rows.iter_mut().filter(|row| row.brief.is_none() && row.reason.is_none()) {
        row.reason = Some("it was not reached from that rank".to_owned());
    }
    Ok(job)
}

/// The token of the job that has an endpoint at this place, if it is one of the user's own.
pub async fn token_for(notes: &[JobNote], wanted: &Place, within: Duration) -> Option<String> {
    let is_there = |url: &str| Place::of_url(url).is_ok_and(|(place, _)| place == *wanted);
    for note in notes {
        let Ok((place, _)) = Place::of_url(&note.url) else { continue };
        let ranks = read::<Ranks>(&place, "/ranks", Some(&note.between), within, ANSWER.1).await;
        let Ok(ranks) = ranks else { continue };
        if is_there(&note.url) || ranks.peers.iter().any(|peer| is_there(&peer.url)) {
            return std::fs::read_to_string(note.token_file.as_ref()?).ok();
        }
    }
    None
}
