//! How an instance comes to be.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mpi::traits::Communicator;
use serde::{Deserialize, Serialize};

use super::files::Files;
use super::watch::Watch;
use super::{Lunasa, Parts, panics};
use crate::bootstrap::{self, Directory, Entry};
use crate::comm::{self, Comm};
use crate::config::{
    AccessKind, Config, ListenKind, ManagerKind, NumaPolicy, ProgressKind, RegistrarKind, Resolved, RouteKind,
    Settings, WhenRefused,
};
use crate::error::{Error, Result};
use crate::manager::{BlockSource, Manager, Tcmalloc, tcmalloc};
use crate::memory::{self, Place};
use crate::node_id::NodeId;
use crate::object;
use crate::pool::{DebugSettings, Pool, Pools, Registration};
use crate::registrar::{self, Budget, HostRegistrar, Network, Regions, Registrar, VerbsRegistrar};
use crate::snapshot::RegistrationCost;
use crate::status::{self, Access, Endpoint, EndpointOptions, Hooks};
use crate::topology::{Host, Topology};
use crate::trace::Recorder;
use crate::transfer::{MpiRoute, Transfers, VerbsRoute, VerbsSettings};
use crate::verbs::{self, Patience};

/// What all ranks of a run share; made by rank 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Run {
    pub id: u64,
    pub token: String,
    /// What the endpoints show each other: whoever comes to the port of a rank that died learns no more from it than how
    /// busy the others are.
    pub between: String,
}

impl Run {
    fn new() -> Self {
        Self { id: rand::random(), token: status::new_token(), between: status::new_token() }
    }
}

/// What a rank can make by itself, before it knows the others.
struct Prepared {
    topology: Topology,
    regions: Arc<Regions>,
    cost: Option<RegistrationCost>,
    pools: Pools,
    endpoint: Option<Endpoint>,
    socket: Option<PathBuf>,
    hooks: Hooks,
    entry: Entry,
    recorder: Option<Arc<Recorder>>,
}

fn prepare(
    rank: u32,
    run: &Run,
    settings: &Settings,
    registrar: Option<Arc<dyn Registrar>>,
    budget: Budget,
) -> Result<Prepared> {
    object::choose_secret();
    let topology = Topology::discover()?;
    let registrar = registrar.map_or_else(|| choose_registrar(settings, &topology), Ok)?;
    let cost = registrar::cost::measure(&*registrar)
        .inspect_err(|error| tracing::debug!("what a registration costs was not measured: {error}"))
        .ok();
    let regions = Arc::new(Regions::new(registrar, run.id, rank)?.with_budget(budget));
    let source = BlockSource {
        run: run.id,
        rank,
        place: match settings.numa_policy {
            NumaPolicy::Local => topology.local_node().map_or(Place::Anywhere, Place::Node),
            NumaPolicy::Interleave => Place::Interleaved,
            // Each of its pools has its node.
            NumaPolicy::PerNode | NumaPolicy::None => Place::Anywhere,
        },
        topology: topology.clone(),
        huge_pages: settings.memory_huge_pages,
        touch_threads: settings.memory_touch_threads,
        regions: regions.clone(),
        next: Arc::default(),
    };
    let recorder = settings.trace_record.as_ref().map(|name| Recorder::create(name, rank)).transpose()?;
    let aids = DebugSettings {
        poison: settings.debug_poison,
        quarantine: settings.debug_quarantine,
        call_sites: settings.debug_call_sites,
        recorder: recorder.clone(),
    };
    let pools = make_pools(&source, settings, &aids)?;
    let hooks = Hooks::new();
    let options = settings.status_enabled.then(|| endpoint_options(rank, run, settings, &topology)).transpose()?;
    let socket = options.as_ref().and_then(|options| options.socket.clone());
    let endpoint = options.map(|options| Endpoint::start(options, hooks.clone())).transpose()?;
    let address = endpoint.as_ref().and_then(Endpoint::address).map(reachable);
    if rank == 0 && settings.status_access == AccessKind::Open && address.is_some_and(|at| !at.ip().is_loopback()) {
        // Whoever started the job is to see this, whatever becomes of log messages.
        eprintln!(
            "lunasa: WARNING: everybody on the network may look at this job's pages (lunasa.status.access = \"open\", bound to \
             {}); set \"token\", or bind to a loopback address",
            settings.status_bind
        );
    }
    let node = NodeId::new(rank, address);
    let first = pools.here(Registration::Eager).first_region();
    let entry = Entry::new(node, regions.fd(), first, Network::reached_by(regions.registrar()));
    Ok(Prepared { topology, regions, cost, pools, endpoint, socket, hooks, entry, recorder })
}

