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
    assert_eq!(endpoint.address(), free);
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
    let mut slow = open_head(endpoint.address());
    let mut idle = TcpStream::connect(endpoint.address()).unwrap();
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
    let host = endpoint.address().to_string();
    let status = |filling: usize| {
        let request =
            format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(filling));
        let mut stream = TcpStream::connect(endpoint.address()).unwrap();
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
    let mut held: Vec<_> = (0..256).map(|_| open_head(endpoint.address())).collect();
    // The system accepts it, the endpoint does not yet.
    let host = endpoint.address().to_string();
    let mut waiting = TcpStream::connect(endpoint.address()).unwrap();
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
        assert_eq!(exchange(endpoint.address(), garbage).status, 400, "{garbage:?}");
    }
    let host = endpoint.address().to_string();
    let one = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let reply = exchange(endpoint.address(), &format!("{one}{one}{last}"));
    assert_eq!(reply.body.matches("HTTP/1.1 200").count(), 2, "{reply:?}");
}
