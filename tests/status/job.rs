//! The whole job, asked rank by rank: those that answer, those that do not, and very many.

use super::*;
use std::net::TcpListener;
use std::time::Instant;

/// A rank of a made-up job, which knows where the others are.
struct Member {
    fake: Arc<Fake>,
    rank: u32,
    peers: Vec<PeerInfo>,
    allocated: u64,
}

impl Source for Member {
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.fake.snapshot();
        snapshot.rank.rank = self.rank;
        snapshot.rank.ranks = self.peers.len() as u32;
        snapshot.rank.host = "n0".into();
        snapshot.pools[0].allocated_bytes = self.allocated;
        snapshot.pools[1].allocated_bytes = 0;
        snapshot
    }
    fn sample(&self) -> Sample {
        self.fake.sample()
    }
    fn peers(&self) -> Vec<PeerInfo> {
        self.peers.clone()
    }
    fn talked_to(&self) -> Vec<PeerTraffic> {
        Vec::new()
    }
    fn objects(&self, query: &ObjectQuery) -> ObjectPage {
        self.fake.objects(query)
    }
    fn object(&self, _: &str, _: u64, _: u64, _: usize) -> Option<ObjectDump> {
        None
    }
    fn block_maps(&self, _: usize) -> Vec<BlockMap> {
        Vec::new()
    }
    fn health(&self) -> Result<(), String> {
        self.fake.health()
    }
}

pub(crate) fn member() -> Endpoint {
    let options = EndpointOptions { between: "ranks".into(), rate: 0, ..options(Access::Token(TOKEN.into())) };
    Endpoint::start(options, Hooks::new()).unwrap()
}

pub(crate) fn peer(rank: u32, url: String, host: &str) -> PeerInfo {
    PeerInfo { rank, host: host.into(), url, route: "shm".into() }
}

pub(crate) fn join(endpoint: &Endpoint, rank: u32, peers: &[PeerInfo], allocated: u64) {
    let (fake, peers) = (Fake::with_objects(10), peers.to_vec());
    endpoint.set_source(Arc::new(Member { fake, rank, peers, allocated }));
}

fn states(endpoint: &Endpoint) -> Vec<(String, String)> {
    let json = get(endpoint, "/job?format=json").json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    json["peers"].as_array().unwrap().iter().map(|peer| (text(&peer["state"]), text(&peer["reason"]))).collect()
}

#[test]
fn ranks_that_answer_are_told_from_those_that_are_dead_slow_elsewhere_or_somebody_else() {
    let (first, second, stranger) = (member(), member(), member());
    // Takes connections and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = |address: SocketAddr| format!("http://{address}/");
    let peers = [
        peer(0, url(at(&first)), "n0"),
        peer(1, url(at(&second)), "n0"),
        peer(2, url(closed), "n0"),
        peer(3, url(mute.local_addr().unwrap()), "n0"),
        peer(4, url(at(&stranger)), "n0"),
        peer(5, url(at(&second)), "n1"),
        peer(6, "javascript:alert(1)".into(), "n0"),
        peer(7, String::new(), "n0"),
    ];
    join(&first, 0, &peers, 1 << 20);
    join(&second, 1, &peers, 1 << 20);
    join(&stranger, 9, &peers, 1 << 20);
    let began = Instant::now();
    let states = states(&first);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let expected = ["answered", "answered", "silent", "silent", "silent", "no_page", "no_page", "no_page"];
    assert_eq!(states.iter().map(|(state, _)| state.as_str()).collect::<Vec<_>>(), expected);
    let reason = |rank: usize| states[rank].1.as_str();
    assert!(
        reason(2).contains("refused") && reason(3).contains("within 1 s") && reason(4).contains("somebody else"),
        "{states:?}"
    );

    let body = get(&first, "/job").body;
    let link = |address: SocketAddr| format!("href=\"http://{address}/enter?token={TOKEN}\"");
    assert!(body.contains(&link(at(&second))) && body.contains("this rank"), "{body}");
    // Whoever came to the port of a rank that died is not to be shown the token.
    assert!(!body.contains(&link(closed)) && !body.contains(&link(at(&stranger))), "{body}");
    assert!(!body.contains("href=\"javascript"), "{body}");
    assert!(!get(&first, "/job?format=json").body.contains(TOKEN), "the token does not belong into data");
}

