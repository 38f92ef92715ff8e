//! The problem: what `configs/demo.toml` says, checked and explained.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// How neighbours get each other's faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each rank reads its neighbours' faces.
    Fetch,
    /// Each rank writes its faces to its neighbours.
    Put,
}

impl Mode {
    /// Its name, as flags and the file write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Put => "put",
        }
    }
}

/// What the initial field is, and so what the result is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Look at the field.
    Auto,
    /// The lowest sine mode, whose decay is known.
    Sine,
    /// Anything else: rank 0 repeats the run by itself.
    Other,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// The initial field; relative paths start at the directory of the problem's file.
    pub field: PathBuf,
    /// What that field is.
    #[serde(default = "Problem::default_kind")]
    pub kind: Kind,
    /// Diffusivity, in domain lengths squared per unit of time.
    pub diffusivity: f64,
    /// The time step, as a part of the largest stable one.
    pub courant: f64,
    /// Steps to take.
    pub steps: u64,
    /// How faces travel.
    #[serde(default = "Problem::default_exchange")]
    pub exchange: Mode,
}

impl Problem {
    /// Reads a problem's file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::Problem(format!(
                "{}: {e}; name the file with --config, or run in the project's directory",
                path.display()
            ))
        })?;
        let mut problem = Self::parse(&text).map_err(|why| Error::Problem(format!("{}: {why}", path.display())))?;
        if let Some(directory) = path.parent() {
            problem.field = directory.join(&problem.field);
        }
        Ok(problem)
    }

    /// A problem from the text of its file; the error says line, key and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let problem: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        if !(problem.diffusivity.is_finite() && problem.diffusivity > 0.0) {
            return Err(format!("diffusivity = {}: must be a finite number above 0", problem.diffusivity));
        }
        Ok(problem)
    }

    fn default_kind() -> Kind {
        Kind::Auto
    }

    fn default_exchange() -> Mode {
        Mode::Fetch
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "field = \"a.npy\"\ndiffusivity = 1.0\ncourant = 0.9\nsteps = 10\n";

    #[test]
    fn the_checked_in_problem_reads_and_its_field_is_the_small_sine_field() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let problem = Problem::read(&root.join("configs/demo.toml")).unwrap();
        assert_eq!(problem.kind, Kind::Auto);
        assert!(std::fs::metadata(&problem.field).unwrap().len() < 500_000);
        let field = super::super::field::Field::read(&problem.field).unwrap();
        assert_eq!(field.values, super::super::heat::sine(field.shape), "made by `lunasa demo --write-sine`");
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let problem = Problem::parse(GOOD).unwrap();
        assert_eq!((problem.kind, problem.exchange), (Kind::Auto, Mode::Fetch));
    }

    #[test]
    fn a_wrong_line_is_named_with_what_is_allowed() {
        for (text, words) in [
            (format!("{GOOD}stepz = 3\n"), &["line 5", "stepz", "steps"][..]),
            (GOOD.replace("10", "-10"), &["line 4", "steps"]),
            (GOOD.replace("10", "many"), &["line 4"]),
            (GOOD.replace("1.0", "0.0"), &["diffusivity = 0", "above 0"]),
            (GOOD.replace("1.0", "nan"), &["diffusivity = NaN", "above 0"]),
            (GOOD.replace("steps = 10", ""), &["steps"]),
            (format!("{GOOD}exchange = \"push\"\n"), &["line 5", "push", "fetch", "put"]),
        ] {
            let error = Problem::parse(&text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
        }
        let missing = Problem::read(Path::new("nowhere/demo.toml")).unwrap_err().to_string();
        assert!(missing.contains("nowhere/demo.toml") && missing.contains("--config"), "{missing}");
    }

    #[test]
    fn a_problem_sent_as_text_arrives_as_it_was() {
        let mut problem = Problem::parse(GOOD).unwrap();
        (problem.diffusivity, problem.courant) = (0.1 + 0.2, 1.0 / 3.0);
        assert_eq!(Problem::parse(&toml::to_string(&problem).unwrap()).unwrap(), problem);
    }
}
