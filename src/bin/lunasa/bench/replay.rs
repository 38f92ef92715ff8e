//! `lunasa bench replay`: recorded traces with each contender, in interleaved rounds.

use std::path::{Path, PathBuf};
use std::process::Command;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{BinaryBytes, HumanCount};
use lunasa::trace::Trace;
use lunasa::{Config, Error, Result};
use serde::Serialize;

use super::contender::Contender;
use crate::settings;

/// What `lunasa bench replay` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Traces, as lunasa.trace.record writes them, one for each rank
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Rounds of which the median is shown; in each, every contender has its turn
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
    /// A key of Lunasa's configuration and its value, as TOML, such as lunasa.tcmalloc.min_system_alloc='"4 MiB"'
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Only say how many bytes the contender of this number maps
    #[arg(long, hide = true, value_parser = clap::value_parser!(u8).range(..Contender::ALL.len() as i64))]
    mapped_by: Option<u8>,
}

/// What came of one trace.
#[derive(Debug, Serialize)]
struct Outcome {
    file: PathBuf,
    rank: u32,
    whole: bool,
    threads: usize,
    objects: usize,
    operations: usize,
    peak_live_bytes: u64,
    contenders: Vec<Row>,
}

/// One contender.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    ns_per_operation: f64,
    /// Its time by that of malloc and free.
    ratio: f64,
    mapped_bytes: u64,
    mapped_per_live: f64,
}

/// Runs it; see the module.
pub fn run(options: &Options) -> Result<()> {
    let config = settings::config(&options.settings)?;
    let traces = options.files.iter().map(|file| Trace::read(file)).collect::<Result<Vec<_>>>()?;
    if let Some(number) = options.mapped_by {
        for trace in &traces {
            println!("{}", Contender::ALL[usize::from(number)].mapped(trace, &config)?);
        }
        return Ok(());
    }
    let outcomes = (options.files.iter().zip(&traces))
        .map(|(file, trace)| measure(file, trace, mapped(file, options)?, options.rounds, &config))
        .collect::<Result<Vec<_>>>()?;
    if options.json {
        let text = serde_json::json!({ "schema": 1, "rounds": options.rounds, "traces": outcomes });
        println!("{text:#}");
    } else {
        outcomes.iter().for_each(show);
    }
    Ok(())
}

/// Bytes that each contender maps, each in a process of its own, whose heap was not used before.
fn mapped(file: &Path, options: &Options) -> Result<Vec<u64>> {
    let failed = |why: String| Error::Trace(format!("{}: what is mapped cannot be told: {why}", file.display()));
    let own = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let ask = |number: usize| {
        let mut command = Command::new(&own);
        command.args(["bench", "replay", "--mapped-by", &number.to_string()]).arg(file);
        command.args(options.settings.iter().flat_map(|setting| ["--set", setting]));
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        said.trim().parse().map_err(|_| failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    };
    (0..Contender::ALL.len()).map(ask).collect()
}

fn measure(file: &Path, trace: &Trace, mapped: Vec<u64>, rounds: u16, config: &Config) -> Result<Outcome> {
    let (operations, (_, peak)) = (trace.events().len(), trace.peak());
    if operations == 0 {
        return Err(Error::Trace(format!("{}: nothing was allocated in it", file.display())));
    }
    let script = trace.script();
    let mut times = vec![Vec::new(); Contender::ALL.len()];
    for round in 0..usize::from(rounds) {
        for turn in 0..times.len() {
            // Each round begins with another one.
            let which = (round + turn) % times.len();
            times[which].push(Contender::ALL[which].time(&script, config)? / operations as f64);
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let reference = medians.last().copied().unwrap_or(f64::NAN);
    let rows = Contender::ALL.iter().zip(&medians).zip(mapped).map(|((who, &time), mapped)| Row {
        name: who.name(),
        ns_per_operation: time,
        ratio: time / reference,
        mapped_bytes: mapped,
        mapped_per_live: mapped as f64 / peak as f64,
    });
    Ok(Outcome {
        file: file.to_owned(),
        rank: trace.rank(),
        whole: trace.is_whole(),
        threads: trace.threads(),
        objects: trace.objects(),
        operations,
        peak_live_bytes: peak,
        contenders: rows.collect(),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn show(outcome: &Outcome) {
    let Outcome { file, rank, threads, objects, operations, peak_live_bytes, .. } = outcome;
    let (objects, operations) = (HumanCount(*objects as u64), HumanCount(*operations as u64));
    println!(
        "{}: rank {rank}, {threads} thread{}, {objects} objects, {operations} operations, at most {} alive{}",
        file.display(),
        if *threads == 1 { "" } else { "s" },
        BinaryBytes(*peak_live_bytes),
        if outcome.whole { "" } else { "; it ends early, as when the run was killed" }
    );
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["with", "ns per operation", "ratio", "mapped", "mapped / alive"]);
    for row in &outcome.contenders {
        table.add_row([
            row.name.clone(),
            format!("{:.1}", row.ns_per_operation),
            format!("{:.2}", row.ratio),
            BinaryBytes(row.mapped_bytes).to_string(),
            format!("{:.2}", row.mapped_per_live),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    println!("{table}\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn demo() -> Trace {
        Trace::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/traces/demo.trace"))).unwrap()
    }

    #[test]
    fn the_demos_trace_replays_with_every_contender_and_leaves_nothing_alive() {
        let trace = demo();
        assert!(trace.is_whole() && trace.objects() > 10);
        let config = settings::config(&["lunasa.tcmalloc.min_system_alloc=4 MiB".into()]).unwrap();
        // A contender that leaves something is an error.
        let mapped = Contender::ALL.iter().map(|who| who.mapped(&trace, &config).unwrap()).collect();
        let outcome = measure(Path::new("demo.trace"), &trace, mapped, 1, &config).unwrap();
        assert_eq!((outcome.contenders.len(), outcome.operations), (6, trace.events().len()));
        for row in &outcome.contenders {
            assert!(row.ns_per_operation > 0.0 && row.mapped_bytes >= outcome.peak_live_bytes, "{row:?}");
        }
        let eager = outcome.contenders.iter().find(|row| row.name == "tcmalloc, eager").unwrap();
        assert!(eager.mapped_bytes < 32 << 20, "--set was not heard: {eager:?}");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!((median(vec![9.0, 1.0, 2.0]), median(vec![4.0, 1.0, 2.0, 100.0])), (2.0, 3.0));
    }
}
