//! The sources of values, laid one over the other, and the problems found in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{
    Spanned, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{KeySpec, Resolved, Settings, config_error, keys, nearest};
use crate::{error::Result, snapshot::ConfigEntry};

/// The variable that names the file.
pub(super) const FILE_VARIABLE: &str = "LUNASA_CONFIG";

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Default,
    File { path: PathBuf, line: usize, column: usize },
    Environment(String),
    Program,
}

impl Origin {
    /// The source as the snapshot shows it.
    fn source(&self) -> String {
        match self {
            Self::File { path, .. } => format!("file {}", path.display()),
            other => other.to_string(),
        }
    }
}

/// The place as an error names it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Program => write!(f, "program"),
        }
    }
}

/// The sources read so far: for each key the strongest value, and every problem.
#[derive(Default)]
pub(super) struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
    refused: BTreeSet<&'static str>,
    problems: Vec<String>,
}

impl Layers {
    /// Lays a value over what is there, or notes what is wrong with it.
    pub fn offer(&mut self, key: &str, value: &Value, origin: Origin) {
        let Some(spec) = spec(key) else {
            let near = nearest(key, keys().iter().map(|spec| spec.name));
            let value = shown(&value.to_string());
            self.problems.push(format!(
                "{origin}: unknown key {key} (value {value}); did you mean {near}? Its value is {}",
                allowed(near)
            ));
            return;
        };
        match spec.kind.accept(value) {
            Ok(value) => {
                self.values.insert(spec.name, (value, origin));
            }
            Err(why) => self.refuse(spec.name, &value.to_string(), &why, &origin),
        }
    }

    fn refuse(&mut self, key: &'static str, value: &str, why: &str, origin: &Origin) {
        self.refused.insert(key);
        self.problems.push(format!("{origin}: {key} = {}: {why}; allowed: {}", shown(value), allowed(key)));
    }

    /// Lays down the defaults.
    pub fn defaults(&mut self) {
        for spec in keys() {
            match spec.default.parse() {
                Ok(value) => self.offer(spec.name, &value, Origin::Default),
                Err(error) => self.problems.push(format!("default: {} = {}: {error}", spec.name, spec.default)),
            }
        }
    }

