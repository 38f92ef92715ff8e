//! Each page, as HTML and as JSON.

use super::*;

fn html(endpoint: &Endpoint, target: &str) -> String {
    let reply = get(endpoint, target);
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")), "{target}");
    reply.body
}

fn assert_has(body: &str, wanted: &[&str]) {
    for text in wanted {
        assert!(body.contains(text), "no {text:?} in {body}");
    }
}

#[test]
fn the_rank_page_says_who_where_how_long_and_what_was_configured() {
    let hooks = Hooks::new();
    hooks.register("field", |_| lunasa::status::HookReply::text("")).unwrap();
    let body = html(&endpoint(&hooks), "/");
    assert_has(&body, &["Rank 2", "n7&lt;i&gt;", "4711", "2 min 05 s", "THREAD_MULTIPLE", "8-15", "5f3a9c01d2e4"]);
    assert_has(
        &body,
        &["24.0 MiB of 64.0 MiB used", "1,234,567", "5.0 GiB", "81,920", "environment LUNASA_STATUS_PORT"],
    );
    assert_has(&body, &["href=\"/lunasa\"", "href=\"/job\"", "href=\"/hooks/field\"", "2 at 127.0.0.1:1992"]);
    assert_has(&body, &["bound to 8 of 16 cores", "8 of 8 cores of node 1", "32.0 GiB of 64.0 GiB free", "core 15"]);
    assert!(!body.contains("<i>"), "{body}");
}

#[test]
fn the_memory_page_shows_pools_classes_and_registrations() {
    let body = html(&endpoint(&Hooks::new()), "/lunasa");
    assert_has(&body, &["eager", "lazy", "tcmalloc", "32.0 KiB", "1,000 of 1,536 pieces live"]);
    assert_has(&body, &["98,765", "?format=json", "At most 4,321 objects with 25.0 MiB, 64.0 MiB managed"]);
    assert_has(&body, &["of 3.0 GiB", "62.5 ms", "15.6 ms and 0 ns for each MiB", "25 min 43 s"]);
    // Rounding: 24 of 20 MiB; in caches and cut spans 1 MiB and 444 KiB of 64 MiB.
    assert_has(&body, &["4.0 MiB", "16.7 %", "443.0 KiB", "2.2 %", "300.0 KiB"]);
}

#[test]
fn the_block_page_draws_each_block_and_says_where_it_is() {
    let endpoint = endpoint(&Hooks::new());
    let body = html(&endpoint, "/lunasa/blocks");
    assert_has(
        &body,
        &["0x7f1234000000", "no huge pages are reserved", "all of 0, 1", "found 8 of 64 on 0, 56 of 64 on 1"],
    );
    assert_has(&body, &["Block of 32.0 MiB: 40 % live, 10 % kept for reuse", "M0 100v-40h1v40z", "M127 60v-10h1v10z"]);
    let json = get(&endpoint, "/lunasa/blocks?format=json").json();
    assert_eq!(
        (&json["maps"][0]["cells"][5], json["blocks"].as_array().unwrap().len()),
        (&serde_json::json!([40, 10]), 3)
    );
}

#[test]
fn the_peers_page_shows_each_peer_with_its_latencies_in_the_order_asked_for() {
    let endpoint = endpoint(&Hooks::new());
    let body = html(&endpoint, "/peers");
    assert_has(
        &body,
        &["3 peers of 4 ranks", "n7&lt;i&gt;", "mapped", "<strong class=\"bad\">3</strong>", "&lt; 512 ns"],
    );
    assert_has(&body, &["Latency: 100 below 512 ns, 20 below 1.0 µs, 3 below 2.0 µs", "Half below <b>512 ns</b>"]);
    let order = |target: &str| {
        let body = html(&endpoint, target);
        let rows: Vec<String> = body.split("<tr><td class=\"n\">").skip(1).map(|row| row[..1].to_owned()).collect();
        rows.concat()
    };
    assert_eq!((order("/peers"), order("/peers?sort=rank&order=asc")), ("301".into(), "013".into()));
    assert_eq!(order("/peers?sort=errors&order=desc").chars().next(), Some('1'));
    assert_has(
        &html(&endpoint, "/peers?sort=errors&order=desc"),
        &["aria-sort=\"descending\"><a href=\"?sort=errors&amp;order=asc\""],
    );
    let json = get(&endpoint, "/peers?format=json").json();
    let peers: Vec<PeerTraffic> = serde_json::from_value(json["peers"].clone()).unwrap();
    assert_eq!(peers, Fake::with_objects(0).talked_to());
}

