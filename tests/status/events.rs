//! Live pages: streams of what changed.

use super::*;
use std::io::{BufRead, BufReader};
use std::time::Instant;

fn watch(endpoint: &Endpoint, target: &str) -> BufReader<TcpStream> {
    let host = at(endpoint);
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    BufReader::new(stream)
}

fn event(stream: &mut BufReader<TcpStream>) -> serde_json::Value {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

fn ids(event: &serde_json::Value) -> Vec<&str> {
    event["parts"].as_array().unwrap().iter().map(|part| part["id"].as_str().unwrap()).collect()
}

#[test]
fn a_stream_brings_the_parts_of_the_page_and_then_only_those_that_changed() {
    let endpoint = endpoint(&Hooks::new());
    let mut stream = watch(&endpoint, "/events?page=/");
    let first = event(&mut stream);
    assert_eq!(ids(&first), ["identity", "pools", "history", "traffic", "machine", "hooks", "configuration"]);
    let page = get(&endpoint, "/").body;
    let pools = &first["parts"][1];
    assert!(page.contains(&format!("<div id=\"pools\">{}</div>", pools["html"].as_str().unwrap())), "{page}");
    let next = event(&mut stream);
    assert_eq!(ids(&next), ["history"]);
}

#[test]
fn a_stream_is_of_the_page_in_the_order_that_it_is_looked_at() {
    let endpoint = endpoint(&Hooks::new());
    let mut stream = watch(&endpoint, "/events?page=/peers&sort=errors&order=asc");
    let html = event(&mut stream)["parts"][0]["html"].to_string();
    assert!(html.contains("aria-sort=\\\"ascending\\\"") && html.contains("?sort=errors&amp;order=desc"), "{html}");
    for none in ["/events", "/events?page=/hooks", "/events?page=%2Fnothing"] {
        assert_eq!(get(&endpoint, none).status, 404, "{none}");
    }
}

#[test]
fn so_many_streams_and_no_more_and_pages_are_answered_all_the_same() {
    let endpoint = endpoint(&Hooks::new());
    let mut open: Vec<_> = (0..16).map(|_| watch(&endpoint, "/events?page=/lunasa")).collect();
    open.iter_mut().for_each(|stream| drop(event(stream)));
    let refused = get(&endpoint, "/events?page=/lunasa");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("30")));
    assert_eq!(get(&endpoint, "/lunasa").status, 200);
    open.pop();
    let began = Instant::now();
    loop {
        let mut stream = watch(&endpoint, "/events?page=/lunasa");
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.contains("200") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "a stream that was hung up keeps its place");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_stream_does_not_delay_the_stop_and_ends_whole() {
    let endpoint = endpoint(&Hooks::new());
    let mut stream = watch(&endpoint, "/events?page=/");
    event(&mut stream);
    let began = Instant::now();
    endpoint.stop();
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest:?}");
}
