//! What strangers may take: ports, time, size, connections.

use super::*;
use std::net::TcpListener;
use std::time::Instant;

fn open_head(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    stream
}

/// Holds `count` ports in a row.
fn neighbours(count: u16) -> Vec<TcpListener> {
    let row = |first: u16| (first..first + count).map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
    (20_000 + std::process::id() as u16 % 5_000..30_000).step_by(7).find_map(row).unwrap()
}

#[test]
fn a_taken_port_gives_the_next_free_one() {
    let mut taken = neighbours(3);
    let free = taken.pop().unwrap().local_addr().unwrap();
    let port = taken[0].local_addr().unwrap().port();
    let endpoint =
        Endpoint::start(EndpointOptions { port, port_range: 5, ..options(Access::Open) }, Hooks::new()).unwrap();
    assert_eq!(at(&endpoint), free);
}

#[test]
fn an_exhausted_range_is_an_error_that_names_the_ports() {
    let taken = neighbours(3);
    let port = taken[0].local_addr().unwrap().port();
    let options = EndpointOptions { port, port_range: 2, ..options(Access::Open) };
    let error = Endpoint::start(options, Hooks::new()).unwrap_err().to_string();
    assert!(error.contains(&format!("from {port} to {} on 127.0.0.1 is taken", port + 2)), "{error}");
}

#[test]
fn an_address_of_another_host_is_an_error_that_names_it() {
    let options = EndpointOptions { bind: "192.0.2.1".parse().unwrap(), ..options(Access::Open) };
    let error = Endpoint::start(options, Hooks::new()).unwrap_err().to_string();
    assert!(error.contains("cannot listen on 192.0.2.1:0"), "{error}");
}

#[test]
fn a_token_that_no_header_can_carry_is_an_error() {
    assert!(Endpoint::start(options(Access::Token(String::new())), Hooks::new()).is_err());
}