fn endpoint_options(rank: u32, run: &Run, settings: &Settings, topology: &Topology) -> Result<EndpointOptions> {
    let socket = match settings.status_listen {
        ListenKind::Port => None,
        ListenKind::Socket => {
            let directory = status::user_directory(settings.status_directory.as_deref())?;
            Some(directory.join(format!("{:016x}-{rank}.socket", run.id)))
        }
    };
    Ok(EndpointOptions {
        bind: settings.status_bind,
        interfaces: settings.status_interfaces.clone(),
        port: settings.status_port,
        port_range: settings.status_port_range,
        socket,
        access: match settings.status_access {
            AccessKind::Token => Access::Token(run.token.clone()),
            AccessKind::Open => Access::Open,
        },
        between: run.between.clone(),
        rate: settings.status_rate,
        cores: topology.others_cpus(),
    })
}

/// An eager and a lazy pool with blocks of this source, or one of each for every NUMA node with memory.
fn make_pools(source: &BlockSource, settings: &Settings, aids: &DebugSettings) -> Result<Pools> {
    let kind = |time| match time {
        Registration::Eager => settings.eager_memory_manager,
        Registration::Lazy => settings.lazy_memory_manager,
    };
    // Freed memory can only be looked at while it is mapped.
    let release_after = if aids.poison { Duration::ZERO } else { settings.tcmalloc_release_after };
    let when_refused = settings.eager_when_refused;
    let manager = |time, place| -> Result<Manager> {
        if kind(time) == ManagerKind::Malloc {
            return Ok(Manager::Malloc(Box::default()));
        }
        let settings = tcmalloc::Settings {
            register: time == Registration::Eager,
            block: (settings.tcmalloc_min_system_alloc, settings.tcmalloc_max_system_alloc),
            reserve_ahead: settings.tcmalloc_reserve_ahead,
            release_after,
            patient: time == Registration::Eager && when_refused == WhenRefused::Lazy,
        };
        Ok(Manager::Tcmalloc(Tcmalloc::new(Arc::new(BlockSource { place, ..source.clone() }), settings)?))
    };
    // The lazy pool first, which may have to help the eager one out.
    let pair = |pool: &dyn Fn(Registration) -> Result<Pool>, lazy: Option<Arc<Pool>>| -> Result<[Arc<Pool>; 2]> {
        let lazy = lazy.map_or_else(|| pool(Registration::Lazy).map(Arc::new), Ok)?;
        let eager = pool(Registration::Eager)?;
        let eager = if when_refused == WhenRefused::Lazy { eager.or_else(lazy.clone()) } else { eager };
        Ok([Arc::new(eager), lazy])
    };
    if settings.numa_policy != NumaPolicy::PerNode {
        let pool = |time| {
            let pool = Pool::new(time, manager(time, source.place)?, source.regions.clone());
            Ok(pool.with_aids(aids.clone()))
        };
        return Ok(Pools::new(pair(&pool, None)?));
    }
    let nodes = source.topology.memory_nodes();
    let mut pairs: Vec<[Arc<Pool>; 2]> = Vec::new();
    for &node in &nodes {
        let pool = |time| {
            let pool = Pool::of_node(time, manager(time, Place::Node(node))?, source.regions.clone());
            Ok(pool.with_aids(aids.clone()))
        };
        // The C library places memory as it likes: one pool does.
        let known =
            |time| pairs.first().filter(|_| kind(time) == ManagerKind::Malloc).map(|first| &first[time as usize]);
        let (eager, lazy) = (known(Registration::Eager).cloned(), known(Registration::Lazy).cloned());
        pairs.push(match (eager, lazy) {
            (Some(eager), lazy) => [eager, lazy.map_or_else(|| pool(Registration::Lazy).map(Arc::new), Ok)?],
            (None, lazy) => pair(&pool, lazy)?,
        });
    }
    Pools::per_node(&nodes, pairs, &source.topology)
}

