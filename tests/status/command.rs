//! The command line over running endpoints: the jobs it finds, ranks that do not answer, hooks.

use super::job::{join, member, peer};
use super::*;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use lunasa::status::{HookOptions, HookReply, JobFile, JobNote, TokenFile};
use lunasa::{Config, Lunasa};
use serde_json::Value;

/// The run of the made-up ranks.
const RUN: &str = "5f3a9c01d2e4";

/// Runs the command line, with the jobs that have their files in `directory`.
fn lunasa(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lunasa"));
    command.args(arguments).args(["--directory".as_ref(), directory.as_os_str()]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The only document that `lunasa status --json` prints, after it ended with `code`.
fn document(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn note(endpoint: &Endpoint, token_file: &TokenFile) -> JobNote {
    JobNote {
        run: RUN.into(),
        rank: 0,
        ranks: 4,
        host: "n0".into(),
        pid: std::process::id(),
        url: format!("http://{}/", at(endpoint)),
        between: "ranks".into(),
        token_file: Some(token_file.path().to_owned()),
    }
}

fn local(directory: &Path) -> Lunasa {
    let config = Config::new().ignore_environment().set("lunasa.status.port", 0).unwrap();
    let config = config.set("lunasa.status.directory", directory.to_str().unwrap()).unwrap();
    let list = directory.join("endpoints.json");
    Lunasa::local(config.set("lunasa.status.discovery", list.to_str().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_running_job_is_found_by_itself_and_is_gone_when_it_finished() {
    let temporary = tempfile::tempdir().unwrap();
    let lunasa_here = local(temporary.path());
    let run = lunasa_here.snapshot().rank.run;
    let output = lunasa(temporary.path(), &["status"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(table.contains(&format!("job {run}: 1 of 1 ranks answer\n")) && table.contains("well"), "{table}");
    let found = document(&lunasa(temporary.path(), &["status", "--json", &run[..6]]), 0);
    let row = &found["jobs"][0]["peers"][0];
    assert_eq!((&found["jobs"][0]["run"], &row["rank"]), (&run.clone().into(), &0.into()), "{found}");
    assert_eq!(
        row["brief"]["managed_bytes"],
        lunasa_here.snapshot().pools.iter().map(|p| p.managed_bytes).sum::<u64>()
    );
    let unknown = lunasa(temporary.path(), &["status", "xyz"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");

    let list: Value = serde_json::from_slice(&std::fs::read(temporary.path().join("endpoints.json")).unwrap()).unwrap();
    let url = format!("http://{}/", list[0]["targets"][0].as_str().unwrap());
    assert!(lunasa_here.url().starts_with(&url), "{url}");
    assert_eq!((&list[0]["labels"]["job"], &list[0]["labels"]["rank"]), (&run.into(), &"0".into()));

    lunasa_here.finish().unwrap();
    assert_eq!(document(&lunasa(temporary.path(), &["status", "--json"]), 0)["jobs"], Value::Array(vec![]));
    assert!(!temporary.path().join("endpoints.json").exists());
}

#[test]
fn watching_asks_again_until_nobody_reads() {
    let temporary = tempfile::tempdir().unwrap();
    let lunasa_here = local(temporary.path());
    let directory = temporary.path().to_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lunasa"));
    command.args(["status", "--json", "--watch", "0.05", "--directory", directory]);
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut up = || -> f64 {
        let found: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        found["jobs"][0]["peers"][0]["brief"]["uptime_s"].as_f64().unwrap()
    };
    let (first, second) = (up(), up());
    assert!(second >= first + 0.05, "{first} {second}");
    drop(lines);
    // Not by a panic, which would be 101.
    assert_eq!(watching.wait().unwrap().code(), Some(2));
    lunasa_here.finish().unwrap();
}

#[test]
fn a_job_that_listens_on_a_socket_is_found_too() {
    let temporary = tempfile::tempdir().unwrap();
    let config = Config::new().ignore_environment().set("lunasa.status.listen", "socket").unwrap();
    let config = config.set("lunasa.status.directory", temporary.path().to_str().unwrap()).unwrap();
    let lunasa_here = Lunasa::local(config).unwrap();
    let found = document(&lunasa(temporary.path(), &["status", "--json"]), 0);
    assert!(found["jobs"][0]["peers"][0]["brief"].is_object(), "{found}");
    lunasa_here.finish().unwrap();
}

#[test]
fn ranks_that_do_not_answer_are_named_in_time_and_never_shown_the_token() {
    let temporary = tempfile::tempdir().unwrap();
    let (first, second) = (member(), member());
    // Takes connections, says nothing, and remembers what it was shown.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_at = mute.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = |address: SocketAddr| format!("http://{address}/");
    let peers = [
        peer(0, url(at(&first)), "n0"),
        peer(1, url(closed), "n0"),
        peer(2, url(mute_at), "n0"),
        // Says it is rank 4.
        peer(3, url(at(&second)), "n0"),
        peer(4, url(at(&second)), "n0"),
    ];
    join(&first, 0, &peers, 1 << 20);
    join(&second, 4, &peers, 3 << 20);
    let token = TokenFile::create(Some(temporary.path()), RUN, TOKEN).unwrap();
    let _file = JobFile::create(Some(temporary.path()), &note(&first, &token)).unwrap();

    let began = Instant::now();
    let found = document(&lunasa(temporary.path(), &["status", "--json", "--timeout", "1"]), 1);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let rows = found["jobs"][0]["peers"].as_array().unwrap();
    let said = |rank: usize| rows[rank]["reason"].as_str().unwrap_or("answered").to_owned();
    assert_eq!((said(0), said(4), rows.len()), ("answered".into(), "answered".into(), 5), "{found}");
    assert!(said(1).contains("refused") && said(2).contains("within 1 s"), "{found}");
    assert!(said(3).contains("somebody else"), "{found}");
    assert_eq!(rows[4]["brief"]["allocated_bytes"], 3 << 20);

    let (mut shown, _) = mute.accept().unwrap();
    let mut head = String::new();
    shown.read_to_string(&mut head).unwrap();
    assert!(head.contains("Bearer ranks\r\n") && !head.contains(TOKEN), "{head}");

    let output = lunasa(temporary.path(), &["status", "--timeout", "1"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(table.contains("job 5f3a9c01d2e4: 2 of 4 ranks answer, 3 did not: 1-3\n"), "{table}");
    // By the URL of a rank, that rank asks the others: all that a forwarded port leads to.
    let by_url = document(&lunasa(temporary.path(), &["status", "--json", &url(at(&first))]), 1);
    assert_eq!(by_url["jobs"][0]["peers"][4]["brief"]["allocated_bytes"], 3 << 20, "{by_url}");
}

#[test]
fn ten_thousand_ranks_are_all_asked_within_seconds() {
    const RANKS: u32 = 10_000;
    let temporary = tempfile::tempdir().unwrap();
    let (first, other) = (member(), member());
    // All but the first are one endpoint, which says it is rank 1.
    let address = |rank: u32| if rank == 0 { at(&first) } else { at(&other) };
    let peers: Vec<PeerInfo> = (0..RANKS).map(|rank| peer(rank, format!("http://{}/", address(rank)), "n0")).collect();
    join(&first, 0, &peers, 1 << 20);
    join(&other, 1, &peers, 1 << 20);
    let token = TokenFile::create(Some(temporary.path()), RUN, TOKEN).unwrap();
    let _file = JobFile::create(Some(temporary.path()), &note(&first, &token)).unwrap();
    let began = Instant::now();
    let found = document(&lunasa(temporary.path(), &["status", "--json", "--timeout", "60"]), 1);
    println!("{RANKS} ranks: {:?}", began.elapsed());
    let rows = found["jobs"][0]["peers"].as_array().unwrap();
    let reasons = |words: &str| rows.iter().filter(|row| row["reason"] == words).count();
    assert_eq!((rows.len(), reasons("no answer within 60 s")), (10_000, 0), "some were never asked");
    // On a busy machine one or the other may have been too slow.
    let answered = reasons("somebody else answers there");
    assert!((9_900..=9_998).contains(&answered), "{answered}");
}

#[test]
fn a_job_that_was_killed_is_told_from_one_that_does_not_answer() {
    let temporary = tempfile::tempdir().unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let token = TokenFile::create(Some(temporary.path()), RUN, TOKEN).unwrap();
    let endpoint = member();
    let mut over = Command::new("true").spawn().unwrap();
    over.wait().unwrap();
    let note = JobNote { host, pid: over.id(), ..note(&endpoint, &token) };
    endpoint.stop();
    let file = JobFile::create(Some(temporary.path()), &note).unwrap();
    assert_eq!(document(&lunasa(temporary.path(), &["status", "--json"]), 0)["left_behind"][0], RUN);
    drop(file);
    let note = JobNote { pid: std::process::id(), ..note };
    let _file = JobFile::create(Some(temporary.path()), &note).unwrap();
    let found = document(&lunasa(temporary.path(), &["status", "--json"]), 1);
    assert!(found["jobs"][0]["peers"][0]["reason"].as_str().unwrap().contains("refused"), "{found}");
}

#[test]
fn hooks_are_asked_with_arguments_and_their_refusals_are_told() {
    let temporary = tempfile::tempdir().unwrap();
    let lunasa_here = local(temporary.path());
    let echo = |request: &lunasa::status::HookRequest| {
        HookReply::text(format!("{} {}", request.method, request.argument("a b").unwrap_or("nothing")))
    };
    lunasa_here.hooks().register_with("echo", HookOptions::new().post(), echo).unwrap();
    // Without a token in it: that of the job is found.
    let url = lunasa_here.url().split('?').next().unwrap().to_owned();
    let said = |arguments: &[&str]| {
        let output = lunasa(temporary.path(), &[&["hook", &url], arguments].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(said(&["echo", "a b=x&y=<z>"]), (Some(0), "GET x&y=<z>".into(), String::new()));
    assert_eq!(said(&["echo", "a b=1", "--post"]).1, "POST 1");
    let (code, out, refusal) = said(&["no/such"]);
    assert!(code == Some(1) && out.is_empty() && refusal.contains("404"), "{refusal}");
    let nobody = tempfile::tempdir().unwrap();
    let output = lunasa(nobody.path(), &["hook", &url, "echo"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("401"), "{output:?}");
    let output = lunasa(nobody.path(), &["hook", &lunasa_here.url(), "echo"]);
    assert_eq!(text(&output.stdout), "GET nothing", "a token in the URL will do");
    lunasa_here.finish().unwrap();
}