#[test]
fn a_rank_that_dies_is_shown_as_silent_within_seconds_and_a_rank_that_stands_out_is_marked() {
    let ranks: Vec<Endpoint> = (0..6).map(|_| member()).collect();
    let peers: Vec<PeerInfo> =
        ranks.iter().zip(0..).map(|(rank, i)| peer(i, format!("http://{}/", at(rank)), "n0")).collect();
    for (rank, i) in ranks.iter().zip(0..) {
        join(rank, i, &peers, if i == 4 { 9 << 20 } else { 3 << 20 });
    }
    let body = get(&ranks[0], "/job").body;
    assert!(body.contains("6 answer") && !body.contains("not known</strong>"), "{body}");
    assert_eq!(body.matches("allocated 3.0 × the median").count(), 1, "{body}");
    assert_eq!(body.matches("<rect class=\"heat-").count(), 6, "{body}");
    let mut ranks = ranks;
    ranks.pop().unwrap().stop();
    let died = Instant::now();
    while states(&ranks[0])[5].0 != "silent" {
        assert!(died.elapsed() < Duration::from_secs(5), "rank 5 is still shown as alive");
    }
    let body = get(&ranks[0], "/job").body;
    assert!(body.contains("5 answer, <strong class=\"bad\">1 does not</strong>"), "{body}");
    assert!(body.contains("<rect class=\"silent\"") && body.contains("<strong class=\"bad\">no</strong>"), "{body}");
}

#[test]
fn ten_thousand_ranks_are_asked_within_seconds_and_their_page_stays_small() {
    let _alone = alone_with_memory();
    const RANKS: u32 = 10_000;
    let (first, other) = (member(), member());
    // All but the first are one endpoint that says it is rank 1, so one of them answers and the rest are somebody else.
    let peers: Vec<PeerInfo> = (0..RANKS)
        .map(|rank| {
            let address = if rank == 0 { at(&first) } else { at(&other) };
            peer(rank, format!("http://{address}/"), "n0")
        })
        .collect();
    join(&first, 0, &peers, 1 << 20);
    join(&other, 1, &peers, 1 << 20);
    let began = Instant::now();
    let body = get(&first, "/job").body;
    let taken = began.elapsed();
    println!("a job of {RANKS}: {taken:?}, {} bytes", body.len());
    assert!(taken < Duration::from_secs(8), "{taken:?}");
    assert!(body.len() < 1 << 20, "{} bytes", body.len());
    assert!(body.contains("1 to 100 of 10,000") && body.contains("from=100"), "{}", &body[..2000]);
    // Whom there was no time for is asked the next time.
    let began = Instant::now();
    loop {
        let states = states(&first);
        assert_eq!(states.len(), RANKS as usize);
        let unasked = states.iter().filter(|(state, _)| state == "not_asked").count();
        if unasked == 0 {
            assert_eq!(states.iter().filter(|(state, _)| state == "answered").count(), 2);
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{unasked} were never asked");
        std::thread::sleep(Duration::from_millis(1100));
    }
    let last = get(&first, "/job?sort=state&order=desc&from=9950").body;
    assert!(last.contains("9951 to 10000 of 10,000") && last.contains("somebody else answers"), "{}", &last[..2000]);
}

#[test]
fn an_open_endpoint_links_its_peers_without_a_token() {
    let open =
        || Endpoint::start(EndpointOptions { between: "ranks".into(), ..options(Access::Open) }, Hooks::new()).unwrap();
    let (first, second) = (open(), open());
    let peers = [peer(0, format!("http://{}/", at(&first)), "n0"), peer(1, format!("http://{}/", at(&second)), "n0")];
    join(&first, 0, &peers, 1);
    join(&second, 1, &peers, 1);
    let host = at(&first).to_string();
    let reply = ask(at(&first), "GET", "/job", &[("Host", &host)]);
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains(&format!("href=\"http://{}/\"", at(&second))), "{}", reply.body);
    assert!(!reply.body.contains("token"), "{}", reply.body);
}
