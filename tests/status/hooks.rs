//! The program's own pages.

use super::*;
use lunasa::status::{HookOptions, HookPage, HookReply, HookRequest, panics_are_contained};
use maud::html;
use std::sync::mpsc::channel;
use std::time::Instant;

#[test]
fn every_kind_of_reply_has_its_content_type() {
    let hooks = Hooks::new();
    hooks.register("html", |_| HookReply::html(html! { p.mine { "a < b" } })).unwrap();
    hooks.register("text", |_| HookReply::text("<plain>")).unwrap();
    hooks.register("json", |_| HookReply::json(serde_json::json!({ "a": [1, 2] }))).unwrap();
    hooks.register("bytes", |_| HookReply::bytes("image/x-test", b"abc".to_vec())).unwrap();
    hooks.register("broken", |_| HookReply::bytes("a\r\nSet-Cookie: b", b"abc".to_vec())).unwrap();
    let endpoint = endpoint(&hooks);
    for (name, content_type, body) in [
        ("html", "text/html; charset=utf-8", "<p class=\"mine\">a &lt; b</p>"),
        ("text", "text/plain; charset=utf-8", "<plain>"),
        ("json", "application/json", "{\"a\":[1,2]}"),
        ("bytes", "image/x-test", "abc"),
        ("broken", "application/octet-stream", "abc"),
    ] {
        let reply = get(&endpoint, &format!("/hooks/{name}"));
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type)), "{name}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(if name == "html" { reply.body.contains(body) } else { reply.body == body }, "{}", reply.body);
        assert_eq!(reply.header("set-cookie"), None);
    }
    let list = get(&endpoint, "/hooks").body;
    assert!(hooks.names().iter().all(|name| list.contains(&format!("href=\"/hooks/{name}\""))), "{list}");
}

#[test]
fn arguments_reach_the_hook_decoded_and_come_out_escaped() {
    let hooks = Hooks::new();
    let echo = |request: &HookRequest| {
        assert_eq!(request.argument("none"), None);
        HookReply::html(html! { p { (request.argument("x").unwrap_or("-")) } p { (request.arguments.len()) } })
    };
    hooks.register("echo", echo).unwrap();
    let endpoint = endpoint(&hooks);
    let reply = get(&endpoint, "/hooks/echo?x=%3Cscript%3Ealert(1)%3C/script%3E&x=second&y=");
    assert!(reply.body.contains("<p>&lt;script&gt;alert(1)&lt;/script&gt;</p><p>3</p>"), "{}", reply.body);
}

#[test]
fn a_panicking_hook_is_a_short_500_and_the_next_request_is_answered() {
    let hooks = Hooks::new();
    hooks.register("panic", |_| panic!("secret of the simulation")).unwrap();
    hooks.register("contained", |_| HookReply::text(panics_are_contained().to_string())).unwrap();
    let endpoint = endpoint(&hooks);
    for _ in 0..3 {
        let reply = get(&endpoint, "/hooks/panic");
        assert_eq!(reply.status, 500);
        assert_eq!(reply.body, "The hook panic panicked; the program's own log says more.\n");
        assert_eq!(get(&endpoint, "/hooks/contained").body, "true");
        assert_eq!(get(&endpoint, "/").status, 200);
    }
    assert!(!panics_are_contained());
}

#[test]
fn hooks_come_and_go_while_the_endpoint_runs() {
    let hooks = Hooks::new();
    let endpoint = endpoint(&hooks);
    assert_eq!(get(&endpoint, "/hooks/late").status, 404);
    hooks.register("late", |_| HookReply::text("here")).unwrap();
    assert_eq!(get(&endpoint, "/hooks/late").body, "here");
    assert!(hooks.deregister("late"));
    assert_eq!(get(&endpoint, "/hooks/late").status, 404);
}

#[test]
fn hooks_run_on_one_thread_of_the_lowest_priority() {
    let hooks = Hooks::new();
    hooks.register("thread", |_| HookReply::text(std::fs::read_to_string("/proc/thread-self/stat").unwrap())).unwrap();
    let stat = get(&endpoint(&hooks), "/hooks/thread").body;
    assert!(stat.contains("(lunasa-hooks)"), "{stat}");
    // Field 19 is the nice value; the name is field 2 and may hold spaces.
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16);
    assert_eq!(nice, Some("19"), "{stat}");
    // Field 41 is the policy: SCHED_BATCH.
    let policy = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(38);
    assert_eq!(policy, Some("3"), "{stat}");
}

#[test]
fn a_hook_beyond_its_time_is_504_and_the_next_503_until_it_comes_back_while_pages_go_on() {
    let hooks = Hooks::new();
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let soon = HookOptions::new().time_limit(Duration::from_millis(100));
    hooks
        .register_with("slow", soon, move |_| {
            gone.lock().unwrap().recv().unwrap();
            HookReply::text("late")
        })
        .unwrap();
    hooks.register("quick", |_| HookReply::text("quick")).unwrap();
    let endpoint = endpoint(&hooks);
    let began = Instant::now();
    assert_eq!(get(&endpoint, "/hooks/slow").status, 504);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for path in ["/hooks/quick", "/hooks/slow"] {
        assert_eq!(get(&endpoint, path).status, 503, "{path}");
    }
    assert_eq!((get(&endpoint, "/").status, get(&endpoint, "/hooks").status), (200, 200));
    go.send(()).unwrap();
    let began = Instant::now();
    while get(&endpoint, "/hooks/quick").body != "quick" {
        assert!(began.elapsed() < Duration::from_secs(10), "hooks do not come back");
    }
}

