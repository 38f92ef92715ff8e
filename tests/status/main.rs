//! The endpoint over real sockets: a fake source behind it, plain TCP in front.
#![allow(clippy::unwrap_used)]

mod access;
mod command;
mod events;
mod hooks;
mod job;
mod lifetime;
mod limits;
mod metrics;
mod objects;
mod pages;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunasa::snapshot::*;
use lunasa::status::{Access, Endpoint, EndpointOptions, Hooks, Source};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Held by tests that look at the memory of this process, and by those that take much of it.
static MEMORY: Mutex<()> = Mutex::new(());

fn alone_with_memory() -> std::sync::MutexGuard<'static, ()> {
    MEMORY.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Every page.
const PATHS: [&str; 9] = [
    "/",
    "/lunasa",
    "/lunasa/blocks",
    "/lunasa/eager",
    "/lunasa/lazy",
    "/lunasa/eager/0x7f1234001000",
    "/peers",
    "/job",
    "/hooks",
];

/// A rank that shows what it is told.
struct Fake {
    objects: usize,
    health: Mutex<Result<(), String>>,
    /// How many samples were taken.
    samples: AtomicUsize,
    /// What objects were asked for last.
    asked: Mutex<Option<ObjectQuery>>,
}

impl Fake {
    fn with_objects(objects: usize) -> Arc<Self> {
        Arc::new(Self { objects, health: Mutex::new(Ok(())), samples: AtomicUsize::new(0), asked: Mutex::new(None) })
    }

    fn live(&self, pool: &str) -> usize {
        if pool == "eager" { self.objects } else { 3 }
    }

    fn listed(&self, pool: &str, limit: usize) -> Vec<ObjectInfo> {
        let object = |i: usize| ObjectInfo {
            address: 0x7f12_3400_0000 + 4096 * i as u64,
            kind: if i % 5 == 4 { "user" } else { "ordinary" }.into(),
            type_id: 7 + i as u32 % 3,
            type_name: i.is_multiple_of(3).then(|| "particles <b>&".into()),
            meta_bytes: 64,
            data_bytes: 4096 << (i % 8),
            references: 1 + i as u32 % 2,
            registered: i % 4 != 3,
            allocated_at: (pool == "eager").then(|| "src/<sim>.rs:7:9".into()),
        };
        (0..self.live(pool).min(limit)).map(object).collect()
    }
}

