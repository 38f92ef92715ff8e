//! The endpoint of every rank: it answers while the instance lives, and its port is closed after finish.

use super::support::*;
use lunasa::Lunasa;
use mpi::topology::SimpleCommunicator;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub fn run(world: &SimpleCommunicator, _: &[String]) -> Outcome {
    let config = config(ROUTES[0])?.set("lunasa.status.enabled", true)?;
    let lunasa = Lunasa::start(world, config)?;
    let own = lunasa.node(lunasa.rank()).and_then(|node| node.address()).ok_or("this rank has an endpoint")?;
    let url = lunasa.url();
    let token = url.split_once("?token=").ok_or("the URL has a token")?.1.to_owned();

    assert_eq!(ask(own, "/healthz", None)?, (200, "ok\n".to_owned()));
    assert_eq!(ask(own, "/", None)?.0, 401, "without the token");
    assert_eq!(ask(own, "/", Some("wrong"))?.0, 401, "with a wrong token");
    let (status, page) = ask(own, "/", Some(&token))?;
    assert_eq!(status, 200);
    assert!(page.contains("<html") && page.contains(&format!("{}", lunasa.rank())), "{page}");
    every_rank_is_listed(&lunasa, own, &token)?;
    objects_are_shown(&lunasa, own, &token)?;

    meet(world, &lunasa);
    finish(lunasa)?;
    assert!(TcpStream::connect_timeout(&own, Duration::from_millis(200)).is_err(), "{own} is open after finish");
    done(world, "endpoint")
}

/// The status and the body of a page.
fn ask(at: SocketAddr, path: &str, token: Option<&str>) -> Result<(u16, String), Box<dyn Error>> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\n{token}Connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer has a head")?;
    let status = head.split_whitespace().nth(1).ok_or("an answer has a status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn json(at: SocketAddr, path: &str, token: &str) -> Result<serde_json::Value, Box<dyn Error>> {
    let (status, body) = ask(at, path, Some(token))?;
    assert_eq!(status, 200, "{path}: {body}");
    Ok(serde_json::from_str(&body)?)
}

fn every_rank_is_listed(lunasa: &Lunasa, own: SocketAddr, token: &str) -> Outcome {
    let job = json(own, "/job?format=json", token)?;
    let peers = job["peers"].as_array().ok_or("a job has peers")?;
    assert_eq!(peers.len(), lunasa.ranks() as usize);
    for (rank, peer) in (0..).zip(peers) {
        let url = lunasa.node(rank).map(|node| node.url());
        assert_eq!(peer["rank"], rank);
        assert_eq!(peer["url"].as_str(), url.as_deref());
        assert_eq!(peer["host"].as_str(), Some(lunasa.host(rank)));
    }
    assert!(ask(own, "/job", Some(token))?.1.contains(lunasa.host(0)));
    Ok(())
}

fn objects_are_shown(lunasa: &Lunasa, own: SocketAddr, token: &str) -> Outcome {
    let _object = lunasa.object().type_id("shown").data(12_345)?;
    let eager = json(own, "/lunasa/eager?format=json", token)?;
    assert_eq!((&eager["live_objects"], &eager["objects"][0]["data_bytes"]), (&1.into(), &12_345.into()));
    assert_eq!(eager["objects"][0]["type_name"], "shown");
    let snapshot = json(own, "/lunasa?format=json", token)?;
    assert_eq!(snapshot["rank"]["rank"], lunasa.rank());
    assert_eq!(snapshot["pools"][0]["live_objects"], 1);
    Ok(())
}
