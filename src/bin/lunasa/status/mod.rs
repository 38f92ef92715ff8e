//! `lunasa status`: all ranks of the user's jobs in one table.

pub mod jobs;
mod table;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use console::Term;
use lunasa::Config;
use lunasa::status::{JobFile, JobNote};
use serde_json::json;

use crate::client::Place;
use jobs::Job;

/// Version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Where the files of jobs are.
#[derive(Debug, clap::Args)]
pub struct Files {
    /// Where the jobs' files are, instead of lunasa.status.directory, XDG_RUNTIME_DIR or /tmp
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Files {
    /// The notes of all jobs of this user that are found here.
    pub fn notes(&self) -> Result<Vec<JobNote>, String> {
        let words = |error: lunasa::Error| error.to_string();
        let directory = match &self.directory {
            Some(directory) => Some(directory.clone()),
            None => Config::new().resolve().map_err(words)?.settings.status_directory,
        };
        JobFile::find(directory.as_deref()).map_err(words)
    }
}

/// What `lunasa status` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A job by the first digits of its run, or the URL of one of its ranks, as that rank prints it; all jobs of this user
    /// that are found here, when none is named
    #[arg(value_name = "JOB|URL")]
    named: Vec<String>,
    /// Print JSON, a document in a line
    #[arg(long)]
    json: bool,
    /// Ask again every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    watch: Option<Duration>,
    /// How long to wait for the answers of a job, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    #[command(flatten)]
    files: Files,
}

/// A time of a command's argument.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let allowed = |seconds: &f64| (0.01..=86_400.0).contains(seconds);
    let seconds = text.parse::<f64>().ok().filter(allowed).ok_or("a number of seconds from 0.01 to 86400 is needed")?;
    Ok(Duration::from_secs_f64(seconds))
}

/// Runs it: 0 when all ranks answered, 1 when some did not, 2 when it could not be asked.
pub fn run(options: &Options) -> ExitCode {
    let done = crate::in_event_loop(async {
        loop {
            let jobs = look(options).await?;
            let all_answer = show(options, &jobs).map_err(|error| format!("the answers cannot be written: {error}"))?;
            let Some(pause) = options.watch else { return Ok(all_answer) };
            tokio::time::sleep(pause).await;
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => crate::failed("status", &error),
    }
}

async fn look(options: &Options) -> Result<Vec<Job>, String> {
    let mut by_run: BTreeMap<String, Vec<JobNote>> = BTreeMap::new();
    let notes = options.files.notes()?;
    let (urls, wanted): (Vec<&String>, Vec<&String>) =
        options.named.iter().partition(|name| name.contains([':', '/', '.']));
    if let Some(unknown) = wanted.iter().find(|name| !notes.iter().any(|note| note.run.starts_with(name.as_str()))) {
        return Err(format!(
            "no job of yours whose run begins with {unknown:?} is found here; name it by a rank's URL"
        ));
    }
    for note in &notes {
        let is_wanted = wanted.iter().any(|name| note.run.starts_with(name.as_str()));
        if is_wanted || options.named.is_empty() {
            by_run.entry(note.run.clone()).or_default().push(note.clone());
        }
    }
    let mut jobs = Vec::new();
    for notes in by_run.values() {
        jobs.push(jobs::of_notes(notes, options.timeout).await);
    }
    for url in urls {
        let (place, token) = Place::of_url(url)?;
        let token = match token {
            None => jobs::token_for(&notes, &place, options.timeout).await,
            token => token,
        };
        let job = jobs::of_place(&place, token.as_deref(), options.timeout).await;
        jobs.push(job.map_err(|reason| format!("{}: {reason}", without_token(url)))?);
    }
    Ok(jobs)
}

/// A URL as it may be shown.
pub fn without_token(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Prints, and says whether every rank answered.
fn show(options: &Options, jobs: &[Job]) -> std::io::Result<bool> {
    let mut out = std::io::stdout().lock();
    let (over, running): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| job.left_behind);
    if options.json {
        let over: Vec<&str> = over.iter().map(|job| job.run.as_str()).collect();
        writeln!(out, "{}", json!({ "schema": SCHEMA, "jobs": running, "left_behind": over }))?;
    } else {
        if options.watch.is_some() && Term::stdout().is_term() {
            // A terminal that cannot be cleared shows one table below the other.
            let _ = Term::stdout().clear_screen();
        }
        match running.is_empty() {
            true => writeln!(out, "no job of yours is found here"),
            false => writeln!(out, "{}", table::table(&running)),
        }?;
        for job in over {
            eprintln!("job {} is over, but left its files behind: it was killed", job.run);
        }
    }
    Ok(running.iter().all(|job| job.silent() == 0))
}