#[test]
fn the_rank_page_plots_what_was_sampled() {
    let endpoint = endpoint(&Hooks::new());
    let began = std::time::Instant::now();
    let drawn = loop {
        let body = html(&endpoint, "/");
        if body.matches("<polyline").count() == 5 {
            break body;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{body}");
        std::thread::sleep(Duration::from_millis(200));
    };
    // Three MiB more in each sample.
    assert_has(&drawn, &["shm <b>3.0 MiB/s</b>", "mpi <b>0 B/s</b>", "registered <b>64.0 MiB</b>", "1 min ago"]);
    let json = get(&endpoint, "/?format=json").json();
    assert!(json["history"].as_array().unwrap().len() > 2);
    assert_eq!(json["history"][0]["moved"][0][0], "shm");
}

#[test]
fn the_json_of_the_memory_page_is_the_whole_snapshot() {
    let source = Fake::with_objects(10);
    let reply = get(&endpoint(&Hooks::new()), "/lunasa?format=json");
    assert_eq!(serde_json::from_value::<Snapshot>(reply.json()).unwrap(), source.snapshot());
}

#[test]
fn every_page_has_json_with_a_schema_and_the_version() {
    let endpoint = endpoint(&Hooks::new());
    for path in PATHS {
        let json = get(&endpoint, &format!("{path}?format=json")).json();
        assert_eq!((&json["schema"], &json["version"]), (&SCHEMA.into(), &env!("CARGO_PKG_VERSION").into()), "{path}");
    }
}

#[test]
fn health_needs_no_token_and_gives_the_reason() {
    let endpoint = Endpoint::start(options(Access::Token(TOKEN.into())), Hooks::new()).unwrap();
    let host = at(&endpoint).to_string();
    let health = || ask(at(&endpoint), "GET", "/healthz", &[("Host", &host)]);
    assert_eq!((health().status, health().body.as_str()), (503, "starting\n"));
    let source = Fake::with_objects(1);
    endpoint.set_source(source.clone());
    assert_eq!((health().status, health().body.as_str()), (200, "ok\n"));
    *source.health.lock().unwrap() = Err("a peer is gone".into());
    assert_eq!((health().status, health().body.as_str()), (503, "a peer is gone\n"));
}

#[test]
fn pages_answer_503_until_there_is_a_source() {
    let endpoint = Endpoint::start(options(Access::Token(TOKEN.into())), Hooks::new()).unwrap();
    for path in PATHS.into_iter().chain(["/hooks/x", "/brief", "/events?page=/"]) {
        let reply = get(&endpoint, path);
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{path}");
        assert_has(&reply.body, &["Starting"]);
    }
    endpoint.set_source(Fake::with_objects(1));
    assert_eq!(get(&endpoint, "/").status, 200);
}

#[test]
fn what_is_not_there_is_a_small_404_page_with_the_path_escaped() {
    let endpoint = endpoint(&Hooks::new());
    for path in [
        "/nothing",
        "/lunasa/",
        "/lunasa/none",
        "/hooks/none",
        "/hooks/%3Cb%3E",
        "/hooks/%ff",
        "/%3Cscript%3E",
        "/a'\"b",
    ] {
        let reply = get(&endpoint, path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.body.len() < 2000 && reply.body.contains("Not found"), "{}", reply.body);
        assert!(!reply.body.contains("<b>") && !reply.body.contains("<script>"), "{}", reply.body);
    }
}

#[test]
fn an_unknown_format_is_refused() {
    assert_eq!(get(&endpoint(&Hooks::new()), "/lunasa?format=xml").status, 400);
}

#[test]
fn every_page_keeps_to_itself() {
    let endpoint = endpoint(&Hooks::new());
    for path in PATHS.into_iter().chain(["/nothing", "/style.css", "/script.js", "/healthz"]) {
        let reply = get(&endpoint, path);
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("same-origin"));
        let script = "<script src=\"/script.js\" defer></script>";
        let rest = reply.body.replacen(script, "", 1);
        assert!(!rest.contains("<script") && !rest.contains("style="), "{path}");
        let handlers = rest.split(" on").skip(1).filter_map(|rest| rest.split_once("=\""));
        assert_eq!(handlers.filter(|(name, _)| name.chars().all(char::is_alphabetic)).count(), 0, "{path}");
        assert!(!rest.contains("src=") && !rest.contains("url("), "{path}");
    }
}
