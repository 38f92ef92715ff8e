//! Who is let in, and by what name and method.

use super::*;

fn with(endpoint: &Endpoint, target: &str, header: Option<(&str, &str)>) -> Reply {
    let host = at(endpoint).to_string();
    let headers: Vec<_> = [("Host", host.as_str())].into_iter().chain(header).collect();
    ask(at(endpoint), "GET", target, &headers)
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
    assert!(cookie.starts_with(&format!("lunasa_{}={TOKEN};", at(&endpoint).port())), "{cookie}");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = format!("other=1; {}", cookie.split(';').next().unwrap());
    assert_eq!(with(&endpoint, reply.header("location").unwrap(), Some(("Cookie", &cookie))).status, 200);
}

#[test]
fn a_wrong_token_in_the_url_or_the_cookie_lets_nobody_in() {
    let endpoint = endpoint(&Hooks::new());
    let port = at(&endpoint).port();
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
fn without_a_token_every_path_but_health_style_and_script_says_where_the_token_is_and_nothing_else() {
    let endpoint = endpoint(&Hooks::new());
    for path in PATHS.into_iter().chain(["/lunasa?format=json", "/brief", "/events?page=/", "/enter", "/nothing"]) {
        let reply = with(&endpoint, path, None);
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer realm=\"lunasa\"")), "{path}");
        assert!(
            reply.body.contains("XDG_RUNTIME_DIR") && reply.body.contains("lunasa-UID/RUN-RANK/token"),
            "{}",
            reply.body
        );
        assert!(!reply.body.contains(TOKEN) && !reply.body.contains("4711"), "{}", reply.body);
    }
    for path in ["/style.css", "/script.js", "/icon.svg"] {
        assert_eq!(with(&endpoint, path, None).status, 200);
    }
    assert_eq!(with(&endpoint, "/healthz", None).body, "ok\n");
}

#[test]
fn a_foreign_name_is_turned_away_even_with_the_token() {
    let endpoint = endpoint(&Hooks::new());
    let (port, bearer) = (at(&endpoint).port(), format!("Bearer {TOKEN}"));
    let status =
        |host: &str, path: &str| ask(at(&endpoint), "GET", path, &[("Host", host), ("Authorization", &bearer)]).status;
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        assert_eq!(status(&host, "/"), 200, "{host}");
    }
    for host in [format!("evil.example:{port}"), "127.0.0.1".into(), format!("127.0.0.1:{}", port ^ 1), String::new()] {
        for path in ["/", "/healthz", "/style.css"] {
            assert_eq!(status(&host, path), 421, "{host} {path}");
        }
    }
    assert_eq!(ask(at(&endpoint), "GET", "/", &[("Authorization", &bearer)]).status, 421);
}

#[test]
fn pages_of_other_places_may_not_ask_even_with_the_cookie() {
    let endpoint = endpoint(&Hooks::new());
    let (host, cookie) = (at(&endpoint).to_string(), format!("lunasa_{}={TOKEN}", at(&endpoint).port()));
    let status = |origin: &str, path: &str| {
        let headers = [("Host", host.as_str()), ("Cookie", cookie.as_str()), ("Origin", origin)];
        ask(at(&endpoint), "GET", path, &headers).status
    };
    assert_eq!(status(&format!("http://{host}"), "/"), 200);
    for origin in ["http://evil.example", "null", &format!("http://127.0.0.1:{}", at(&endpoint).port() ^ 1), ""] {
        for path in ["/", "/healthz", "/job?format=json"] {
            assert_eq!(status(origin, path), 403, "{origin} {path}");
        }
    }
}

#[test]
fn what_ranks_show_each_other_opens_the_brief_answer_and_nothing_else() {
    let options = EndpointOptions { between: "of-the-ranks".into(), ..options(Access::Token(TOKEN.into())) };
    let endpoint = Endpoint::start(options, Hooks::new()).unwrap();
    endpoint.set_source(Fake::with_objects(10));
    let between = Some(("Authorization", "Bearer of-the-ranks"));
    let brief = with(&endpoint, "/brief", between).json();
    assert_eq!((&brief["rank"], &brief["live_objects"], &brief["errors"]), (&2.into(), &13.into(), &3.into()));
    for path in PATHS.into_iter().chain(["/events?page=/"]) {
        assert_eq!(with(&endpoint, path, between).status, 401, "{path}");
    }
    let unset = self::endpoint(&Hooks::new());
    assert_eq!(with(&unset, "/brief", Some(("Authorization", "Bearer "))).status, 401);
    assert_eq!(get(&unset, "/brief").status, 200);
}

#[test]
fn a_socket_is_its_users_alone_and_needs_no_token() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rank.socket");
    let options = || EndpointOptions { socket: Some(path.clone()), ..options(Access::Token(TOKEN.into())) };
    let endpoint = Endpoint::start(options(), Hooks::new()).unwrap();
    endpoint.set_source(Fake::with_objects(10));
    assert_eq!(endpoint.address(), None);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /lunasa HTTP/1.1\r\nHost: rank\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("tcmalloc"), "{answer}");
    let error = Endpoint::start(options(), Hooks::new()).unwrap_err().to_string();
    assert!(error.contains("rank.socket"), "{error}");
    assert!(path.exists(), "a second one that fails leaves the first alone");
    endpoint.stop();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_rank_that_listens_on_a_socket_has_it_in_its_users_own_directory_and_takes_it_away() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    let directory = tempfile::tempdir().unwrap();
    let config = lunasa::Config::new().ignore_environment();
    let config = config.set("lunasa.status.listen", "socket").unwrap();
    let config = config.set("lunasa.status.directory", directory.path().to_str().unwrap()).unwrap();
    let lunasa = lunasa::Lunasa::local(config).unwrap();
    let path = std::path::PathBuf::from(lunasa.url().strip_prefix("unix:").unwrap());
    let ours = path.parent().unwrap();
    assert!(path.starts_with(directory.path()) && lunasa.node(0).unwrap().address().is_none());
    assert_eq!(std::fs::metadata(ours).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: rank\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(path.to_str().unwrap()), "{answer}");
    drop(lunasa);
    assert_eq!(std::fs::read_dir(ours).unwrap().count(), 0);
}

#[test]
fn only_get_and_head_are_answered() {
    let endpoint = endpoint(&Hooks::new());
    let (host, bearer) = (at(&endpoint).to_string(), format!("Bearer {TOKEN}"));
    let headers = [("Host", host.as_str()), ("Authorization", bearer.as_str())];
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let reply = ask(at(&endpoint), method, "/", &headers);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    for path in PATHS.into_iter().chain(["/healthz", "/nothing"]) {
        let head = ask(at(&endpoint), "HEAD", path, &headers);
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
    let host = at(&endpoint).to_string();
    assert_eq!(ask(at(&endpoint), "GET", "/", &[("Host", &host)]).status, 200);
}

#[test]
fn an_endpoint_on_every_address_answers_to_the_one_it_was_reached_by() {
    let options = EndpointOptions { bind: "0.0.0.0".parse().unwrap(), ..options(Access::Open) };
    let endpoint = Endpoint::start(options, Hooks::new()).unwrap();
    endpoint.set_source(Fake::with_objects(1));
    let port = at(&endpoint).port();
    let reached: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    assert_eq!(ask(reached, "GET", "/", &[("Host", &reached.to_string())]).status, 200);
    assert_eq!(ask(reached, "GET", "/", &[("Host", &format!("192.0.2.1:{port}"))]).status, 421);
}
