//! The table of keys, from which defaults, checks, documents and `configs/lunasa.toml` come, and the settings it fills.
//!
//! A new key is one row of the table and one field of [`Settings`], named as the key without `lunasa.` and with `_`
//! for `.`; the tests then write the documents anew.

use std::{net::IpAddr, path::PathBuf, sync::LazyLock, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    choices::{
        AccessKind, HugePages, ListenKind, ManagerKind, NumaPolicy, ProgressKind, RegistrarKind, RouteKind, WhenRefused,
    },
    kind::Kind,
    pin_budget::PinBudget,
    units::{self, GIB, KIB, MIB, TIB},
};

/// The value of every key, typed: a field per key. [`keys`] says what each may be and its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The memory manager of the eager pool.
    pub eager_memory_manager: ManagerKind,
    /// The memory manager of the lazy pool.
    pub lazy_memory_manager: ManagerKind,
    /// What an eager allocation does when the registration of more memory is refused.
    pub eager_when_refused: WhenRefused,
    /// Bytes of the smallest block of a pool.
    #[serde(with = "units::size")]
    pub tcmalloc_min_system_alloc: usize,
    /// Bytes of its largest block, but for objects larger than that; never below `tcmalloc_min_system_alloc`.
    #[serde(with = "units::size")]
    pub tcmalloc_max_system_alloc: usize,
    /// Bytes that a pool has free ahead of need.
    #[serde(with = "units::size")]
    pub tcmalloc_reserve_ahead: usize,
    /// How long a block stays wholly free before it is given back; zero is for ever.
    #[serde(with = "units::duration")]
    pub tcmalloc_release_after: Duration,
    /// What registers memory.
    pub registrar: RegistrarKind,
    /// Whether the host registrar locks (`mlock`) what it registers.
    pub host_lock: bool,
    /// What the ranks of a host may keep registered together.
    pub pin_budget: PinBudget,
    /// The RDMA device that registers memory; empty is the nearest.
    pub verbs_device: String,
    /// Its port, from 1; 0 is the first active one.
    pub verbs_port: u8,
    /// The entry of the port's table of GIDs; -1 is the best.
    pub verbs_gid_index: i16,
    /// Bytes of the largest work request of the `verbs` route; the device's own limit may be less.
    #[serde(with = "units::size")]
    pub verbs_piece: usize,
    /// How long a device waits for an answer before it sends a packet again; rounded up to the device's steps.
    #[serde(with = "units::duration")]
    pub verbs_timeout: Duration,
    /// How often it does.
    pub verbs_retries: u8,
    /// How long a peer may take to answer when asked to connect.
    #[serde(with = "units::duration")]
    pub verbs_connect_timeout: Duration,
    /// The routes that may be used, the preferred one first; not empty, none twice.
    pub routes: Vec<RouteKind>,
    /// Bytes of the largest message of the `mpi` route.
    #[serde(with = "units::size")]
    pub mpi_piece: usize,
    /// Pieces of one request that may be under way at once.
    pub mpi_window: usize,
    /// Who serves the requests of the `mpi` route.
    pub mpi_progress: ProgressKind,
    /// The longest sleep of an idle progress thread.
    #[serde(with = "units::duration")]
    pub mpi_idle: Duration,
    /// Where blocks are placed.
    pub numa_policy: NumaPolicy,
    /// Whether blocks use huge pages.
    pub memory_huge_pages: HugePages,
    /// Threads that touch a new block; 0 is one per core near the block's node and 32 MiB, at most 16.
    pub memory_touch_threads: usize,
    /// Whether freed memory is filled, and looked at when it is used again.
    pub debug_poison: bool,
    /// Dropped objects of each pool whose memory waits before it is used again.
    pub debug_quarantine: usize,
    /// Whether it is recorded where each object was allocated.
    pub debug_call_sites: bool,
    /// The file that allocations and drops are recorded in, if any.
    #[serde(with = "units::path")]
    pub trace_record: Option<PathBuf>,
    /// Whether a panic on this rank ends the whole job.
    pub abort_on_panic: bool,
    /// Whether this rank has an endpoint.
    pub status_enabled: bool,
    /// The port the endpoint asks for; 0 is any free one.
    pub status_port: u16,
    /// How many further ports are tried when that one is taken.
    pub status_port_range: u16,
    /// The address the endpoint binds to.
    pub status_bind: IpAddr,
    /// The interfaces whose address is taken instead, the preferred one first.
    pub status_interfaces: Vec<String>,
    /// Whether the endpoint listens on a port or on a socket in the file system.
    pub status_listen: ListenKind,
    /// Requests that the endpoint answers in a second, at most; 0 is without limit.
    pub status_rate: u32,
    /// Who may ask the endpoint.
    pub status_access: AccessKind,
    /// Where the job's token file lies; none is `XDG_RUNTIME_DIR`, else `/tmp`.
    #[serde(with = "units::path")]
    pub status_directory: Option<PathBuf>,
    /// The file that lists all endpoints for Prometheus; none is none.
    #[serde(with = "units::path")]
    pub status_discovery: Option<PathBuf>,
}

