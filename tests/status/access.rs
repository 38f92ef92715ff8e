//! Who is let in, and by what name and method.

use super::*;

fn with(endpoint: &Endpoint, target: &str, header: Option<(&str, &str)>) -> Reply {
    let host = endpoint.address().to_string();
    let headers: Vec<_> = [("Host", host.as_str())].into_iter().chain(header).collect();
    ask(endpoint.address(), "GET", target, &headers)
}

#[test]
fn the_token_is_taken_from_the_bearer_header() {
    let endpoint = endpoint(&Hooks::new());
    for header in [format!("Bearer {TOKEN}"), format!("bearer {TOKEN}")] {
        assert_eq!(with(&endpoint, "/", Some(("Authorization", &header))).status, 200, "{header}");
    }
    for header in
        ["Bearer", "Bearer ", "Bearer wrong", TOKEN, &format!("Basic {TOKEN}"), &format!("Bearer {}", &TOKEN[1..])]
    {
        assert_eq!(with(&endpoint, "/", Some(("Authorization", header))).status, 401, "{header}");
    }
}

#[test]
fn the_token_in_the_url_becomes_a_cookie_and_leaves_the_url() {
    let endpoint = endpoint(&Hooks::new());
    let reply = with(&endpoint, &format!("/lunasa?format=json&token={TOKEN}&x=%26"), None);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/lunasa?format=json&x=%26")));
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.starts_with(&format!("lunasa_{}={TOKEN};", endpoint.address().port())), "{cookie}");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = format!("other=1; {}", cookie.split(';').next().unwrap());
    assert_eq!(with(&endpoint, reply.header("location").unwrap(), Some(("Cookie", &cookie))).status, 200);
}

#[test]
fn a_wrong_token_in_the_url_or_the_cookie_lets_nobody_in() {
    let endpoint = endpoint(&Hooks::new());
    let port = endpoint.address().port();
    for (target, cookie) in [
        ("/?token=wrong", String::new()),
        ("/?token=", String::new()),
        ("/enter?token=wrong", String::new()),
        (&format!("/?token=wrong&token={TOKEN}"), String::new()),
        ("/?token=wrong", format!("lunasa_{port}={TOKEN}")),
        ("/", format!("lunasa_{port}=wrong")),
        ("/", format!("lunasa_{}={TOKEN}", port ^ 1)),
        ("/", format!("token={TOKEN}")),
    ] {
        let reply = with(&endpoint, target, Some(("Cookie", &cookie)));
        assert_eq!((reply.status, reply.header("set-cookie")), (401, None), "{target} {cookie}");
    }
}

#[test]
fn the_way_in_from_another_rank_sets_the_cookie_and_moves_on_without_a_redirect() {
    let endpoint = endpoint(&Hooks::new());
    let reply = with(&endpoint, &format!("/enter?token={TOKEN}"), None);
    assert_eq!(reply.status, 200);
    assert!(reply.header("set-cookie").unwrap().contains(TOKEN));
    assert!(reply.body.contains("content=\"0; url=/\""), "{}", reply.body);
    assert!(!reply.body.contains(TOKEN), "{}", reply.body);
}

#[test]
fn without_a_token_every_path_but_health_and_style_says_where_the_token_is_and_nothing_else() {
    let endpoint = endpoint(&Hooks::new());
    for path in
        ["/", "/lunasa", "/lunasa?format=json", "/lunasa/eager", "/lunasa/lazy", "/job", "/hooks", "/enter", "/nothing"]
    {
        let reply = with(&endpoint, path, None);
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer realm=\"lunasa\"")), "{path}");
        assert!(
            reply.body.contains("XDG_RUNTIME_DIR") && reply.body.contains("lunasa-UID/RUN-RANK/token"),
            "{}",
            reply.body
        );
        assert!(!reply.body.contains(TOKEN) && !reply.body.contains("4711"), "{}", reply.body);
    }
    assert_eq!(with(&endpoint, "/style.css", None).status, 200);
    assert_eq!(with(&endpoint, "/healthz", None).body, "ok\n");
}

#[test]
fn a_foreign_name_is_turned_away_even_with_the_token() {
    let endpoint = endpoint(&Hooks::new());
    let (port, bearer) = (endpoint.address().port(), format!("Bearer {TOKEN}"));
    let status = |host: &str, path: &str| {
        ask(endpoint.address(), "GET", path, &[("Host", host), ("Authorization", &bearer)]).status
    };
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        assert_eq!(status(&host, "/"), 200, "{host}");
    }
    for host in [format!("evil.example:{port}"), "127.0.0.1".into(), format!("127.0.0.1:{}", port ^ 1), String::new()] {
        for path in ["/", "/healthz", "/style.css"] {
            assert_eq!(status(&host, path), 421, "{host} {path}");
        }
    }
    assert_eq!(ask(endpoint.address(), "GET", "/", &[("Authorization", &bearer)]).status, 421);
}

#[test]
fn only_get_and_head_are_answered() {
    let endpoint = endpoint(&Hooks::new());
    let (host, bearer) = (endpoint.address().to_string(), format!("Bearer {TOKEN}"));
    let headers = [("Host", host.as_str()), ("Authorization", bearer.as_str())];
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let reply = ask(endpoint.address(), method, "/", &headers);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    for path in ["/", "/healthz", "/nothing"] {
        let head = ask(endpoint.address(), "HEAD", path, &headers);
        assert_eq!((head.status, head.body.as_str()), (get(&endpoint, path).status, ""), "{path}");
    }
}

#[test]
fn an_endpoint_on_ipv6_answers_to_its_address() {
    let options = EndpointOptions { bind: "::1".parse().unwrap(), ..options(Access::Open) };
    let endpoint = match Endpoint::start(options, Hooks::new()) {
        Ok(endpoint) => endpoint,
        // A host without IPv6 says so instead.
        Err(error) => return assert!(error.to_string().contains("cannot listen on [::1]:0"), "{error}"),
    };
    endpoint.set_source(Fake::with_objects(1));
    let host = endpoint.address().to_string();
    assert_eq!(ask(endpoint.address(), "GET", "/", &[("Host", &host)]).status, 200);
}

#[test]
fn an_endpoint_on_every_address_answers_to_the_one_it_was_reached_by() {
    let options = EndpointOptions { bind: "0.0.0.0".parse().unwrap(), ..options(Access::Open) };
    let endpoint = Endpoint::start(options, Hooks::new()).unwrap();
    endpoint.set_source(Fake::with_objects(1));
    let port = endpoint.address().port();
    let reached: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    assert_eq!(ask(reached, "GET", "/", &[("Host", &reached.to_string())]).status, 200);
    assert_eq!(ask(reached, "GET", "/", &[("Host", &format!("192.0.2.1:{port}"))]).status, 421);
}
