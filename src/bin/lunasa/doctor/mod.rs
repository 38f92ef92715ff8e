//! `lunasa doctor`: whether Lunasa can run here, alone or on all ranks of a job, and what to do where it cannot.
//!
//! Each rank looks at its host, its limits and its device; then all start Lunasa for real, and each fetches something from
//! the next one. Rank 0 prints one table.

mod table;

use std::process::ExitCode;
use std::time::Instant;

use lunasa::checkup::{self, Finding, Verdict};
use lunasa::config::{ProgressKind, RouteKind, Settings};
use lunasa::topology::Host;
use lunasa::{Config, Error, Lunasa, RemoteHandle};
use mpi::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use serde::{Deserialize, Serialize};

use crate::{comm, settings};

/// What `lunasa doctor` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// A key of Lunasa's configuration and its value, as TOML, such as lunasa.registrar=verbs
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// What one rank found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    rank: u32,
    host: String,
    findings: Vec<Finding>,
}

/// Variables by which launchers that MPI understands say that they started this process.
const LAUNCHED: [&str; 5] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"];
/// Bytes that each rank fetches from the next one.
const FETCHED: usize = 4096;

/// Runs it. Under a launcher that is collective; by itself it leaves MPI alone, which can hang where no launcher is.
pub fn run(options: &Options) -> ExitCode {
    if LAUNCHED.iter().all(|name| std::env::var_os(name).is_none()) {
        let found = Examined::new(options, None);
        return finish(&[Report { rank: 0, host: host_name(), findings: found.findings }], options.json);
    }
    let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Multiple) else {
        eprintln!("doctor: MPI is initialised already");
        return ExitCode::FAILURE;
    };
    let world = universe.world();
    let found = Examined::new(options, Some((&world, threading)));
    let report = Report { rank: world.rank() as u32, host: host_name(), findings: found.findings };
    let reports = comm::to_root(&world, &serde_json::to_string(&report).unwrap_or_default());
    let mut failed = false;
    if world.rank() == 0 {
        let reports: Vec<Report> = reports.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        failed = reports.len() != world.size() as usize || finish(&reports, options.json) != ExitCode::SUCCESS;
    }
    // Every rank ends alike, so that no launcher kills the job before the table is out.
    match comm::sum(&world, u64::from(failed)) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn host_name() -> String {
    Host::discover().map_or_else(|_| "unknown".to_owned(), |host| host.name)
}

