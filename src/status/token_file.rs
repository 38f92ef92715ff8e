//! The file that holds the token, where only its user can read it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::is_name;
use crate::error::{Error, Result};

/// The token of a run in `DIR/lunasa-UID/RUN/token`: directories of mode 0700, the file 0600. One per run and host;
/// hosts may share DIR, so RUN names both.
///
/// The file holds the token and nothing else. Dropping this removes the file and the run's directory; in a forked child it
/// does nothing.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    owner: u32,
}

impl TokenFile {
    /// Writes `token` for the run `run`. DIR is `directory`, or `XDG_RUNTIME_DIR` when that is set, or `/tmp`.
    ///
    /// # Errors
    /// When `run` is not 1 to 64 letters, digits, `_`, `.` or `-`; when `lunasa-UID` is a symbolic link, somebody else's or
    /// open to others; when the run has a file there already; when it cannot be written.
    pub fn create(directory: Option<&Path>, run: &str, token: &str) -> Result<TokenFile> {
        if !is_name(run) {
            return Err(Error::Endpoint(format!(
                "no token file can be named after run {run:?}: 1 to 64 letters, digits, \"_\", \".\" or \"-\" are allowed"
            )));
        }
        let of_run = user_directory(directory)?.join(run);
        make(&of_run).map_err(|error| cannot("make the directory", &of_run, &error))?;
        // From here on its drop tidies up.
        let file = TokenFile { path: of_run.join("token"), owner: std::process::id() };
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file.path)
            .and_then(|mut open| open.write_all(token.as_bytes()))
            .map_err(|error| cannot("write the token file", &file.path, &error))?;
        Ok(file)
    }

    /// Where the token is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            return;
        }
        let removed = fs::remove_file(&self.path).and_then(|()| self.path.parent().map_or(Ok(()), fs::remove_dir));
        if let Err(error) = removed {
            tracing::warn!("the token file {} could not be removed: {error}", self.path.display());
        }
    }
}

/// `DIR/lunasa-UID`, of mode 0700, made if it is not there. DIR is as for [`TokenFile::create`].
///
/// # Errors
/// When it is a symbolic link, somebody else's or open to others, or cannot be made.
pub fn user_directory(directory: Option<&Path>) -> Result<PathBuf> {
    // SAFETY: geteuid takes nothing and always succeeds.
    let uid = unsafe { libc::geteuid() };
    let ours = base(directory).join(format!("lunasa-{uid}"));
    make(&ours)
        .or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .map_err(|error| cannot("make the directory", &ours, &error))?;
    check(&ours, uid)?;
    Ok(ours)
}

fn base(directory: Option<&Path>) -> PathBuf {
    let runtime = || std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    directory.map(Path::to_path_buf).or_else(runtime).unwrap_or_else(|| "/tmp".into())
}

fn make(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)
}

/// Somebody may have made the directory before us, to read what we put there.
fn check(directory: &Path, uid: u32) -> Result<()> {
    let found = fs::symlink_metadata(directory).map_err(|error| cannot("look at", directory, &error))?;
    let trouble = if !found.is_dir() {
        "is not a directory (a symbolic link is not taken either)".to_string()
    } else if found.uid() != uid {
        format!("belongs to user {}, not to {uid}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!("has mode {:04o}, open to others; 0700 is needed", found.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::Endpoint(format!(
        "the token cannot be kept in {}: it {trouble}; mend or remove it, or choose another directory",
        directory.display()
    )))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Endpoint(format!("cannot {what} {} for the token: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn of_user(directory: &Path) -> PathBuf {
        // SAFETY: geteuid takes nothing and always succeeds.
        directory.join(format!("lunasa-{}", unsafe { libc::geteuid() }))
    }

    #[test]
    fn only_the_user_can_read_it_and_it_goes_with_its_owner() {
        let temporary = tempfile::tempdir().unwrap();
        let file = TokenFile::create(Some(temporary.path()), "run-1", "secret").unwrap();
        let path = file.path().to_path_buf();
        assert_eq!(path, of_user(temporary.path()).join("run-1/token"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&of_user(temporary.path())), 0o700);
        drop(file);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn two_runs_share_the_directory_and_one_run_has_one_file() {
        let temporary = tempfile::tempdir().unwrap();
        let first = TokenFile::create(Some(temporary.path()), "a", "1").unwrap();
        let _second = TokenFile::create(Some(temporary.path()), "b", "2").unwrap();
        assert!(TokenFile::create(Some(temporary.path()), "a", "3").is_err());
        assert_eq!(fs::read_to_string(first.path()).unwrap(), "1");
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let ours = of_user(temporary.path());
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o750)).unwrap();
        let error = TokenFile::create(Some(temporary.path()), "run", "t").unwrap_err().to_string();
        assert!(error.contains("0750") && error.contains("0700"), "{error}");
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 0);
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), of_user(temporary.path())).unwrap();
        let error = TokenFile::create(Some(temporary.path()), "run", "t").unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let ours = of_user(temporary.path());
        make(&ours).unwrap();
        // Only root can give a directory away; the check itself is the same for everybody.
        let stranger =
            if chown(&ours, Some(65_534), None).is_ok() { fs::metadata(&temporary).unwrap().uid() } else { 1 };
        let error = check(&ours, stranger).unwrap_err().to_string();
        assert!(error.contains("belongs to user"), "{error}");
    }

    #[test]
    fn a_run_that_would_leave_the_directory_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        for run in ["", "..", "../x", "a/b", "/etc"] {
            assert!(TokenFile::create(Some(temporary.path()), run, "t").is_err(), "{run:?}");
        }
    }

    #[test]
    fn a_forked_child_leaves_the_file_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let file = TokenFile::create(Some(temporary.path()), "run", "t").unwrap();
        // SAFETY: the child calls only getpid (through the drop) and _exit, both allowed after a fork of many threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: `file` is valid and is not used again in the child, which ends here without unwinding.
            unsafe {
                drop(std::ptr::read(&file));
                libc::_exit(0)
            }
        }
        assert!(child > 0);
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result, `child` our own child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(file.path().exists());
    }
}
