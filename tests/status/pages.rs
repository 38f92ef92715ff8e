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
    assert_has(
        &body,
        &["href=\"/lunasa\"", "href=\"/job\"", "href=\"/hooks/field\"", "found 8 of 64 on 0, 56 of 64 on 1"],
    );
    assert!(!body.contains("<i>"), "{body}");
}

#[test]
fn the_memory_page_shows_pools_classes_blocks_and_registrations() {
    let body = html(&endpoint(&Hooks::new()), "/lunasa");
    assert_has(&body, &["eager", "lazy", "tcmalloc", "32.0 KiB", "1,000 of 1,536 pieces live"]);
    assert_has(&body, &["0x7f1234000000", "no huge pages are reserved", "98,765", "?format=json"]);
    assert_has(&body, &["all of 0, 1", "At most 4,321 objects with 25.0 MiB, 64.0 MiB managed"]);
    assert_has(&body, &["of 3.0 GiB", "62.5 ms", "15.6 ms and 0 ns for each MiB", "25 min 43 s"]);
    assert_has(&body, &["5 objects in quarantine, 5.0 KiB", "70 writes found", "2 bytes at offset 128"]);
    assert_has(&body, &["particles &lt;b&gt;&amp;, eager, serial number 17"]);
}

#[test]
fn the_json_of_the_memory_page_is_the_whole_snapshot() {
    let source = Fake::with_objects(10);
    let reply = get(&endpoint(&Hooks::new()), "/lunasa?format=json");
    assert_eq!(serde_json::from_value::<Snapshot>(reply.json()).unwrap(), source.snapshot());
}

#[test]
fn live_objects_are_listed_with_their_type_names_escaped() {
    let endpoint = endpoint(&Hooks::new());
    let body = html(&endpoint, "/lunasa/eager");
    assert_has(&body, &["10 live objects. ", "particles &lt;b&gt;&amp;", "512.0 KiB", "0x7f1234009000"]);
    assert_has(&body, &["Allocated at", "<code>src/&lt;sim&gt;.rs:7:9</code>"]);
    assert!(!body.contains("cut"), "{body}");
    let lazy = html(&endpoint, "/lunasa/lazy");
    assert_has(&lazy, &["3 live objects. ", "Lazy objects"]);
    assert!(!lazy.contains("Allocated at"), "a column without anything in it: {lazy}");
    let nobodys = get(&endpoint, "/lunasa/eagle");
    assert_eq!((nobodys.status, nobodys.body.contains("There is no /lunasa/eagle here")), (404, true));
    let json = get(&endpoint, "/lunasa/lazy?format=json").json();
    let objects: Vec<ObjectInfo> = serde_json::from_value(json["objects"].clone()).unwrap();
    assert_eq!(objects, Fake::with_objects(10).objects("lazy", 1000));
    assert_eq!((&json["pool"], &json["cut"], &json["schema"]), (&"lazy".into(), &false.into(), &SCHEMA.into()));
}

#[test]
fn a_list_of_more_than_a_thousand_objects_is_cut_and_says_so() {
    let endpoint = endpoint(&Hooks::new());
    endpoint.set_source(Fake::with_objects(1000));
    assert!(!html(&endpoint, "/lunasa/eager").contains("The list is cut"));
    endpoint.set_source(Fake::with_objects(25_000));
    let body = html(&endpoint, "/lunasa/eager");
    assert_has(&body, &["The list is cut: <b>1,000 of 25,000</b>"]);
    assert_eq!(body.matches("<tr>").count(), 1 + 1000);
    let json = get(&endpoint, "/lunasa/eager?format=json").json();
    assert_eq!((&json["cut"], &json["live_objects"]), (&true.into(), &25_000.into()));
    assert_eq!(json["objects"].as_array().unwrap().len(), 1000);
}

#[test]
fn the_job_page_links_every_rank_that_has_a_page_and_carries_the_token() {
    let endpoint = endpoint(&Hooks::new());
    let body = html(&endpoint, "/job");
    assert_has(
        &body,
        &["4 ranks on 2 hosts", &format!("href=\"http://10.0.0.6:1990/enter?token={TOKEN}\""), "this rank", "shm"],
    );
    assert!(!body.contains("href=\"javascript"), "{body}");
    let reply = get(&endpoint, "/job?format=json");
    assert!(!reply.body.contains(TOKEN), "the token does not belong into data");
    let peers: Vec<PeerInfo> = serde_json::from_value(reply.json()["peers"].clone()).unwrap();
    assert_eq!(peers, Fake::with_objects(0).peers());
}

#[test]
fn an_open_endpoint_links_its_peers_without_a_token() {
    let endpoint = Endpoint::start(options(Access::Open), Hooks::new()).unwrap();
    endpoint.set_source(Fake::with_objects(1));
    let host = endpoint.address().to_string();
    let reply = ask(endpoint.address(), "GET", "/job", &[("Host", &host)]);
    assert_eq!(reply.status, 200);
    assert_has(&reply.body, &["href=\"http://10.0.0.6:1990/\""]);
    assert!(!reply.body.contains("token"), "{}", reply.body);
}

#[test]
fn health_needs_no_token_and_gives_the_reason() {
    let endpoint = Endpoint::start(options(Access::Token(TOKEN.into())), Hooks::new()).unwrap();
    let host = endpoint.address().to_string();
    let health = || ask(endpoint.address(), "GET", "/healthz", &[("Host", &host)]);
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
    for path in ["/", "/lunasa", "/lunasa/eager", "/lunasa/lazy", "/job", "/hooks", "/hooks/x"] {
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
    for path in
        ["/", "/lunasa", "/lunasa/eager", "/lunasa/lazy", "/job", "/hooks", "/nothing", "/style.css", "/healthz"]
    {
        let reply = get(&endpoint, path);
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        assert!(reply.header("content-security-policy").unwrap().starts_with("default-src 'none'; style-src 'self'"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        assert!(!reply.body.contains("<script") && !reply.body.contains("style="), "{path}");
        assert!(!reply.body.contains("src=") && !reply.body.contains("url("), "{path}");
    }
}
