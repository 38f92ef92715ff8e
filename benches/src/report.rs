//! What a benchmark says: a table for people, and `target/bench/NAME.json` for programs.

use std::fs;
use std::path::PathBuf;

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde_json::{Map, Value, json};

use crate::Outcome;

/// Lunasa and its peers doing the same thing.
#[derive(Debug, Clone)]
pub struct Row {
    case: String,
    parameters: Vec<(String, Value)>,
    lunasa: f64,
    peers: Vec<(String, f64)>,
    unit: &'static str,
}

impl Row {
    /// A row of what is measured in `unit`, less being better.
    pub fn new(case: &str, unit: &'static str, lunasa: f64) -> Self {
        Self { case: case.to_owned(), parameters: Vec::new(), lunasa, peers: Vec::new(), unit }
    }

    /// With a parameter of the case.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.push((name.to_owned(), value.into()));
        self
    }

    /// With a peer's value.
    pub fn peer(mut self, name: &str, value: f64) -> Self {
        self.peers.push((name.to_owned(), value));
        self
    }

    fn best_peer(&self) -> Option<&(String, f64)> {
        self.peers.iter().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Lunasa's value by the best peer's: below 1, Lunasa is ahead.
    fn ratio(&self) -> Option<f64> {
        self.best_peer().map(|(_, value)| self.lunasa / value)
    }

    fn json(&self) -> Value {
        let mut row = Map::new();
        row.insert("case".to_owned(), json!(self.case));
        row.extend(self.parameters.iter().cloned());
        let peers: Map<String, Value> = self.peers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        row.insert("lunasa".to_owned(), json!(self.lunasa));
        row.insert("peers".to_owned(), Value::Object(peers));
        row.insert("best_peer".to_owned(), json!(self.best_peer().map(|(name, _)| name)));
        row.insert("ratio".to_owned(), json!(self.ratio()));
        row.insert("unit".to_owned(), json!(self.unit));
        Value::Object(row)
    }
}

/// Prints the rows, and adds them to the benchmark's file. `machine` is what the benchmark knows of it besides.
pub fn write(bench: &str, machine: &[(&str, String)], rows: &[Row]) -> Outcome {
    print(bench, rows);
    let path = PathBuf::from("target/bench").join(format!("{bench}.json"));
    let mut all: Vec<Value> = match fs::read(&path) {
        Ok(text) => serde_json::from_slice::<Value>(&text)?["rows"].as_array().cloned().unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    all.extend(rows.iter().map(Row::json));
    let whole = json!({ "bench": bench, "machine": describe(machine), "rows": all });
    fs::create_dir_all("target/bench")?;
    fs::write(&path, serde_json::to_string_pretty(&whole)? + "\n")?;
    println!("{}: {} rows", path.display(), all.len());
    Ok(())
}

/// One table for each run of rows with the same columns.
fn print(bench: &str, rows: &[Row]) {
    let columns = |row: &Row| -> Vec<String> {
        let names = row.parameters.iter().map(|(name, _)| name).chain(row.peers.iter().map(|(name, _)| name));
        names.cloned().collect()
    };
    for alike in rows.chunk_by(|a, b| columns(a) == columns(b) && a.unit == b.unit) {
        let first = &alike[0];
        println!("\n{bench}, {}", first.unit);
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN);
        let parameters = first.parameters.iter().map(|(name, _)| name.clone());
        let peers = first.peers.iter().map(|(name, _)| name.clone());
        let header = ["case".to_owned()].into_iter().chain(parameters);
        table.set_header(header.chain(["lunasa".to_owned()]).chain(peers).chain(["ratio".to_owned()]));
        for row in alike {
            let parameters = row.parameters.iter().map(|(_, value)| value.to_string().replace('"', ""));
            let values = [row.lunasa].into_iter().chain(row.peers.iter().map(|(_, value)| *value)).map(short);
            let ratio = row.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            table.add_row([row.case.clone()].into_iter().chain(parameters).chain(values).chain([ratio]));
        }
        println!("{table}");
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 9) };
    format!("{value:.*}", digits as usize)
}

/// What the numbers were measured on.
fn describe(more: &[(&str, String)]) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    // Not those of this rank alone, which the launcher may have bound.
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let library = mpi::environment::library_version().unwrap_or_default();
    let mut machine = Map::new();
    let mut say = |name: &str, value: Value| drop(machine.insert(name.to_owned(), value));
    say("cpu", json!(model.trim_start_matches(['\t', ' ', ':'])));
    say("cores", json!(cores));
    say("kernel", json!(read("/proc/sys/kernel/osrelease").trim()));
    say("mpi", json!(library.lines().next().unwrap_or_default().split(", package").next().unwrap_or_default()));
    say("rustc", json!(env!("LUNASA_BENCH_RUSTC")));
    say("transparent_huge_pages_shared", json!(chosen(&read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))));
    more.iter().for_each(|(name, value)| say(name, json!(value)));
    Value::Object(machine)
}

/// The setting in brackets: `always [never] force` says `never`.
fn chosen(setting: &str) -> &str {
    setting.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("unknown", |(chosen, _)| chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_row_is_held_against_the_best_of_its_peers() {
        let row = Row::new("shm", "ns", 30.0).with("bytes", 8).peer("slow", 600.0).peer("quick", 20.0).json();
        let said = json!({ "case": "shm", "bytes": 8, "lunasa": 30.0, "peers": { "slow": 600.0, "quick": 20.0 },
            "best_peer": "quick", "ratio": 1.5, "unit": "ns" });
        assert_eq!(row, said);
        let alone = Row::new("x", "ns", 1.0).json();
        assert!(alone["ratio"].is_null() && alone["best_peer"].is_null());
    }

    #[test]
    fn numbers_are_cut_to_what_matters() {
        assert_eq!(
            ["1234567", "12.3", "0.00123", "0"],
            [1_234_567.0, 12.345, 0.001_234, 0.0].map(short).each_ref().map(String::as_str)
        );
        assert_eq!(chosen("always [never] force"), "never");
    }
}