impl Source for Fake {
    fn snapshot(&self) -> Snapshot {
        let pool = |name: &str, manager: &str, live_objects: u64| PoolInfo {
            name: name.into(),
            manager: manager.into(),
            live_objects,
            allocations: 1_234_567,
            allocated_bytes: 20 << 20,
            quarantined_objects: 5,
            quarantined_bytes: 5 << 10,
            managed_bytes: 64 << 20,
            used_bytes: 24 << 20,
            free_bytes: 40 << 20,
            cached_bytes: 1 << 20,
            high_water_bytes: 64 << 20,
            most_live_objects: 4321,
            most_allocated_bytes: 25 << 20,
            node: None,
            bookkeeping_bytes: 300 << 10,
            passed_on: 0,
            classes: if name == "eager" {
                vec![
                    ClassInfo { size: 128, live: 1000, cached: 64, spans: 3, free: 472 },
                    ClassInfo { size: 32 << 10, live: 700, cached: 8, spans: 90, free: 12 },
                ]
            } else {
                vec![]
            },
        };
        let block = |pool: &str, node: Option<u32>, found: Vec<(u32, u64)>, note: Option<&str>| BlockInfo {
            pool: pool.into(),
            address: 0x7f12_3400_0000,
            bytes: 32 << 20,
            used_bytes: 12 << 20,
            page_bytes: 4096,
            page_kind: "ordinary".into(),
            node_asked: node,
            interleaved: if pool == "lazy" { vec![0, 1] } else { vec![] },
            nodes_found: found,
            registered: pool == "eager",
            note: note.map(String::from),
        };
        Snapshot {
            schema: SCHEMA,
            rank: RankInfo {
                rank: 2,
                ranks: 4,
                host: "n7<i>".into(),
                hosts: 2,
                pid: 4711,
                url: "http://127.0.0.1:1992/".into(),
                run: "5f3a9c01d2e4".into(),
                uptime_s: 125.5,
                version: "0.1.0".into(),
                mpi: "Open MPI v4.1.4, THREAD_MULTIPLE".into(),
                numa_node: Some(1),
                cpus: "8-15".into(),
                registrar: "host".into(),
            },
            config: vec![
                ConfigEntry {
                    key: "lunasa.eager_memory_manager".into(),
                    value: "\"tcmalloc\"".into(),
                    source: "default".into(),
                },
                ConfigEntry {
                    key: "status.port".into(),
                    value: "1992".into(),
                    source: "environment LUNASA_STATUS_PORT".into(),
                },
            ],
            pools: vec![pool("eager", "tcmalloc", self.objects as u64), pool("lazy", "malloc", 3)],
            blocks: vec![
                block("eager", Some(1), vec![(1, 64)], None),
                block("eager", Some(1), vec![(0, 8), (1, 56)], Some("no huge pages are reserved")),
                block("lazy", None, vec![], None),
            ],
            registrations: RegistrationInfo {
                done: 2,
                avoided: 98_765,
                regions: 2,
                bytes: 64 << 20,
                avoided_bytes: 3 << 30,
                spent_s: 0.0625,
                cost: Some(RegistrationCost { fixed_s: 0.015625, per_byte_s: 0.0 }),
                saved_s: Some(1543.203125),
                ..RegistrationInfo::default()
            },
            traffic: vec![
                TrafficInfo {
                    route: "shm".into(),
                    get_bytes: 5 << 30,
                    gets: 81_920,
                    put_bytes: 0,
                    puts: 0,
                    served_bytes: 0,
                    served: 0,
                    errors: 0,
                },
                TrafficInfo {
                    route: "mpi".into(),
                    get_bytes: 7 << 20,
                    gets: 112,
                    put_bytes: 1 << 20,
                    puts: 16,
                    served_bytes: 9 << 20,
                    served: 144,
                    errors: 3,
                },
            ],
            late_writes: LateWrites {
                count: 70,
                first: vec![LateWrite {
                    pool: "eager".into(),
                    serial: 17,
                    type_id: 7,
                    type_name: Some("particles <b>&".into()),
                    meta_bytes: 16,
                    data_bytes: 200,
                    allocated_at: None,
                    address: 0x7f12_3400_0080,
                    offset: 128,
                    bytes: 2,
                    found: "01 02".into(),
                }],
            },
            machine: MachineInfo {
                nodes: vec![
                    NodeInfo {
                        node: 0,
                        cpus: (0..8).collect(),
                        own_cpus: vec![],
                        memory_bytes: 64 << 30,
                        free_bytes: 40 << 30,
                    },
                    NodeInfo {
                        node: 1,
                        cpus: (8..16).collect(),
                        own_cpus: (8..16).collect(),
                        memory_bytes: 64 << 30,
                        free_bytes: 32 << 30,
                    },
                ],
                bound: true,
            },
        }
    }

    fn sample(&self) -> Sample {
        let at_s = self.samples.fetch_add(1, Ordering::Relaxed) as f64;
        Sample {
            at_s,
            allocated_bytes: 20 << 20,
            live_objects: self.objects as u64,
            registered_bytes: 64 << 20,
            moved: vec![("shm".into(), (5 << 30) + at_s as u64 * (3 << 20)), ("mpi".into(), 8 << 20)],
        }
    }

