//! The configuration: which keys there are, what they may be, and which of four sources decides each.
//!
//! From the weakest to the strongest: built-in defaults, a TOML file, the environment, the program. A [`Config`] is the
//! plan of where to look; [`Config::resolve`] looks, and gives typed [`Settings`] or an error that lists every problem.

mod choices;
mod keys;
mod kind;
mod pin_budget;
mod sources;
#[cfg(test)]
mod tests;
mod units;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use choices::{
    AccessKind, HugePages, ListenKind, ManagerKind, NumaPolicy, ProgressKind, RegistrarKind, RouteKind, WhenRefused,
};
pub use keys::{KeySpec, Settings, keys, reference};
pub use pin_budget::PinBudget;

use crate::{
    error::{Error, Result},
    snapshot::ConfigEntry,
};
use sources::{Layers, Origin};

/// Where the configuration comes from: a plan, of which nothing is read before [`resolve`](Self::resolve).
///
/// ```
/// use lunasa::config::Config;
///
/// let config = Config::new().set("lunasa.mpi.piece", "256 KiB")?.set("lunasa.status.port", 0)?;
/// assert!(Config::new().set("lunasa.mpi.peice", "256 KiB").is_err());
/// # config.ignore_environment().resolve()?;
/// # Ok::<(), lunasa::error::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Config {
    file: Option<PathBuf>,
    overrides: BTreeMap<String, toml::Value>,
    ignore_environment: bool,
}

/// The configuration in force. Its JSON carries it whole, for the broadcast to the other ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// The value of every key, typed.
    pub settings: Settings,
    /// The value of every key as TOML text and where it came from, in the order of [`keys`].
    pub entries: Vec<ConfigEntry>,
}

impl Config {
    /// The usual plan: the file that `LUNASA_CONFIG` names, if any, and the environment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this file, whatever `LUNASA_CONFIG` says. A file that cannot be read is an error of
    /// [`resolve`](Self::resolve).
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Sets a key from the program, stronger than every other source.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no such key, or the value is not allowed for it.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Result<Self> {
        let mut layers = Layers::default();
        layers.offer(key, &value.into(), Origin::Program);
        for (key, value) in layers.accepted()? {
            self.overrides.insert(key.to_owned(), value);
        }
        Ok(self)
    }

    /// Looks neither at `LUNASA_CONFIG` nor at any other variable: for tests, and for programs with a configuration of
    /// their own.
    pub fn ignore_environment(mut self) -> Self {
        self.ignore_environment = true;
        self
    }

    /// What the program set: values in canonical form (65536 bytes are `"64 KiB"`), so that two ranks can be compared.
    pub fn overrides(&self) -> &BTreeMap<String, toml::Value> {
        &self.overrides
    }

    /// Reads the file and the environment, and decides every key. Called on rank 0 only.
    ///
    /// # Errors
    /// [`Error::Config`], listing all problems: a file that cannot be read or is no TOML, unknown keys, values that are
    /// not allowed; each with its place, the key, the value, and what is allowed.
    pub fn resolve(&self) -> Result<Resolved> {
        self.resolve_in(std::env::vars_os())
    }

    /// As `resolve`, with these variables for the environment.
    fn resolve_in(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Resolved> {
        let environment: BTreeMap<OsString, OsString> =
            if self.ignore_environment { BTreeMap::new() } else { environment.into_iter().collect() };
        let named = environment.get(&OsString::from(sources::FILE_VARIABLE)).filter(|name| !name.is_empty());

        let mut layers = Layers::default();
        layers.defaults();
        match (&self.file, named) {
            (Some(path), _) => layers.file(path, ""),
            (None, Some(name)) => layers.file(Path::new(name), " (named by LUNASA_CONFIG)"),
            (None, None) => {}
        }
        layers.environment(&environment);
        for (key, value) in &self.overrides {
            layers.offer(key, value, Origin::Program);
        }
        layers.resolved()
    }
}

/// The name most like the one that was written.
pub(crate) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> &'a str {
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(written, name);
    names.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default()
}

/// One error for all that was found.
fn config_error(mut problems: Vec<String>) -> Error {
    Error::Config(match problems.len() {
        1 => problems.remove(0),
        many => format!("{many} problems:\n  {}", problems.join("\n  ")),
    })
}