/// The configured registrar; `auto` says why it goes on without a device.
pub(crate) fn choose_registrar(settings: &Settings, topology: &Topology) -> Result<Arc<dyn Registrar>> {
    let host = || Arc::new(HostRegistrar::new(settings.host_lock));
    if settings.registrar == RegistrarKind::Host {
        return Ok(host());
    }
    match VerbsRegistrar::open(&verbs::Wanted::of(settings, topology.local_node())) {
        Ok(verbs) => Ok(Arc::new(verbs)),
        Err(error) if settings.registrar == RegistrarKind::Auto => {
            tracing::info!("registrar host: {error}");
            Ok(host())
        }
        Err(error) => Err(error),
    }
}

/// The address by which others reach a socket that listens on all of them: that of the interface towards the outside.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let (any, outside): (IpAddr, IpAddr) = match address {
        SocketAddr::V4(_) => ([0, 0, 0, 0].into(), [192, 0, 2, 1].into()),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED.into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
    };
    // Connecting a datagram socket sends nothing; it only chooses the interface. Both are addresses for documentation.
    let chosen =
        UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((outside, 9)).and_then(|()| socket.local_addr()));
    let loopback: IpAddr = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(chosen.map_or(loopback, |chosen| chosen.ip()), address.port())
}

fn progress_by_thread(comm: &Comm, settings: &Settings) -> Result<bool> {
    if ![RouteKind::Mpi, RouteKind::Verbs].iter().any(|route| settings.routes.contains(route)) {
        return Ok(false);
    }
    match settings.mpi_progress {
        ProgressKind::Calls => Ok(false),
        ProgressKind::Auto => Ok(comm.multiple()),
        ProgressKind::Thread if comm.multiple() => Ok(true),
        ProgressKind::Thread => Err(Error::Config(
            "lunasa.mpi.progress is \"thread\", but this MPI gave less than MPI_THREAD_MULTIPLE; initialise MPI with it \
             (mpi::initialize_with_threading, MPI_Init_thread), or set \"auto\" and call `progress` now and then"
                .to_owned(),
        )),
    }
}

/// Puts an instance together from its parts; nothing can fail any more.
fn assemble(
    prepared: Prepared,
    directory: Directory,
    resolved: Resolved,
    run: Run,
    files: Files,
    mpi: Option<Arc<MpiRoute>>,
) -> Lunasa {
    let Prepared { topology, regions, cost, pools, endpoint, socket, hooks, recorder, .. } = prepared;
    let directory = Arc::new(directory);
    let settings = &resolved.settings;
    let described = mpi.as_ref().map_or("none".to_owned(), |mpi| {
        let level = if mpi.comm().multiple() { "MPI_THREAD_MULTIPLE" } else { "less than MPI_THREAD_MULTIPLE" };
        format!("{}, {level}", comm::library_version())
    });
    let panics = (mpi.is_some() && settings.abort_on_panic).then(|| panics::Guard::new(regions.rank()));
    let token = (settings.status_access == AccessKind::Token).then_some(run.token);
    let verbs = mpi.as_ref().filter(|_| settings.routes.contains(&RouteKind::Verbs));
    let verbs = verbs.and_then(|mpi| {
        let patience = Patience { timeout: settings.verbs_timeout, retries: settings.verbs_retries };
        let (piece, connect_timeout) = (settings.verbs_piece, settings.verbs_connect_timeout);
        let verbs = VerbsSettings { piece, patience, connect_timeout };
        VerbsRoute::new(verbs, regions.clone(), directory.clone(), mpi.clone())
    });
    let transfers = Transfers::new(settings.routes.clone(), regions.clone(), directory.clone(), (verbs, mpi));
    let watch = Arc::new(Watch {
        transfers: Arc::new(transfers),
        pools,
        regions,
        cost,
        directory,
        resolved,
        topology,
        started: Instant::now(),
        mpi: described,
        recorder,
        socket,
    });
    if let Some(endpoint) = &endpoint {
        endpoint.set_source(watch.clone());
    }
    let parts = Parts { endpoint, files, token, hooks, _panics: panics, finished: false, watch };
    Lunasa { parts: std::mem::ManuallyDrop::new(parts) }
}