    /// Lays the values of a TOML file over what is there. `named` says who named it, for the error.
    pub fn file(&mut self, path: &Path, named: &str) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.problems.push(format!("cannot read the file {}{named}: {error}", path.display()));
                return;
            }
        };
        let at = |offset: usize| {
            let (line, column) = position(&text, offset);
            Origin::File { path: path.to_owned(), line, column }
        };
        let (table, mut errors) = DeTable::parse_recoverable(&text);
        let start = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start);
        errors.sort_by_key(start);
        for error in &errors {
            self.problems.push(format!("{}: not TOML: {}", at(start(error)), error.message()));
        }
        if !errors.is_empty() {
            return;
        }
        let mut leaves = Vec::new();
        collect(table.into_inner(), "", &mut leaves);
        leaves.sort_by_key(|leaf| leaf.offset);
        for Leaf { key, offset, span, value } in leaves {
            let raw = text.get(span).unwrap_or_default();
            match (value, spec(&key)) {
                (Ok(value), _) => self.offer(&key, &value, at(offset)),
                (Err(why), Some(spec)) => self.refuse(spec.name, raw, &why, &at(offset)),
                (Err(_), None) => self.offer(&key, &raw.into(), at(offset)),
            }
        }
    }

    /// Lays the values of environment variables over what is there.
    pub fn environment(&mut self, variables: &BTreeMap<OsString, OsString>) {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if !name.starts_with("LUNASA_") || is_no_key(&name) {
                continue;
            }
            let Some(text) = value.to_str() else {
                self.problems.push(format!("environment {name}: its value {value:?} is not UTF-8"));
                continue;
            };
            let bare = Value::from(text);
            match keys().iter().find(|spec| spec.variable() == name) {
                Some(spec) => {
                    // `5` is a number, or the name of a directory, as the key wants it.
                    let fits = |value| spec.kind.accept(value).is_ok();
                    let value = match text.parse::<Value>() {
                        Ok(typed) if fits(&typed) || !fits(&bare) => typed,
                        _ => bare,
                    };
                    self.offer(spec.name, &value, Origin::Environment(name.into_owned()));
                }
                None => {
                    let variables: Vec<_> = keys().iter().map(|spec| spec.variable()).collect();
                    let near = nearest(&name, variables.iter().map(String::as_str).chain([FILE_VARIABLE]));
                    self.problems.push(format!(
                        "environment {name}: unknown variable (value {}); did you mean {near}?",
                        shown(&bare.to_string())
                    ));
                }
            }
        }
    }

    /// What was accepted, when nothing was wrong.
    pub fn accepted(self) -> Result<impl Iterator<Item = (&'static str, Value)>> {
        if !self.problems.is_empty() {
            return Err(config_error(self.problems));
        }
        Ok(self.values.into_iter().map(|(key, (value, _))| (key, value)))
    }

    /// The configuration in force, when nothing was wrong.
    pub fn resolved(mut self) -> Result<Resolved> {
        let fields = keys().iter().filter_map(|spec| Some((spec.field(), self.values.get(spec.name)?.0.clone())));
        let settings = Settings::deserialize(Value::Table(fields.collect()));
        if let Ok(settings) = &settings {
            self.compare_block_sizes(settings);
        }
        if !self.problems.is_empty() {
            return Err(config_error(self.problems));
        }
        let settings = settings.map_err(|error| config_error(vec![format!("keys and settings disagree: {error}")]))?;
        let entry = |(key, (value, origin)): (&str, &(Value, Origin))| ConfigEntry {
            key: key.to_owned(),
            value: value.to_string(),
            source: origin.source(),
        };
        let entries = keys().iter().filter_map(|spec| Some(entry((spec.name, self.values.get(spec.name)?)))).collect();
        Ok(Resolved { settings, entries })
    }

    /// Blocks must be able to grow from the first size to the last.
    fn compare_block_sizes(&mut self, settings: &Settings) {
        let (first, last) = ("lunasa.tcmalloc.min_system_alloc", "lunasa.tcmalloc.max_system_alloc");
        let both_stand = !self.refused.contains(first) && !self.refused.contains(last);
        if both_stand && settings.tcmalloc_max_system_alloc < settings.tcmalloc_min_system_alloc {
            let (least, from) = &self.values[first];
            let (most, origin) = self.values[last].clone();
            let why = format!("it is below {first} = {least} ({from}); raise the one or lower the other");
            self.refuse(last, &most.to_string(), &why, &origin);
        }
    }
}

/// Variables of Lunasa that set no key: the file, the log, and those of tests.
fn is_no_key(variable: &str) -> bool {
    variable == FILE_VARIABLE || ["LUNASA_LOG", "LUNASA_TEST_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// A value in a file, by its dotted key; an error where TOML's numbers are larger than ours.
struct Leaf {
    key: String,
    /// The byte that an error points at.
    offset: usize,
    /// The bytes of the value.
    span: Range<usize>,
    value: Result<Value, String>,
}

/// Gathers what the file sets. A table is a value only where a key wants one, or where no key can be below it.
fn collect(table: DeTable, prefix: &str, leaves: &mut Vec<Leaf>) {
    for (name, value) in table {
        let bare = name.get_ref().chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let part = if bare { name.get_ref().to_string() } else { format!("{:?}", name.get_ref()) };
        let key = if prefix.is_empty() { part } else { format!("{prefix}.{part}") };
        let known = spec(&key).is_some();
        let offset = if known { value.span() } else { name.span() }.start;
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(inner) if !known && !inner.is_empty() => collect(inner, &key, leaves),
            DeValue::Table(_) if is_section(&key) => {}
            value => {
                let plain = Value::deserialize(ValueDeserializer::from(Spanned::new(span.clone(), value)));
                leaves.push(Leaf { key, offset, span, value: plain.map_err(|error| error.message().to_owned()) });
            }
        }
    }
}

/// Whether keys lie below this name.
fn is_section(name: &str) -> bool {
    keys().iter().any(|spec| spec.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// Line and column of a byte of the text, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

fn spec(key: &str) -> Option<&'static KeySpec> {
    keys().iter().find(|spec| spec.name == key)
}

fn allowed(key: &str) -> &'static str {
    spec(key).map_or("", |spec| &spec.allowed)
}

/// The text of a value on one line, cut when long.
fn shown(value: &str) -> String {
    const MOST: usize = 60;
    let line = value.replace('\n', "\\n");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