/// What there is to know about one key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeySpec {
    /// The key, dotted: `lunasa.mpi.piece`.
    pub name: &'static str,
    /// Its default, as TOML text: `"1 MiB"` with its quotes.
    pub default: &'static str,
    /// What it may be, in words.
    pub allowed: String,
    /// What it is for, in a sentence or two.
    pub about: &'static str,
    /// What holds a value to what is allowed.
    pub(super) kind: Kind,
}

impl KeySpec {
    /// The environment variable that sets this key: `LUNASA_MPI_PIECE`.
    pub fn variable(&self) -> String {
        self.name.to_uppercase().replace('.', "_")
    }

    /// The field of [`Settings`] that holds this key's value.
    pub(super) fn field(&self) -> String {
        self.name.trim_start_matches("lunasa.").replace('.', "_")
    }
}

/// Every key there is, in the order of `configs/lunasa.toml`.
///
/// ```
/// let piece = lunasa::config::keys().iter().find(|key| key.name == "lunasa.mpi.piece").unwrap();
/// assert_eq!((piece.default, piece.variable().as_str()), ("\"4 MiB\"", "LUNASA_MPI_PIECE"));
/// ```
pub fn keys() -> &'static [KeySpec] {
    &KEYS
}

static KEYS: LazyLock<Vec<KeySpec>> = LazyLock::new(|| {
    use Kind::{Address, Budget, Choice, Choices, Device, Directory, Flag, Integer, Size};
    let key = |name, default, kind: Kind, about| KeySpec { name, default, allowed: kind.allowed(), about, kind };
    let port = 0..=i64::from(u16::MAX);
    let idle = Duration::from_micros(10)..=Duration::from_millis(1);
    vec![
        key(
            "lunasa.eager_memory_manager",
            r#""tcmalloc""#,
            Choice(ManagerKind::NAMES),
            "The memory manager of the eager pool, whose memory is registered before it is handed out.",
        ),
        key(
            "lunasa.lazy_memory_manager",
            r#""malloc""#,
            Choice(ManagerKind::NAMES),
            "The memory manager of the lazy pool, whose memory is registered when a handle is first asked for.",
        ),
        key(
            "lunasa.eager.when_refused",
            r#""error""#,
            Choice(WhenRefused::NAMES),
            "When an eager allocation needs memory that is refused to be registered: an error, or an LDO of the lazy pool.",
        ),
        key(
            "lunasa.tcmalloc.min_system_alloc",
            r#""64 MiB""#,
            Size(MIB..=TIB),
            "Size of a pool's smallest block; blocks grow as the pool does, to an eighth of it.",
        ),
        key(
            "lunasa.tcmalloc.max_system_alloc",
            r#""1 GiB""#,
            Size(MIB..=TIB),
            "Size of a pool's largest block, but for larger objects; not below lunasa.tcmalloc.min_system_alloc.",
        ),
        key(
            "lunasa.tcmalloc.reserve_ahead",
            r#""8 MiB""#,
            Size(0..=TIB),
            "Bytes to have mapped and registered ahead of need, by a thread of the pool; 0 maps only when asked.",
        ),
        key(
            "lunasa.tcmalloc.release_after",
            r#""10 s""#,
            Kind::Duration(Duration::ZERO..=Duration::from_secs(86_400)),
            "How long a block stays wholly free before it is deregistered and given back; \"0 s\" keeps it.",
        ),
        key(
            "lunasa.registrar",
            r#""auto""#,
            Choice(RegistrarKind::NAMES),
            "What registers memory: an RDMA device if one can be used, else Lunasa itself; or always one of the two.",
        ),
        key(
            "lunasa.host.lock",
            "false",
            Flag,
            "Whether the host registrar locks what it registers in memory (mlock, within RLIMIT_MEMLOCK).",
        ),
        key(
            "lunasa.pin_budget",
            r#""75%""#,
            Budget,
            "What the ranks of a host may keep registered (pinned) together: a part of its memory, a size, or \"none\".",
        ),
        key(
            "lunasa.verbs.device",
            r#""""#,
            Device,
            "The RDMA device; empty: of those with an active port the nearest to the rank's NUMA node.",
        ),
        key("lunasa.verbs.port", "0", Integer(0..=254), "The device's port, counted from 1; 0: the first active one."),
        key(
            "lunasa.verbs.gid_index",
            "-1",
            Integer(-1..=255),
            "The entry of the port's table of GIDs; -1: the best (RoCE v2 over IPv4 first; on InfiniBand entry 0).",
        ),
        key(
            "lunasa.verbs.piece",
            r#""1 MiB""#,
            Size(4 * KIB..=GIB),
            "The verbs route cuts what it moves into work requests of this size, or of the device's largest message.",
        ),
        key(
            "lunasa.verbs.timeout",
            r#""100 ms""#,
            Kind::Duration(Duration::from_micros(10)..=Duration::from_secs(60)),
            "How long a device waits for an answer before it sends a packet again; rounded up to 4.096 us doubled n times.",
        ),
        key(
            "lunasa.verbs.retries",
            "6",
            Integer(0..=6),
            "How often it sends a packet again before the connection counts as broken.",
        ),
        key(
            "lunasa.verbs.connect_timeout",
            r#""30 s""#,
            Kind::Duration(Duration::from_millis(1)..=Duration::from_secs(86_400)),
            "How long a peer may take to answer when asked to connect, by its progress thread or its calls of Lunasa.",
        ),
        key(
            "lunasa.routes",
            r#"["self", "shm", "verbs", "mpi"]"#,
            Choices(RouteKind::NAMES),
            "The routes that may be used, the preferred one first.",
        ),
        key(
            "lunasa.mpi.piece",
            r#""4 MiB""#,
            Size(4 * KIB..=GIB),
            "The mpi route cuts what it moves into messages of this size.",
        ),
        key("lunasa.mpi.window", "4", Integer(1..=64), "Pieces of one request that may be under way at once."),
        key(
            "lunasa.mpi.progress",
            r#""auto""#,
            Choice(ProgressKind::NAMES),
            "Who serves peers on the mpi route: a thread, or the program's calls; auto: a thread if MPI allows it.",
        ),
        key(
            "lunasa.mpi.idle",
            r#""500 us""#,
            Kind::Duration(idle),
            "The longest sleep of the progress thread when idle: longer spares the core, shorter answers sooner.",
        ),
        key(
            "lunasa.numa.policy",
            r#""local""#,
            Choice(NumaPolicy::NAMES),
            "Where blocks are placed: on the node near the rank's cores, over all nodes, per node near each thread, anywhere.",
        ),
        key(
            "lunasa.memory.huge_pages",
            r#""auto""#,
            Choice(HugePages::NAMES),
            "Huge pages for blocks: when there are some, never, or always (a block that gets none is an error).",
        ),
        key(
            "lunasa.memory.touch_threads",
            "0",
            Integer(0..=256),
            "Threads that touch a new block; 0: one per core near the block's node and 32 MiB, at most 16.",
        ),
        key(
            "lunasa.debug.poison",
            "false",
            Flag,
            "Whether freed memory is filled with a pattern, so that late writes into it are found; slow.",
        ),
        key(
            "lunasa.debug.quarantine",
            "0",
            Integer(0..=10_000_000),
            "How many dropped objects of each pool wait before their memory is used again; slow unless 0.",
        ),
        key(
            "lunasa.debug.call_sites",
            "false",
            Flag,
            "Whether it is recorded where in the program each object was allocated; slow.",
        ),
        key(
            "lunasa.trace.record",
            r#""""#,
            Kind::File,
            "Where allocations and drops are recorded; %r in it is the rank, else .RANK is appended; empty: nowhere.",
        ),
        key(
            "lunasa.abort_on_panic",
            "true",
            Flag,
            "Whether a panic on one rank ends the job at once, with its message.",
        ),
        key("lunasa.status.enabled", "true", Flag, "Whether each rank has an endpoint that shows it on a web page."),
        key("lunasa.status.port", "1990", Integer(port.clone()), "The endpoint's port; 0: any free one."),
        key(
            "lunasa.status.port_range",
            "1000",
            Integer(port),
            "When the port is taken, the next free one within so many is used.",
        ),
        key(
            "lunasa.status.bind",
            r#""127.0.0.1""#,
            Address,
            "The address the endpoint binds to; \"0.0.0.0\" lets other hosts reach it.",
        ),
        key(
            "lunasa.status.interfaces",
            "[]",
            Kind::Names,
            "Interfaces whose address the endpoint binds to instead, the preferred one first; the first that is there is taken.",
        ),
        key(
            "lunasa.status.listen",
            r#""port""#,
            Choice(ListenKind::NAMES),
            "What the endpoint listens on: a port, or a socket in the user's own directory, beside the token file.",
        ),
        key(
            "lunasa.status.rate",
            "1000",
            Integer(0..=1_000_000),
            "Requests that the endpoint answers in a second, at most; 0: without limit.",
        ),
        key(
            "lunasa.status.access",
            r#""token""#,
            Choice(AccessKind::NAMES),
            "Who may ask the endpoint: whoever has the job's token, or everybody who reaches it.",
        ),
        key(
            "lunasa.status.directory",
            r#""""#,
            Directory,
            "Where the file with the job's token is put; empty: XDG_RUNTIME_DIR, else /tmp.",
        ),
        key(
            "lunasa.status.discovery",
            r#""""#,
            Kind::File,
            "A file in which rank 0 lists all endpoints, as Prometheus's file-based service discovery reads it; empty: none.",
        ),
    ]
});

/// The text of `configs/lunasa.toml`: every key with its default, what it is for, and what is allowed.
pub fn reference() -> String {
    let mut text = String::from(
        "# Every key of Lunasa with its default. A copy needs only the lines that differ. See docs/configuration.md.\n\
         # Generated from the table in src/config/keys.rs, and held against it by a test.\n",
    );
    for KeySpec { name, default, allowed, about, .. } in keys() {
        text.push_str(&format!("\n# {about}\n# Allowed: {allowed}.\n{name} = {default}\n"));
    }
    text
}
