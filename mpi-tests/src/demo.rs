//! Judges what `lunasa demo` printed and left behind.

use crate::launch::{Outcome, root};
use std::time::SystemTime;

/// The demo's numbers may differ from the analytic decay by no more than this (of a field whose greatest value is 1).
const MAX_ERROR: f64 = 1e-2;

/// The demo ended well on `ranks` ranks: its last line is `demo: ok ranks=N … max_error=… leaks=0`, with a small error.
///
/// # Panics
/// When it did not, with what it printed.
#[track_caller]
pub fn expect_ok(outcome: &Outcome, printed: &str, ranks: usize) {
    if let Err(wrong) = judge(printed, ranks) {
        panic!("the demo on {ranks} ranks: {wrong}\n--- printed\n{printed}\n{}", outcome.report());
    }
}

/// Since `start` the demo wrote a field (`.npy`) and a picture (`.png`) into `demo-out` at the top of the checkout.
///
/// # Panics
/// When one is missing, older, or not of its kind.
#[track_caller]
pub fn expect_files(start: SystemTime) {
    let folder = root().join("demo-out");
    for (extension, magic) in [("png", b"\x89PNG\r\n".as_slice()), ("npy", b"\x93NUMPY".as_slice())] {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut fresh = entries.flatten().filter(|entry| {
            let modified = entry.metadata().and_then(|data| data.modified());
            entry.path().extension().is_some_and(|e| e == extension) && modified.is_ok_and(|time| time >= start)
        });
        let entry = fresh.next().unwrap_or_else(|| panic!("no new .{extension} in {}", folder.display()));
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        assert!(bytes.starts_with(magic), "{} is no .{extension}", entry.path().display());
    }
}

fn judge(printed: &str, ranks: usize) -> Result<(), String> {
    let last = printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let facts =
        last.strip_prefix("demo: ok ").ok_or_else(|| format!("it ends with {last:?}, not with \"demo: ok\""))?;
    let value = |key: &str| {
        let mut pairs = facts.split_whitespace().filter_map(|fact| fact.split_once('='));
        pairs.find(|(k, _)| *k == key).map(|(_, v)| v).ok_or_else(|| format!("no {key}= in {last:?}"))
    };
    if value("ranks")? != ranks.to_string() {
        return Err(format!("it ran on other ranks: {last:?}"));
    }
    if value("leaks")? != "0" {
        return Err(format!("LDOs leaked: {last:?}"));
    }
    let error: f64 = value("max_error")?.parse().map_err(|_| format!("max_error is no number: {last:?}"))?;
    // The comparison is written so that NaN fails it.
    if (0.0..=MAX_ERROR).contains(&error) { Ok(()) } else { Err(format!("max_error is beyond {MAX_ERROR}: {last:?}")) }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn a_good_last_line_is_accepted() {
        let printed = "rank cells/s\n0 12\ndemo: ok ranks=4 steps=100 max_error=3.1e-5 seconds=0.2 leaks=0\n\n";
        assert_eq!(judge(printed, 4), Ok(()));
    }

    #[test]
    fn each_fault_is_refused_and_named() {
        let cases = [
            ("", "ends with"),
            ("demo: ok ranks=4 max_error=1e-5 leaks=0\nerror: later", "ends with"),
            ("demo: ok ranks=1 max_error=1e-5 leaks=0", "other ranks"),
            ("demo: ok ranks=4 max_error=1e-5 leaks=2", "leaked"),
            ("demo: ok ranks=4 max_error=1e-5", "no leaks="),
            ("demo: ok ranks=4 max_error=0.5 leaks=0", "beyond"),
            ("demo: ok ranks=4 max_error=NaN leaks=0", "beyond"),
            ("demo: ok ranks=4 max_error=-1 leaks=0", "beyond"),
            ("demo: ok ranks=4 max_error=small leaks=0", "no number"),
        ];
        for (printed, reason) in cases {
            let refused = judge(printed, 4).expect_err(printed);
            assert!(refused.contains(reason), "{printed:?} gave {refused:?}");
        }
    }
}