#[test]
fn a_page_is_answered_while_a_hook_runs() {
    let hooks = Hooks::new();
    let (entered, has_entered) = channel();
    hooks
        .register("slow", move |_| {
            entered.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(800));
            HookReply::text("done")
        })
        .unwrap();
    let endpoint = endpoint(&hooks);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| (get(&endpoint, "/hooks/slow").body, Instant::now()));
        has_entered.recv().unwrap();
        assert_eq!(get(&endpoint, "/lunasa").status, 200);
        let answered = Instant::now();
        let (body, ended) = slow.join().unwrap();
        assert!(body == "done" && answered < ended, "the page waited for the hook");
    });
}

#[test]
fn a_hook_of_the_programs_own_runs_on_the_thread_that_polls_and_is_504_when_nobody_does() {
    let hooks = Hooks::new();
    let options = HookOptions::new().by_program().time_limit(Duration::from_millis(300));
    let own = std::thread::current().id();
    hooks
        .register_with("mine", options, move |request| {
            assert_eq!(std::thread::current().id(), own);
            HookReply::text(request.argument("x").unwrap_or("-"))
        })
        .unwrap();
    let endpoint = endpoint(&hooks);
    assert_eq!(hooks.poll(), 0);
    assert_eq!(get(&endpoint, "/hooks/mine").status, 504);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| get(&endpoint, "/hooks/mine?x=7"));
        let began = Instant::now();
        let mut polled = 0;
        while polled == 0 && began.elapsed() < Duration::from_secs(10) {
            polled = hooks.poll();
        }
        // The call that was given up is not among them.
        assert_eq!(polled, 1);
        assert_eq!(asking.join().unwrap().body, "7");
    });
    assert_eq!(hooks.poll(), 0);
}

fn post(endpoint: &Endpoint, target: &str, more: &[(&str, &str)], body: &str) -> Reply {
    let (address, length) = (at(endpoint), body.len().to_string());
    let (host, bearer) = (address.to_string(), format!("Bearer {TOKEN}"));
    let mut headers = vec![("Host", host.as_str()), ("Authorization", bearer.as_str()), ("Content-Length", &length)];
    headers.extend(more);
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    exchange(address, &format!("POST {target} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n{body}"))
}

#[test]
fn a_hook_that_declares_post_gets_its_body_and_no_other_does() {
    let hooks = Hooks::new();
    let echo = |request: &HookRequest| {
        let form = request.argument("form").unwrap_or("-").to_owned();
        HookReply::text(format!("{} {} {form}", request.method, String::from_utf8_lossy(&request.body)))
    };
    hooks.register_with("set", HookOptions::new().post().about("a <b>"), echo).unwrap();
    hooks.register("get", echo).unwrap();
    let endpoint = endpoint(&hooks);
    assert_eq!(post(&endpoint, "/hooks/set?form=query", &[], "{\"a\":1}").body, "POST {\"a\":1} query");
    let form = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
    assert_eq!(post(&endpoint, "/hooks/set", &form, "form=%26x&y=2").body, "POST form=%26x&y=2 &x");
    for path in ["/hooks/get", "/hooks/none", "/hooks", "/", "/hooks/%73et"] {
        let reply = post(&endpoint, path, &[], "");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    assert_eq!(post(&endpoint, "/hooks/set", &[("Origin", "http://evil.example")], "").status, 403);
    assert_eq!(post(&endpoint, "/hooks/set", &[], &"x".repeat((64 << 10) + 1)).status, 413);
    let list = get(&endpoint, "/hooks").body;
    assert!(list.contains("a &lt;b&gt;") && list.contains("GET, POST"), "{list}");
    let json = get(&endpoint, "/hooks?format=json").json();
    assert_eq!((&json["hooks"][1]["name"], &json["hooks"][1]["post"]), (&"set".into(), &true.into()));
}

#[test]
fn pages_put_together_from_parts_escape_all_text() {
    let hooks = Hooks::new();
    let evil = "<script>alert(1)</script>";
    let build = move |_: &HookRequest| {
        HookPage::new()
            .heading(evil)
            .text(evil)
            .code(evil)
            .facts([(evil, evil)])
            .table(evil, [evil], [[evil]])
            .link("javascript:alert(1)", "no link")
            .link("//evil.example/", "none either")
            .link("/hooks/page?a=1&b=2", "link")
            .raw("<i>mine</i>")
            .reply()
    };
    hooks.register("page", build).unwrap();
    let body = get(&endpoint(&hooks), "/hooks/page").body;
    assert!(!body.contains("<script>") && !body.contains("javascript:") && !body.contains("href=\"//"), "{body}");
    assert!(body.contains("<i>mine</i>") && body.contains("href=\"/hooks/page?a=1&amp;b=2\""), "{body}");
    assert_eq!(body.matches("&lt;script&gt;").count(), 9, "{body}");
}
