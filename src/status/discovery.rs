//! The file by which Prometheus finds the endpoints of a job: a list of targets, as its file-based service discovery reads.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result};

/// The file with all endpoints of a job, each with the labels `rank`, `host` and `job` (the run). It holds no token.
///
/// Dropping this removes the file, unless it is another job's by now; in a forked child it does nothing.
#[derive(Debug)]
pub struct DiscoveryFile {
    path: PathBuf,
    /// Device and inode of what was written.
    written: (u64, u64),
    owner: u32,
}

impl DiscoveryFile {
    /// Writes `path` whole or not at all, in place of what was there: rank, host and address of each endpoint of `job`.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when it cannot be written.
    pub fn write(path: &Path, job: &str, endpoints: impl Iterator<Item = (u32, String, SocketAddr)>) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Error::Endpoint(format!(
                "the list of endpoints cannot be written to {}: {error}; choose another file for lunasa.status.discovery, or \"\" \
                 for none",
                path.display()
            ))
        };
        let path = std::path::absolute(path).map_err(cannot)?;
        let mut beside = path.clone().into_os_string();
        // Not by a name that Prometheus would read, and in the same directory, so that renaming it is one step.
        beside.push(format!(".{job}.new"));
        let beside = PathBuf::from(beside);
        let written = write(&beside, job, endpoints)
            .and_then(|written| fs::rename(&beside, &path).map(|()| written))
            .inspect_err(|_| drop(fs::remove_file(&beside)))
            .map_err(cannot)?;
        Ok(Self { path, written, owner: std::process::id() })
    }
}

fn write(
    path: &Path,
    job: &str,
    endpoints: impl Iterator<Item = (u32, String, SocketAddr)>,
) -> std::io::Result<(u64, u64)> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut before = "[";
    for (rank, host, address) in endpoints {
        let labels = json!({ "rank": rank.to_string(), "host": host, "job": job });
        write!(out, "{before}\n{}", json!({ "targets": [address.to_string()], "labels": labels }))?;
        before = ",";
    }
    writeln!(out, "{}", if before == "[" { "[]" } else { "\n]" })?;
    let metadata = out.into_inner()?.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for DiscoveryFile {
    fn drop(&mut self) {
        let is_ours = || fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.written);
        if self.owner != std::process::id() || !is_ours() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("the list of endpoints {} could not be removed: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    fn endpoint(rank: u32) -> (u32, String, SocketAddr) {
        (rank, format!("n{}", rank / 2), SocketAddr::from(([10, 0, 0, 1], 1990 + rank as u16)))
    }

    #[test]
    fn it_lists_every_endpoint_and_goes_with_its_owner() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("lunasa.json");
        let file = DiscoveryFile::write(&path, "5f3a", (0..3).map(endpoint)).unwrap();
        let found: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(found.as_array().unwrap().len(), 3);
        let third = json!({ "targets": ["10.0.0.1:1992"], "labels": { "rank": "2", "host": "n1", "job": "5f3a" } });
        assert_eq!(found[2], third);
        drop(file);
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    }

    #[test]
    fn a_job_does_not_remove_the_file_that_a_later_one_wrote() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("lunasa.json");
        let first = DiscoveryFile::write(&path, "a", std::iter::once(endpoint(0))).unwrap();
        let second = DiscoveryFile::write(&path, "b", std::iter::empty()).unwrap();
        drop(first);
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]\n");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_cannot_be_written_is_named_and_leaves_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        // A directory is in the way of the renaming.
        let path = temporary.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        let error = DiscoveryFile::write(&path, "a", std::iter::empty()).unwrap_err().to_string();
        assert!(error.contains("taken") && error.contains("lunasa.status.discovery"), "{error}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1);
    }
}
