//! What the run says about itself: a row per rank in a table, and the progress bar.

use std::fs::OpenOptions;
use std::io::IsTerminal;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use console::Term;
use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lunasa::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// One rank's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    rank: u32,
    host: String,
    cells: u64,
    cells_per_s: f64,
    served: u64,
    read: u64,
    written: u64,
    /// Bytes moved from and to peers, by route.
    routes: Vec<(String, u64)>,
    registrations: u64,
    avoided: u64,
    node_asked: Option<u32>,
    /// Sampled pages on each NUMA node, over all blocks.
    nodes_found: Vec<(u32, u64)>,
}

impl Row {
    /// A row from what this rank knows: `served` of its LDOs were named to peers.
    pub fn new(snapshot: &Snapshot, cells: u64, cells_per_s: f64, served: u64) -> Self {
        let traffic = &snapshot.traffic;
        let mut nodes_found: Vec<(u32, u64)> = Vec::new();
        for (node, pages) in snapshot.blocks.iter().flat_map(|block| &block.nodes_found) {
            match nodes_found.iter_mut().find(|(known, _)| known == node) {
                Some((_, sum)) => *sum += pages,
                None => nodes_found.push((*node, *pages)),
            }
        }
        Self {
            rank: snapshot.rank.rank,
            host: snapshot.rank.host.clone(),
            cells,
            cells_per_s,
            served,
            read: traffic.iter().map(|t| t.gets).sum(),
            written: traffic.iter().map(|t| t.puts).sum(),
            routes: traffic.iter().map(|t| (t.route.clone(), t.get_bytes + t.put_bytes)).filter(|t| t.1 > 0).collect(),
            registrations: snapshot.registrations.done,
            avoided: snapshot.registrations.avoided,
            node_asked: snapshot.blocks.iter().find_map(|block| block.node_asked),
            nodes_found,
        }
    }

    /// As text, for the way to rank 0.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Report(e.to_string()))
    }

    /// From the text of another rank.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::Report(e.to_string()))
    }
}

/// The table of all ranks.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled).set_header([
        "rank",
        "host",
        "cells",
        "cells/s",
        "LDOs served",
        "read",
        "written",
        "bytes by route",
        "registrations",
        "avoided",
        "NUMA asked",
        "NUMA found",
    ]);
    for row in rows {
        let routes = row.routes.iter().map(|(route, bytes)| format!("{route} {}", BinaryBytes(*bytes)));
        let found = row.nodes_found.iter().map(|(node, pages)| format!("{node} ({pages} pages)"));
        table.add_row([
            row.rank.to_string(),
            row.host.clone(),
            HumanCount(row.cells).to_string(),
            format!("{:.2e}", row.cells_per_s),
            HumanCount(row.served).to_string(),
            HumanCount(row.read).to_string(),
            HumanCount(row.written).to_string(),
            or_dash(routes),
            row.registrations.to_string(),
            row.avoided.to_string(),
            or_dash(row.node_asked.map(|node| node.to_string())),
            or_dash(found),
        ]);
    }
    for column in [0, 2, 3, 4, 5, 6, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn or_dash(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

/// A bar of `steps`, drawn only where `shown` and somebody watches.
pub fn progress(steps: u64, shown: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), if shown { target() } else { ProgressDrawTarget::hidden() });
    let style = ProgressStyle::with_template("{bar:40} step {pos} of {len}, {eta} to go");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Standard error, when it is a terminal. Under `mpirun` it never is (and standard output always is, even when redirected
/// to a file): there the controlling terminal says whether somebody watches.
fn target() -> ProgressDrawTarget {
    if !std::io::stderr().is_terminal() {
        let open = || OpenOptions::new().read(true).write(true).open("/dev/tty");
        if let (Ok(read), Ok(write)) = (open(), open()) {
            return ProgressDrawTarget::term(Term::read_write_pair(read, write), 10);
        }
    }
    ProgressDrawTarget::stderr()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_row_survives_the_way_to_rank_0_and_the_table_says_what_it_holds() {
        let row = Row {
            rank: 3,
            host: "node7".into(),
            cells: 14_400,
            cells_per_s: 1.5e8,
            served: 4,
            read: 2001,
            written: 17,
            routes: vec![("shm".into(), 3 << 20), ("mpi".into(), 512)],
            registrations: 1,
            avoided: 5,
            node_asked: Some(1),
            nodes_found: vec![(1, 64)],
        };
        assert_eq!(Row::from_json(&row.to_json().unwrap()).unwrap(), row);
        let text = table(&[row]).to_string();
        for word in ["node7", "14,400", "1.50e8", "2,001", "shm 3.00 MiB, mpi 512 B", "1 (64 pages)"] {
            assert!(text.contains(word), "{word} in\n{text}");
        }
    }
}