pub(super) fn alone(config: &Config, registrar: Option<Arc<dyn Registrar>>) -> Result<Lunasa> {
    memory::not_in_forked_child()?;
    memory::install_fork_guard();
    let (host, resolved, run) = (Host::discover()?, config.resolve()?, Run::new());
    let budget = Budget::create(run.id, 1, resolved.settings.pin_budget)?;
    let prepared = prepare(0, &run, &resolved.settings, registrar, budget)?;
    let directory = bootstrap::alone(&host, run.id, prepared.entry)?;
    let files = Files::write(&resolved.settings, &run, &directory, 0, prepared.socket.as_deref())?;
    Ok(assemble(prepared, directory, resolved, run, files, None))
}

pub(super) fn with_mpi(
    communicator: &impl Communicator,
    config: &Config,
    registrar: Option<Arc<dyn Registrar>>,
) -> Result<Lunasa> {
    memory::not_in_forked_child()?;
    memory::install_fork_guard();
    let comm = Comm::duplicate(communicator)?;
    let host = Host::discover();
    let name = host.as_ref().map_or_else(|_| "unknown host".to_owned(), |host| host.name.clone());
    match together(&comm, &name, host, config, registrar) {
        Ok((prepared, directory, resolved, run, files)) => {
            let (piece, window) = (resolved.settings.mpi_piece, resolved.settings.mpi_window);
            let idle = resolved.settings.mpi_idle;
            let by_thread = progress_by_thread(&comm, &resolved.settings);
            let route = MpiRoute::new(comm, prepared.regions.clone(), piece, window);
            let started = by_thread.and_then(|wanted| if wanted { route.start_thread(idle) } else { Ok(()) });
            if let Err(error) = bootstrap::agree(route.comm(), &name, started) {
                route.stop_thread();
                route.free()?;
                return Err(error);
            }
            Ok(assemble(prepared, directory, resolved, run, files, Some(route)))
        }
        Err(error) => {
            // Every rank has this error, so every rank gets here.
            if matches!(error, Error::Start { .. }) {
                comm.free()?;
            }
            Err(error)
        }
    }
}

type Together = (Prepared, Directory, Resolved, Run, Files);

/// The collective part: each step is taken by all ranks, or by none.
fn together(
    comm: &Comm,
    name: &str,
    host: Result<Host>,
    config: &Config,
    registrar: Option<Arc<dyn Registrar>>,
) -> Result<Together> {
    let launched = bootstrap::check_launch(comm::world_size(), &comm::library_version());
    let host = bootstrap::agree(comm, name, launched.and(host))?;
    let resolved = bootstrap::agree_on_config(comm, name, config)?;
    let made = if comm.rank() == 0 { serde_json::to_vec(&Run::new()) } else { Ok(Vec::new()) };
    let broken = |error: serde_json::Error| Error::Launch(format!("the run's identity cannot be exchanged: {error}"));
    let text = comm.broadcast(0, bootstrap::agree(comm, name, made.map_err(broken))?)?;
    let run: Run = bootstrap::agree(comm, name, serde_json::from_slice(&text).map_err(broken))?;
    let neighbours = bootstrap::Neighbours::find(comm, &host)?;
    let met = || -> Result<_> {
        let budget = bootstrap::share_budget(comm, &neighbours, name, run.id, resolved.settings.pin_budget)?;
        let prepared = prepare(comm.rank(), &run, &resolved.settings, registrar, budget);
        let prepared = bootstrap::agree(comm, name, prepared)?;
        let directory = bootstrap::exchange(comm, &neighbours, &host, run.id, prepared.entry)?;
        Ok((prepared, directory))
    };
    let met = met();
    // What one rank alone does not survive leaves them as they are: freeing them takes all.
    if matches!(met, Ok(_) | Err(Error::Start { .. })) {
        neighbours.free()?;
    }
    let (prepared, directory) = met?;
    let socket = prepared.socket.as_deref();
    let files = Files::write(&resolved.settings, &run, &directory, comm.rank(), socket);
    let files = bootstrap::agree(comm, name, files)?;
    Ok((prepared, directory, resolved, run, files))
}