/// Prints, and says whether something will fail.
fn finish(reports: &[Report], json: bool) -> ExitCode {
    let [failures, warnings] = [Verdict::Fails, Verdict::Warning].map(|verdict| table::count(reports, verdict));
    if json {
        let filled = |finding: &Finding| Finding { found: table::said(finding), ..finding.clone() };
        let all = reports
            .iter()
            .map(|report| Report { findings: report.findings.iter().map(filled).collect(), ..report.clone() });
        let all = serde_json::json!({ "schema": 1, "ok": failures == 0, "ranks": all.collect::<Vec<_>>() });
        println!("{}", serde_json::to_string_pretty(&all).unwrap_or_default());
    } else {
        println!("{}", table::table(reports));
        let verdict = if failures == 0 { "ok" } else { "FAILS" };
        println!("doctor: {verdict} ranks={} failures={failures} warnings={warnings}", reports.len());
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The findings of this rank.
struct Examined {
    findings: Vec<Finding>,
}

impl Examined {
    fn new(options: &Options, job: Option<(&SimpleCommunicator, Threading)>) -> Self {
        let world = job.map(|(world, _)| world);
        let mut findings = vec![checkup::launched(world.map_or(1, |world| world.size() as u32))];
        // Only rank 0's file and environment count.
        let first = world.is_none_or(|world| world.rank() == 0);
        let config = settings::config(&options.settings).map_err(|error| error.to_string());
        let resolved = if first {
            config.clone().and_then(|config| config.resolve().map_err(|error| error.to_string()))
        } else {
            Err(String::new())
        };
        let resolved = resolved.map(|resolved| resolved.settings);
        let settings: Result<Settings, String> = shared(world, &resolved).unwrap_or(resolved);
        let settings = match (settings, config) {
            (Ok(settings), Ok(config)) => (settings, config),
            (Err(error), _) | (_, Err(error)) => {
                findings.push(Finding::ok("configuration", error).fails("see docs/configuration.md"));
                return Self { findings };
            }
        };
        let (settings, config) = settings;
        findings.push(Finding::ok("configuration", "read"));
        findings.push(threads(job.map(|(_, threading)| threading), &settings));
        findings.extend(checkup::examine(&settings, ranks_here(world)));
        findings.extend(trial(world, config));
        Self { findings }
    }
}

/// Rank 0's value, on every rank.
fn shared<T: Serialize + for<'a> Deserialize<'a>>(world: Option<&SimpleCommunicator>, mine: &T) -> Option<T> {
    let text = serde_json::to_string(mine).unwrap_or_default();
    serde_json::from_str(&world.map_or(text.clone(), |world| comm::from_root(world, &text))).ok()
}

/// Everybody's text, by rank.
fn everybodys(world: Option<&SimpleCommunicator>, mine: String) -> Vec<String> {
    match world {
        None => vec![mine],
        Some(world) => shared(Some(world), &comm::to_root(world, &mine)).unwrap_or_default(),
    }
}

/// How many ranks there are on this one's host.
fn ranks_here(world: Option<&SimpleCommunicator>) -> u32 {
    let key = Host::discover().map_or_else(|error| error.to_string(), |host| host.key.to_string());
    everybodys(world, key.clone()).iter().filter(|known| **known == key).count() as u32
}

/// What MPI lets threads do.
fn threads(given: Option<Threading>, settings: &Settings) -> Finding {
    let what = "MPI threads";
    let Some(level) = given else {
        return Finding::ok(what, "MPI is not started: run it under mpirun or srun to see");
    };
    let found = Finding::ok(what, format!("MPI_THREAD_{}", format!("{level:?}").to_uppercase()));
    if level == Threading::Multiple || !settings.routes.contains(&RouteKind::Mpi) {
        return found;
    }
    match settings.mpi_progress {
        ProgressKind::Thread => {
            found.fails("set lunasa.mpi.progress = \"auto\", or use an MPI with MPI_THREAD_MULTIPLE")
        }
        _ => found.warns("the program must call Lunasa::progress now and then to serve its peers on the mpi route"),
    }
}

/// Starts Lunasa and fetches something from the next rank.
fn trial(world: Option<&SimpleCommunicator>, config: Config) -> Vec<Finding> {
    let start = Instant::now();
    let lunasa = match world {
        Some(world) => Lunasa::start(world, config),
        None => Lunasa::local(config),
    };
    let lunasa = match lunasa {
        Ok(lunasa) => lunasa,
        Err(error) => return vec![Finding::failed("start", &error)],
    };
    let registrar = lunasa.snapshot().rank.registrar;
    let started = Finding::ok("start", format!("with registrar {registrar}, in {{}} ms"));
    let mut findings = vec![started.measured([start.elapsed().as_secs_f64() * 1e3])];
    let limits = lunasa.snapshot().registrations.limits;
    findings.extend(limits.tightest().map(|limit| {
        Finding::ok("may register", format!("{{}} MiB more, limited by {}", limit.name))
            .measured([(limit.left_bytes >> 20) as f64])
    }));
    findings.push(fetched(world, &lunasa).unwrap_or_else(|error| Finding::failed("transfer", &error)));
    if let Err(error) = lunasa.finish() {
        findings.push(Finding::failed("finish", &error));
    }
    findings
}

fn fetched(world: Option<&SimpleCommunicator>, lunasa: &Lunasa) -> Result<Finding, Error> {
    let object = lunasa.object().zeroed().data(FETCHED).and_then(|object| Ok((object.handle()?, object)));
    let mine = object.as_ref().map_or_else(|_| Vec::new(), |(handle, _)| handle.to_bytes().to_vec());
    let all = everybodys(world, serde_json::to_string(&mine).unwrap_or_default());
    let next = (lunasa.rank() as usize + 1) % all.len().max(1);
    let theirs: Vec<u8> = all.get(next).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let start = Instant::now();
    // The first one sets up what later ones use; so it is not timed.
    let got = RemoteHandle::from_bytes(&theirs).and_then(|handle| {
        lunasa.fetch(&handle)?;
        let start = Instant::now();
        lunasa.fetch(&handle).map(|_| start.elapsed())
    });
    let first = start.elapsed();
    if let Some(world) = world {
        comm::meet(world, lunasa);
    }
    drop(object?);
    let route = lunasa.peers().into_iter().nth(next).map_or_else(String::new, |peer| peer.route);
    let found = format!("from the next rank by {route}: {{}} µs for 4 KiB, the first time {{}}");
    Ok(Finding::ok("transfer", found).measured([got?, first].map(|time| time.as_secs_f64() * 1e6)))
}
