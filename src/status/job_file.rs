//! The file by which the command line finds the jobs that a user runs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::is_name;
use super::token_file::user_directory;
use crate::error::{Error, Result};

/// What is known of a running job on one of its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNote {
    /// The run, in hexadecimal.
    pub run: String,
    /// The first rank on this host.
    pub rank: u32,
    /// Ranks of the job.
    pub ranks: u32,
    /// This host.
    pub host: String,
    /// The process of that rank.
    pub pid: u32,
    /// Where that rank's endpoint answers: `http://ADDRESS:PORT/`, or `unix:PATH`.
    pub url: String,
    /// What opens `/ranks` and `/brief`, and nothing else: ranks whose port came to somebody else are not shown the token.
    pub between: String,
    /// Where the token is; none when everybody may ask.
    pub token_file: Option<PathBuf>,
}

/// A [`JobNote`] in `DIR/lunasa-UID/RUN-RANK.json`, of mode 0600; DIR is as for the token file.
///
/// Dropping this removes the file; in a forked child it does nothing.
#[derive(Debug)]
pub struct JobFile {
    path: PathBuf,
    owner: u32,
}

impl JobFile {
    /// Writes `note`.
    ///
    /// # Errors
    /// As for the token file: when the directory is not the user's alone, the run is no name, or the file cannot be written.
    pub fn create(directory: Option<&Path>, note: &JobNote) -> Result<Self> {
        if !is_name(&note.run) {
            return Err(Error::Endpoint(format!("no file can be named after the run {:?}", note.run)));
        }
        let path = user_directory(directory)?.join(format!("{}-{}.json", note.run, note.rank));
        let unfinished = path.with_extension("new");
        let text = serde_json::to_vec(note).map_err(|error| cannot("write", &path, &error.into()))?;
        // Renamed when it is whole: who looks meanwhile does not find half of it.
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).and_then(|mut file| {
                file.write_all(&text).and_then(|()| fs::rename(&unfinished, &path)).inspect_err(|_| {
                    let _ = fs::remove_file(&unfinished);
                })
            });
        written.map_err(|error| cannot("write", &path, &error))?;
        Ok(Self { path, owner: std::process::id() })
    }

    /// The notes of all jobs there, by run and then by rank. Files that are something else are passed over.
    ///
    /// # Errors
    /// When the directory is not the user's alone, or cannot be read.
    pub fn find(directory: Option<&Path>) -> Result<Vec<JobNote>> {
        let directory = user_directory(directory)?;
        let entries = fs::read_dir(&directory).map_err(|error| cannot("look into", &directory, &error))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let mut notes: Vec<JobNote> =
            paths.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect();
        notes.sort_by(|a, b| (&a.run, a.rank).cmp(&(&b.run, b.rank)));
        Ok(notes)
    }
}

impl Drop for JobFile {
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("the job's file {} could not be removed: {error}", self.path.display());
        }
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Endpoint(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn note(run: &str, rank: u32) -> JobNote {
        let url = "http://127.0.0.1:1990/".to_owned();
        JobNote {
            run: run.into(),
            rank,
            ranks: 4,
            host: "n0".into(),
            pid: 7,
            url,
            between: "b".into(),
            token_file: None,
        }
    }

    #[test]
    fn notes_are_found_until_their_owner_goes_and_other_files_are_passed_over() {
        let temporary = tempfile::tempdir().unwrap();
        let there = Some(temporary.path());
        let files: Vec<JobFile> = [note("b", 0), note("a", 10), note("a", 2)]
            .iter()
            .map(|note| JobFile::create(there, note).unwrap())
            .collect();
        assert_eq!(fs::metadata(&files[0].path).unwrap().mode() & 0o777, 0o600);
        fs::write(user_directory(there).unwrap().join("other.json"), "{}").unwrap();
        assert_eq!(JobFile::find(there).unwrap(), [note("a", 2), note("a", 10), note("b", 0)]);
        drop(files);
        assert_eq!(JobFile::find(there).unwrap(), []);
        assert_eq!(fs::read_dir(user_directory(there).unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_run_that_would_leave_the_directory_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        assert!(JobFile::create(Some(temporary.path()), &note("../x", 0)).is_err());
    }
}
