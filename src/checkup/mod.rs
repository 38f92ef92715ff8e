//! Whether Lunasa can run here: what a rank finds of its host, the limits and the device, and what to do where something will
//! fail. `lunasa doctor` shows it; nothing is kept, and no MPI is needed.

mod device;
mod host;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bootstrap;
use crate::comm;
use crate::config::{ManagerKind, NumaPolicy, Settings};
use crate::error::Error;
use crate::topology::Topology;

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but less well than it could, or not for long.
    Warning,
    /// Something will fail.
    Fails,
}

/// `ok`, `warning`, `fails`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fails => "fails",
        })
    }
}

/// One line of a check-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// What it means.
    pub verdict: Verdict,
    /// What was found, in words, with `{}` in place of each of the numbers.
    pub found: String,
    /// What was measured: the numbers that may differ between ranks that are otherwise alike.
    #[serde(default)]
    pub numbers: Vec<f64>,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    /// Something as it should be.
    pub fn ok(what: &str, found: impl Into<String>) -> Self {
        let (what, found) = (what.to_owned(), found.into());
        Self { what, verdict: Verdict::Ok, found, numbers: Vec::new(), advice: None }
    }

    /// With the numbers for each `{}` in what was found.
    pub fn measured(self, numbers: impl IntoIterator<Item = f64>) -> Self {
        Self { numbers: numbers.into_iter().collect(), ..self }
    }

    /// Something that works less well than it could, and what to do.
    pub fn warns(self, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, advice: Some(advice.into()), ..self }
    }

    /// Something that will fail, and what to do.
    pub fn fails(self, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fails, advice: Some(advice.into()), ..self }
    }

    /// An error: what goes wrong, and behind its first semicolon what to do.
    pub fn failed(what: &str, error: &Error) -> Self {
        let text = without_addresses(&error.to_string());
        let (found, advice) = text.split_once("; ").unwrap_or((&text, "see docs/troubleshooting.md"));
        Self::ok(what, found).fails(advice)
    }
}

/// The text without ` at 0x...`: where memory lies says nothing here, and differs between ranks.
fn without_addresses(text: &str) -> String {
    let mut parts = text.split(" at 0x");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}

/// What the lines of a check-up need to know of the rank.
struct Rank<'a> {
    settings: &'a Settings,
    topology: &'a Topology,
    /// Ranks on this host.
    ranks: u64,
}

impl Rank<'_> {
    /// Blocks that are mapped at the start, of eager and of all pools.
    fn first_blocks(&self) -> (u64, u64) {
        let nodes = match self.settings.numa_policy {
            NumaPolicy::PerNode => self.topology.memory_nodes().len().max(1) as u64,
            _ => 1,
        };
        let of = |manager| if manager == ManagerKind::Tcmalloc { nodes } else { 0 };
        let eager = of(self.settings.eager_memory_manager);
        (eager, eager + of(self.settings.lazy_memory_manager))
    }

    /// Bytes that the eager pools map and register at the start.
    fn first_bytes(&self) -> u64 {
        self.first_blocks().0 * self.settings.tcmalloc_min_system_alloc as u64
    }
}

/// Looks at everything that a start needs, for one of so many ranks on this host: opens the device, registers a few pages
/// with it, and gives all back.
pub fn examine(settings: &Settings, ranks_here: u32) -> Vec<Finding> {
    let topology = match Topology::discover() {
        Ok(topology) => topology,
        Err(error) => return vec![Finding::failed("topology", &error)],
    };
    let rank = Rank { settings, topology: &topology, ranks: u64::from(ranks_here.max(1)) };
    let (mut findings, pins) = device::examine(&rank);
    findings.extend(host::examine(&rank, pins));
    findings
}

/// Whether the launcher and MPI agree on how many ranks there are, when `MPI_COMM_WORLD` has `world` of them (1 without
/// MPI).
pub fn launched(world: u32) -> Finding {
    let what = "launcher";
    match bootstrap::check_launch(world, &comm::library_version()) {
        Ok(()) => Finding::ok(what, format!("{world} rank{}", if world == 1 { "" } else { "s" })),
        Err(error) => Finding::ok(what, error.to_string()).fails(
            "start it with the MPI's own mpirun, or under Slurm with `srun --mpi=pmix` (Open MPI), `srun --mpi=pmi2` (MPICH)",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;

    fn examined(settings: &[(&str, &str)], ranks: u32) -> Vec<Finding> {
        let config = Config::new().ignore_environment().set("lunasa.registrar", "host").unwrap();
        let config = settings.iter().fold(config, |config, (key, value)| config.set(key, *value).unwrap());
        examine(&config.resolve().unwrap().settings, ranks)
    }

    fn line<'a>(findings: &'a [Finding], what: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("no {what}: {findings:?}"))
    }

    #[test]
    fn a_host_without_a_device_is_well_when_none_is_asked_for() {
        let findings = examined(&[("lunasa.tcmalloc.min_system_alloc", "1 MiB")], 2);
        assert!(findings.iter().all(|finding| finding.verdict < Verdict::Fails), "{findings:#?}");
        let cost = line(&findings, "registration");
        assert!(cost.found.starts_with("host: ") && cost.numbers.len() == 2, "{cost:?}");
    }

    #[test]
    fn what_will_fail_is_found_before_it_does() {
        let findings = examined(&[("lunasa.registrar", "verbs"), ("lunasa.verbs.device", "no-such-device")], 1);
        assert_eq!(
            (line(&findings, "device").verdict, line(&findings, "registration").verdict),
            (Verdict::Fails, Verdict::Fails)
        );
        let findings = examined(
            &[("lunasa.tcmalloc.min_system_alloc", "64 GiB"), ("lunasa.tcmalloc.max_system_alloc", "64 GiB")],
            1 << 20,
        );
        let memory = line(&findings, "memory");
        assert!(memory.verdict == Verdict::Fails && memory.advice.is_some(), "{memory:?}");
        let findings = examined(
            &[
                ("lunasa.memory.huge_pages", "require"),
                ("lunasa.tcmalloc.min_system_alloc", "1 TiB"),
                ("lunasa.tcmalloc.max_system_alloc", "1 TiB"),
            ],
            1,
        );
        assert_eq!(line(&findings, "huge pages").verdict, Verdict::Fails);
    }

    #[test]
    fn a_budget_too_small_for_all_ranks_fails_where_something_is_pinned() {
        let config = Config::new().ignore_environment().set("lunasa.registrar", "host").unwrap();
        let config = config.set("lunasa.pin_budget", "100 MiB").unwrap();
        let locked = config.clone().set("lunasa.host.lock", true).unwrap();
        let verdict =
            |config: &Config, ranks| line(&examine(&config.resolve().unwrap().settings, ranks), "pin budget").verdict;
        assert_eq!(verdict(&config, 2), Verdict::Ok);
        assert_eq!([1, 2].map(|ranks| verdict(&locked, ranks)), [Verdict::Ok, Verdict::Fails]);
    }

    #[test]
    fn an_error_is_cut_into_what_is_wrong_and_what_to_do() {
        let finding =
            Finding::failed("x", &Error::Memory("too little at 0x7fab: no; ask for less; or more".to_owned()));
        assert_eq!(
            (finding.found.as_str(), finding.advice.as_deref()),
            ("memory: too little: no", Some("ask for less; or more"))
        );
    }
}