#[test]
fn a_slow_head_is_cut_off_while_others_are_answered() {
    let endpoint = endpoint(&Hooks::new());
    let began = Instant::now();
    let mut slow = open_head(at(&endpoint));
    let mut idle = TcpStream::connect(at(&endpoint)).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut drips = 0;
    // A byte now and then does not buy more time.
    while slow.write_all(b" ").is_ok() && began.elapsed() < Duration::from_secs(25) {
        drips += 1;
        assert_eq!(get(&endpoint, "/").status, 200);
        std::thread::sleep(Duration::from_millis(250));
    }
    let taken = began.elapsed();
    assert!(drips > 10 && taken > Duration::from_secs(8) && taken < Duration::from_secs(20), "{drips} {taken:?}");
    let mut rest = Vec::new();
    assert!(idle.read_to_end(&mut rest).is_err() || rest.is_empty());
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_head_of_more_than_16_kib_is_refused() {
    let endpoint = endpoint(&Hooks::new());
    let host = at(&endpoint).to_string();
    let status = |filling: usize| {
        let request =
            format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(filling));
        let mut stream = TcpStream::connect(at(&endpoint)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // It may hang up before all is written, and then the answer may be lost to the reset: nothing read is refused too.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).map(|()| String::from_utf8_lossy(&answer).into_owned()).unwrap_or_default()
    };
    assert_eq!(status(15 << 10), "HTTP/1.1 200");
    for filling in [17 << 10, 1 << 20] {
        let answer = status(filling);
        assert!(answer.is_empty() || answer == "HTTP/1.1 431", "{answer}");
    }
    assert_eq!(get(&endpoint, "/").status, 200);
}

#[test]
fn at_most_256_connections_are_served_and_the_next_waits_its_turn() {
    let endpoint = endpoint(&Hooks::new());
    let mut held: Vec<_> = (0..256).map(|_| open_head(at(&endpoint))).collect();
    // The system accepts it, the endpoint does not yet.
    let host = at(&endpoint).to_string();
    let mut waiting = TcpStream::connect(at(&endpoint)).unwrap();
    waiting
        .write_all(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = [0; 12];
    assert!(waiting.read_exact(&mut answer).is_err(), "served as number 257");
    held.pop();
    waiting.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    waiting.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[test]
fn garbage_and_pipelining_do_no_harm() {
    let endpoint = endpoint(&Hooks::new());
    for garbage in ["\0\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n"] {
        assert_eq!(exchange(at(&endpoint), garbage).status, 400, "{garbage:?}");
    }
    let host = at(&endpoint).to_string();
    let one = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let reply = exchange(at(&endpoint), &format!("{one}{one}{last}"));
    assert_eq!(reply.body.matches("HTTP/1.1 200").count(), 2, "{reply:?}");
}

#[test]
fn abuse_leaves_memory_level_and_the_next_good_request_answered() {
    let _alone = alone_with_memory();
    let endpoint = endpoint(&Hooks::new());
    endpoint.set_source(Fake::with_objects(1000));
    let (address, host) = (at(&endpoint), at(&endpoint).to_string());
    let asked = format!("GET /lunasa/eager HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let round = || {
        // Five hundred at once: half heads, half-closed ones, answers that nobody reads, garbage, and requests cut off.
        let mut held = Vec::new();
        for i in 0..500usize {
            let mut stream = TcpStream::connect(address).unwrap();
            let sent: &[u8] = match i % 5 {
                0 => b"GET / HTTP/1.1\r\nHost:",
                1 => b"GET / HTTP/1.1\r\n\r\n",
                2 => asked.as_bytes(),
                3 => b"\x16\x03\x01\xff\xff\x00\xff\xfe garbage \r\n\r\n",
                _ => &asked.as_bytes()[..asked.len() - 3],
            };
            // It may have hung up already, which is its right.
            let _ = stream.write_all(sent);
            if i % 5 == 1 {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            held.push(stream);
        }
        drop(held);
        assert_eq!(get(&endpoint, "/").status, 200);
    };
    round();
    round();
    let before = resident();
    (0..6).for_each(|_| round());
    let more = resident().saturating_sub(before);
    assert!(more < 16 << 20, "{more} bytes more after 3000 connections");
}

#[test]
fn who_never_reads_an_answer_does_not_hold_it_for_ever_and_delays_nobody() {
    let _alone = alone_with_memory();
    let endpoint = endpoint(&Hooks::new());
    endpoint.set_source(Fake::with_objects(100_000));
    let host = at(&endpoint).to_string();
    let one =
        format!("GET /lunasa/eager?format=json HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let mut slow: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(at(&endpoint)).unwrap();
            stream.write_all(one.repeat(40).as_bytes()).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    assert_eq!(get(&endpoint, "/lunasa").status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let stream = slow.first_mut().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    // A connection ends after a minute, however much it still has to send.
    std::thread::sleep(Duration::from_secs(61).saturating_sub(began.elapsed()));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(75), "{:?}", began.elapsed());
}

#[test]
fn requests_beyond_the_rate_are_429_and_a_second_later_answered_again() {
    let endpoint = Endpoint::start(EndpointOptions { rate: 20, ..options(Access::Open) }, Hooks::new()).unwrap();
    endpoint.set_source(Fake::with_objects(1));
    let host = at(&endpoint).to_string();
    let status = || {
        let reply = ask(at(&endpoint), "GET", "/healthz", &[("Host", &host)]);
        (reply.status, reply.header("retry-after").map(str::to_owned))
    };
    let answers: Vec<_> = (0..60).map(|_| status()).collect();
    assert_eq!(answers[0].0, 200);
    assert!(answers.contains(&(429, Some("1".into()))), "{answers:?}");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(status().0, 200);
}

#[test]
fn odd_ways_to_write_a_path_lead_to_no_other_page() {
    let endpoint = endpoint(&Hooks::new());
    for path in [
        "/%6cunasa%2feager",
        "/lunasa/../job",
        "/lunasa/%2e%2e/job",
        "/lunasa//eager",
        "//job",
        "/lunasa/eager/",
        "/lunasa/eager%00",
        "/lunasa/%c0%ae%c0%ae",
        "/hooks/..%2f..%2fetc%2fpasswd",
        "/style.css/../job",
        "/healthz/",
    ] {
        assert_eq!(get(&endpoint, path).status, 404, "{path}");
    }
    // What needs no token is the path as it is and nothing that only looks like it.
    let host = at(&endpoint).to_string();
    for path in ["/style.css%2f..%2f", "/healthz/../", "/%68ealthz", "/style.css/", "/healthz;/../job"] {
        assert_eq!(ask(at(&endpoint), "GET", path, &[("Host", &host)]).status, 401, "{path}");
    }
    for path in
        ["/lunasa/eager?type=%ff%fe", "/job?from=-1", "/job?sort=%00", "/peers?sort[]=x", "/lunasa/eager?after=%ff-%ff"]
    {
        assert_eq!(get(&endpoint, path).status, 200, "{path}");
    }
}

#[test]
fn interfaces_are_tried_in_their_order_and_none_there_is_an_error_that_names_those_there_are() {
    let named = |names: &[&str]| EndpointOptions {
        interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
        bind: "192.0.2.1".parse().unwrap(),
        ..options(Access::Open)
    };
    let endpoint = Endpoint::start(named(&["nosuch0", "lo", "eth0"]), Hooks::new()).unwrap();
    assert!(at(&endpoint).ip().is_loopback(), "{}", at(&endpoint));
    let error = Endpoint::start(named(&["nosuch0"]), Hooks::new()).unwrap_err().to_string();
    assert!(error.contains("nosuch0") && error.contains("there are: ") && error.contains("lo"), "{error}");
}

#[test]
fn the_thread_keeps_to_the_cores_it_was_given() {
    let cores: Vec<u32> = vec![0];
    let endpoint = Endpoint::start(EndpointOptions { cores, ..options(Access::Open) }, Hooks::new()).unwrap();
    let host = at(&endpoint).to_string();
    assert_eq!(ask(at(&endpoint), "GET", "/style.css", &[("Host", &host)]).status, 200);
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let mut ours =
        threads.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "lunasa-status\n"));
    // Other tests have endpoints too; one of all is kept to core 0.
    assert!(ours.any(|task| {
        let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
        status.contains("Cpus_allowed_list:\t0\n")
    }));
}
