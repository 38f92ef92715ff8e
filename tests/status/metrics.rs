//! What programs ask for: the numbers in both formats, who else is there, whether the start is over.

use super::*;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

const OLD: &str = "text/plain;version=0.0.4";

/// The numbers, as whoever accepts this gets them: with what was said of their type, and the text.
fn numbers(endpoint: &Endpoint, accepted: &str) -> (String, String) {
    let (host, token) = (at(endpoint).to_string(), format!("Bearer {TOKEN}"));
    let headers = [("Host", &*host), ("Authorization", &token), ("Accept", accepted)];
    let reply = ask(at(endpoint), "GET", "/metrics", &headers);
    assert_eq!(reply.status, 200, "{reply:?}");
    (reply.header("content-type").unwrap().to_owned(), reply.body)
}

#[test]
fn openmetrics_has_a_series_per_pool_and_route_with_units_and_an_end() {
    let endpoint = endpoint(&Hooks::new());
    let (content_type, body) = numbers(&endpoint, "application/openmetrics-text;version=1.0.0,*/*;q=0.1");
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(get(&endpoint, "/metrics").body.lines().count(), body.lines().count(), "it is what one gets unasked");
    let here = "rank=\"2\",host=\"n7<i>\"";
    for line in [
        "# HELP lunasa_pool_allocated_bytes What live objects asked for, headers included.",
        "# TYPE lunasa_pool_allocated_bytes gauge",
        "# UNIT lunasa_pool_allocated_bytes bytes",
        &format!("lunasa_pool_allocated_bytes{{{here},pool=\"eager\"}} 20971520"),
        "# TYPE lunasa_pool_allocations counter",
        &format!("lunasa_pool_allocations_total{{{here},pool=\"lazy\"}} 1234567"),
        &format!("lunasa_pool_blocks{{{here},pool=\"eager\"}} 2"),
        &format!("lunasa_transfer_bytes_total{{{here},route=\"shm\",operation=\"get\"}} 5368709120"),
        &format!("lunasa_transfers_total{{{here},route=\"mpi\",operation=\"serve\"}} 144"),
        &format!("lunasa_transfer_errors_total{{{here},route=\"mpi\"}} 3"),
        "# UNIT lunasa_registrations_saved_seconds seconds",
        &format!("lunasa_registrations_saved_seconds_total{{{here}}} 1543.203125"),
        &format!("lunasa_uptime_seconds{{{here}}} 125.5"),
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in:\n{body}");
    }
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    assert!(!body.contains("0x7f") && body.lines().count() < 200, "nothing per object or block:\n{body}");
}

#[test]
fn who_prefers_the_older_text_gets_it() {
    let endpoint = endpoint(&Hooks::new());
    let (content_type, body) = numbers(&endpoint, OLD);
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert!(body.contains("\n# TYPE lunasa_pool_allocations_total counter\n"), "{body}");
    assert!(!body.contains("# EOF") && !body.contains("# UNIT"), "{body}");
}

/// Names, labels and values, as Prometheus's own parser of a format reads them: one per line; none where it is not
/// installed.
fn parsed(parser: &str, body: &str) -> Option<Vec<String>> {
    let program = format!(
        "import sys\ntry:\n  from prometheus_client.{parser} import text_string_to_metric_families as read\n\
         except ImportError:\n  sys.exit(77)\n\
         for family in read(sys.stdin.read()):\n  for s in family.samples:\n    \
         print(family.type, family.unit or '-', s.name, sorted(s.labels.items()), float(s.value))\n  \
         assert family.documentation and family.samples, family"
    );
    // The system's Python has the package; another one may come first.
    let system = std::path::Path::new("/usr/bin/python3");
    let mut python = Command::new(if system.exists() { system } else { "python3".as_ref() });
    let child =
        python.args(["-c", &program]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return None };
    // It may have ended before it read anything.
    let _ = child.stdin.take().unwrap().write_all(body.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        return None;
    }
    assert!(output.status.success(), "{}\n{body}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn the_parsers_of_prometheus_read_the_same_from_both_formats() {
    let endpoint = endpoint(&Hooks::new());
    let new = parsed("openmetrics.parser", &numbers(&endpoint, "application/openmetrics-text").1);
    let old = parsed("parser", &numbers(&endpoint, OLD).1);
    let (Some(new), Some(old)) = (new, old) else {
        eprintln!("SKIPPED: python3-prometheus-client is not installed");
        if let Ok(skips) = std::env::var("LUNASA_TEST_SKIPS") {
            let mut skips = std::fs::OpenOptions::new().append(true).create(true).open(skips).unwrap();
            writeln!(skips, "SKIPPED: the parsers of Prometheus: python3-prometheus-client is not installed").unwrap();
        }
        return;
    };
    let expected =
        "gauge bytes lunasa_pool_allocated_bytes [('host', 'n7<i>'), ('pool', 'eager'), ('rank', '2')] 20971520.0";
    assert!(new.iter().any(|line| line == expected), "{new:#?}");
    // The older one knows neither units nor infos.
    let samples = |lines: &[String]| -> BTreeSet<String> {
        lines.iter().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
    };
    assert_eq!(samples(&new), samples(&old));
    assert!(samples(&new).len() > 40, "{new:#?}");
}

#[test]
fn the_numbers_and_the_list_of_ranks_need_the_token() {
    let endpoint = endpoint(&Hooks::new());
    let host = at(&endpoint).to_string();
    for path in ["/metrics", "/ranks"] {
        assert_eq!(ask(at(&endpoint), "GET", path, &[("Host", &host)]).status, 401, "{path}");
        let wrong = [("Host", &*host), ("Authorization", "Bearer 00000000000000000000000000000000")];
        assert_eq!(ask(at(&endpoint), "GET", path, &wrong).status, 401, "{path}");
    }
    let ranks = get(&endpoint, "/ranks").json();
    assert_eq!((&ranks["run"], &ranks["peers"][3]["host"]), (&"5f3a9c01d2e4".into(), &"n7".into()));
    assert_eq!(ranks["peers"].as_array().unwrap().len(), 4);
}

#[test]
fn a_rank_is_ready_once_its_start_is_over_and_says_so_without_a_token() {
    let endpoint = Endpoint::start(options(Access::Token(TOKEN.into())), Hooks::new()).unwrap();
    let host = at(&endpoint).to_string();
    let ready = || ask(at(&endpoint), "GET", "/readyz", &[("Host", &host)]);
    let reply = ready();
    assert_eq!((reply.status, &*reply.body, reply.header("retry-after")), (503, "starting\n", Some("1")));
    assert_eq!(get(&endpoint, "/metrics").status, 503);
    let source = Fake::with_objects(1);
    *source.health.lock().unwrap() = Err("not well".into());
    endpoint.set_source(source);
    let reply = ready();
    assert_eq!((reply.status, &*reply.body), (200, "ready\n"), "ready is not the same as well");
}