    fn talked_to(&self) -> Vec<PeerTraffic> {
        let peer = |rank: u32, route: &str, bytes: u64, latency: Vec<u64>| PeerTraffic {
            rank,
            host: format!("n{}<i>", 6 + rank / 2),
            route: route.into(),
            state: "mapped".into(),
            get_bytes: bytes,
            gets: bytes / 4096,
            put_bytes: 1 << 20,
            puts: 16,
            errors: u64::from(rank == 1) * 3,
            latency,
        };
        let fast = [vec![0; 8], vec![100, 20, 3]].concat();
        vec![
            peer(0, "mpi", 7 << 20, vec![0; 0]),
            peer(1, "mpi", 1 << 20, [vec![0; 15], vec![7]].concat()),
            peer(3, "shm", 5 << 30, fast),
        ]
    }

    fn object(&self, pool: &str, address: u64, offset: u64, limit: usize) -> Option<ObjectDump> {
        let all = self.listed(pool, usize::MAX);
        let info = all.into_iter().find(|object| object.address == address)?;
        let data: Vec<u8> = (0..info.data_bytes as usize).map(|i| i as u8).collect();
        let data = data.get(offset as usize..).unwrap_or_default();
        let data = data[..data.len().min(limit)].to_vec();
        Some(ObjectDump { meta: b"meta <b>".to_vec(), data, offset, info })
    }

    fn block_maps(&self, cells: usize) -> Vec<BlockMap> {
        let map = |pool: &str| BlockMap { pool: pool.into(), address: 0x7f12_3400_0000, cells: vec![(40, 10); cells] };
        vec![map("eager"), map("lazy")]
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let peer = |rank: u32, route: &str, url: &str| PeerInfo {
            rank,
            host: format!("n{}", 6 + rank / 2),
            url: url.into(),
            route: route.into(),
        };
        vec![
            peer(0, "mpi", "http://10.0.0.6:1990/"),
            peer(1, "mpi", "javascript:alert(1)"),
            peer(2, "self", "http://127.0.0.1:1992/"),
            peer(3, "shm", ""),
        ]
    }

    fn objects(&self, query: &ObjectQuery) -> ObjectPage {
        *self.asked.lock().unwrap() = Some(query.clone());
        let objects = self.listed(&query.pool, query.limit);
        let matched = self.live(&query.pool) as u64;
        let next = (matched > objects.len() as u64).then(|| (objects[objects.len() - 1].data_bytes, 4096));
        let types =
            vec![TypeTotal { type_id: 7, type_name: Some("particles <b>&".into()), objects: 4, bytes: 1 << 20 }];
        ObjectPage { objects, matched, matched_bytes: 1 << 20, complete: true, next, types }
    }

    fn health(&self) -> Result<(), String> {
        self.health.lock().unwrap().clone()
    }
}

fn options(access: Access) -> EndpointOptions {
    EndpointOptions { access, ..EndpointOptions::default() }
}

/// Where it listens.
fn at(endpoint: &Endpoint) -> SocketAddr {
    endpoint.address().unwrap()
}

/// An endpoint on any port with a token and `hooks`, and with a source of ten objects.
fn endpoint(hooks: &Hooks) -> Endpoint {
    let endpoint = Endpoint::start(options(Access::Token(TOKEN.into())), hooks.clone()).unwrap();
    endpoint.set_source(Fake::with_objects(10));
    endpoint
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> serde_json::Value {
        assert_eq!((self.status, self.header("content-type")), (200, Some("application/json")), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends `request` as it is and reads to the end.
fn exchange(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if head.contains("transfer-encoding: chunked") { joined(body) } else { body.into() };
    Reply { status, head: head.into(), body }
}

/// A body that was sent in chunks.
fn joined(mut chunked: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunked.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.push_str(&rest[..length]);
        chunked = rest[length..].strip_prefix("\r\n").unwrap();
    }
    panic!("the body ends too early: {body}")
}

/// A request with exactly these headers, beside `Connection: close`.
fn ask(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    exchange(address, &format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"))
}

/// A GET with the right name and the right token.
fn get(endpoint: &Endpoint, target: &str) -> Reply {
    let host = at(endpoint).to_string();
    ask(at(endpoint), "GET", target, &[("Host", &host), ("Authorization", &format!("Bearer {TOKEN}"))])
}
