//! What the ranks said, as one table.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use lunasa::status::pretty;

use super::jobs::{Job, Row};

/// One table for all ranks of these jobs, and a line for each job.
pub fn table(jobs: &[&Job]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled).set_header([
        "job",
        "rank",
        "host",
        "up",
        "objects",
        "allocated",
        "managed",
        "registered",
        "moved",
        "now",
        "errors",
        "state",
    ]);
    for job in jobs {
        for row in &job.rows {
            table.add_row(cells(job, row));
        }
    }
    for column in [1, 3, 4, 5, 6, 7, 8, 9, 10] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let sums: Vec<String> = jobs.iter().map(|job| sum(job)).collect();
    format!("{table}\n{}", sums.join("\n"))
}

fn cells(job: &Job, row: &Row) -> [String; 12] {
    let (job, rank, host) = (job.run.clone(), row.rank.to_string(), row.host.clone());
    let Some(brief) = &row.brief else {
        let none = || "-".to_owned();
        let state = format!("no answer: {}", row.reason.as_deref().unwrap_or("unknown"));
        return [job, rank, host, none(), none(), none(), none(), none(), none(), none(), none(), state];
    };
    [
        job,
        rank,
        host,
        pretty::duration(brief.uptime_s),
        pretty::count(brief.live_objects),
        pretty::bytes(brief.allocated_bytes),
        pretty::bytes(brief.managed_bytes),
        pretty::bytes(brief.registered_bytes),
        pretty::bytes(brief.moved_bytes),
        format!("{}/s", pretty::bytes(brief.moved_per_s as u64)),
        pretty::count(brief.errors),
        brief.trouble.clone().unwrap_or_else(|| "well".to_owned()),
    ]
}

fn sum(job: &Job) -> String {
    let silent = job.silent();
    let answer = job.rows.len() - silent;
    let (run, ranks) = (&job.run, job.ranks);
    match silent {
        0 => format!("job {run}: {answer} of {ranks} ranks answer"),
        _ => format!("job {run}: {answer} of {ranks} ranks answer, {} did not: {}", silent, list(job)),
    }
}

/// The ranks that did not answer, as ranges.
fn list(job: &Job) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for rank in job.rows.iter().filter(|row| row.brief.is_none()).map(|row| row.rank) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => ranges.push((rank, rank)),
        }
    }
    let one = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}
