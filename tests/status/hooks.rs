//! The program's own pages.

use super::*;
use lunasa::status::{HookReply, panics_are_contained};
use maud::html;

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
    let echo = |request: &lunasa::status::HookRequest| {
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
    assert!(stat.contains("(lunasa-status)"), "{stat}");
    // Field 19 is the nice value; the name is field 2 and may hold spaces.
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16);
    assert_eq!(nice, Some("19"), "{stat}");
}
