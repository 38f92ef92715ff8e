//! One table for all ranks: those that found the same share a row.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use lunasa::checkup::{Finding, Verdict};

use super::Report;

/// Columns when the output is no terminal, and those that one must have.
const WIDTH: u16 = 140;
const LEAST: u16 = 60;

/// What some ranks found alike.
struct Row<'a> {
    finding: &'a Finding,
    ranks: Vec<u32>,
    /// The least and the greatest of each number.
    spans: Vec<(f64, f64)>,
}

/// The rows, each check's together, in the order of the checks.
fn rows(reports: &[Report]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for report in reports {
        for finding in &report.findings {
            let alike = |row: &&mut Row<'_>| {
                let known = row.finding;
                (&known.what, known.verdict, &known.found, &known.advice, known.numbers.len())
                    == (&finding.what, finding.verdict, &finding.found, &finding.advice, finding.numbers.len())
            };
            if let Some(row) = rows.iter_mut().find(alike) {
                row.ranks.push(report.rank);
                let wider =
                    |(span, number): (&mut (f64, f64), &f64)| *span = (span.0.min(*number), span.1.max(*number));
                row.spans.iter_mut().zip(&finding.numbers).for_each(wider);
                continue;
            }
            let spans = finding.numbers.iter().map(|number| (*number, *number)).collect();
            let behind = rows.iter().rposition(|row| row.finding.what == finding.what).map_or(rows.len(), |at| at + 1);
            rows.insert(behind, Row { finding, ranks: vec![report.rank], spans });
        }
    }
    rows
}

/// How many rows have this verdict.
pub fn count(reports: &[Report], verdict: Verdict) -> usize {
    rows(reports).iter().filter(|row| row.finding.verdict == verdict).count()
}

/// The table, ready to be printed.
pub fn table(reports: &[Report]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    // Under mpirun it can be a terminal without a width.
    if table.width().is_none_or(|width| width < LEAST) {
        table.force_no_tty().set_width(WIDTH);
    }
    table.set_header(["check", "ranks", "", "found", "what to do"]);
    for row in rows(reports) {
        let Finding { what, verdict, found, advice, .. } = row.finding;
        let color = match verdict {
            Verdict::Ok => Color::Green,
            Verdict::Warning => Color::Yellow,
            Verdict::Fails => Color::Red,
        };
        table.add_row([
            Cell::new(what),
            Cell::new(listed(&row.ranks)),
            Cell::new(verdict).fg(color),
            Cell::new(filled(found, &row.spans)),
            Cell::new(advice.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

/// What one rank found, with its numbers.
pub fn said(finding: &Finding) -> String {
    filled(&finding.found, &finding.numbers.iter().map(|number| (*number, *number)).collect::<Vec<_>>())
}

/// What was found, with its numbers.
fn filled(found: &str, spans: &[(f64, f64)]) -> String {
    spans.iter().fold(found.to_owned(), |text, (least, most)| {
        let (least, most) = (short(*least), short(*most));
        text.replacen("{}", &if least == most { least } else { format!("{least} to {most}") }, 1)
    })
}

/// Two or three digits that matter.
fn short(number: f64) -> String {
    match number {
        _ if number >= 10.0 => format!("{number:.0}"),
        _ if number >= 1.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Ranks in their order: `0-3, 7`.
fn listed(ranks: &[u32]) -> String {
    let runs = ranks.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        one => one.iter().map(u32::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_that_found_the_same_share_a_row_and_their_numbers_a_span() {
        let report = |rank, cost: f64, lock: Finding| Report {
            rank,
            host: "a".into(),
            findings: vec![Finding::ok("cost", "{} µs").measured([cost]), lock],
        };
        let ok = || Finding::ok("memlock", "unlimited");
        let little = Finding::ok("memlock", "64 KiB").fails("raise it");
        let reports = [report(0, 30.2, ok()), report(1, 41.0, little), report(2, 30.0, ok()), report(3, 33.0, ok())];
        let said: Vec<(String, String)> =
            rows(&reports).iter().map(|row| (listed(&row.ranks), filled(&row.finding.found, &row.spans))).collect();
        let said: Vec<(&str, &str)> = said.iter().map(|(ranks, found)| (ranks.as_str(), found.as_str())).collect();
        assert_eq!(said, [("0-3", "30 to 41 µs"), ("0, 2-3", "unlimited"), ("1", "64 KiB")]);
        let printed = table(&reports).to_string();
        assert!(printed.contains("raise it") && printed.contains("fails"), "{printed}");
    }
}
