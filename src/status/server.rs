//! The server: one thread, its sockets, and the limits that keep strangers from wearing it out.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::access::HostNames;
use super::ask::Job;
use super::history::History;
use super::listen::{Listener, SocketFile};
use super::rate::Rate;
use super::routes::{self, Connection};
use super::{Access, EndpointOptions, Hooks, Source};
use crate::error::{Error, Result, os_error};
use crate::snapshot::RankBrief;

/// Connections served at once; more wait in the system's queue.
const CONNECTIONS: usize = 256;
/// Bytes of a request's head, at most.
const HEAD_BYTES: usize = 16 << 10;
/// How long a connection may take to send a whole head, counted from its start or from its last answer.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long one connection is kept, so that one who never reads cannot hold it for ever.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// How long an answer under way may still take when its connection is to end.
const GRACE: Duration = Duration::from_millis(500);
/// How long a page under way may keep [`Endpoint::stop`] waiting.
const STOP_TIME: Duration = Duration::from_secs(5);
/// How long to wait when the system has no file descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two samples for the plots.
const SAMPLED_EVERY: Duration = Duration::from_secs(1);

/// The HTTP endpoint of a rank, served by one thread named `lunasa-status` of the lowest priority.
///
/// Stopped by [`stop`](Self::stop) or by its drop. In a forked child, where that thread is not, both do nothing.
pub struct Endpoint {
    shared: Arc<Shared>,
    running: Option<Running>,
}

/// What the thread and the handle both need.
pub(super) struct Shared {
    /// Where it listens; nowhere when it is a socket in the file system.
    pub(super) address: Option<SocketAddr>,
    pub(super) names: HostNames,
    pub(super) access: Access,
    /// What ranks show each other for a brief answer.
    pub(super) between: String,
    pub(super) hooks: Hooks,
    pub(super) job: Job,
    pub(super) rate: Rate,
    /// Streams of live values that are open.
    pub(super) streams: Arc<Semaphore>,
    /// Says when the endpoint stops.
    pub(super) stopped: watch::Receiver<()>,
    history: Mutex<History>,
    source: Mutex<Option<Arc<dyn Source>>>,
}

struct Running {
    thread: JoinHandle<()>,
    /// The thread stops when this is dropped.
    stop: watch::Sender<()>,
    /// Disconnected when the thread has ended; in a lock, so that the instance can be used from any thread.
    ended: Mutex<Receiver<Infallible>>,
    owner: u32,
}

impl Endpoint {
    /// Listens, on the first free port of `port ..= port + port_range` or on a socket in the file system, and serves at once.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when all those ports are taken, the address is not this host's, no interface is there, the socket
    /// cannot be made, the token cannot be carried by a header, or the system gives no thread.
    pub fn start(options: EndpointOptions, hooks: Hooks) -> Result<Endpoint> {
        options.access.check()?;
        let failed = |what: &str, error: std::io::Error| Error::Endpoint(format!("{what} failed: {error}"));
        let listener = Listener::open(&options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed("setting up the endpoint's event loop", error))?;
        let (listener, address) = {
            let _inside = runtime.enter();
            Watched::new(listener).map_err(|error| failed("listening", error))?
        };
        let (stop, stopped) = watch::channel(());
        let shared = Arc::new(Shared {
            address,
            names: HostNames::of(address.unwrap_or((Ipv4Addr::LOCALHOST, 0).into())),
            access: options.access,
            between: options.between,
            hooks,
            job: Job::default(),
            rate: Rate::new(options.rate),
            streams: Arc::new(Semaphore::new(routes::STREAMS)),
            stopped: stopped.clone(),
            history: Mutex::default(),
            source: Mutex::new(None),
        });
        let (alive, ended) = sync_channel::<Infallible>(0);
        let (of_thread, cores) = (Arc::clone(&shared), options.cores);
        let thread = std::thread::Builder::new()
            .name("lunasa-status".into())
            .spawn(move || {
                let _alive = alive;
                yield_to_everybody();
                keep_to(&cores);
                runtime.block_on(serve(listener, of_thread, stopped));
            })
            .map_err(|error| failed("starting the endpoint's thread", error))?;
        Ok(Endpoint {
            shared,
            running: Some(Running { thread, stop, ended: Mutex::new(ended), owner: std::process::id() }),
        })
    }

    /// Where it listens; `None` when that is a socket in the file system.
    pub fn address(&self) -> Option<SocketAddr> {
        self.shared.address
    }

    /// Shows `source` from now on. It is kept until the endpoint stops, so an instance must not own its endpoint only
    /// through what it hands over here: it stops the endpoint to be freed.
    pub fn set_source(&self, source: Arc<dyn Source>) {
        let former = self.shared.lock_source().replace(source);
        // Outside of the lock, since its drop may run anything.
        drop(former);
    }

    /// Ends answers under way (for half a second at most), closes the port, joins the thread and lets go of the source.
    ///
    /// A hook that does not return is left behind with its thread. So is a source that does not within five seconds, and a
    /// warning says so.
    pub fn stop(mut self) {
        self.close();
    }

    fn close(&mut self) {
        let Some(Running { thread, stop, ended, owner }) = self.running.take() else { return };
        if owner != std::process::id() {
            // A forked child: the thread is the parent's, and waking it would write to the parent's event loop.
            std::mem::forget((thread, stop, ended));
            return;
        }
        drop(stop);
        let source = self.shared.lock_source().take();
        drop(source);
        // The last owner may be a source that ends with a request, on that very thread.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        match ended.recv_timeout(STOP_TIME) {
            Err(RecvTimeoutError::Timeout) => tracing::warn!(
                "the endpoint's thread did not end within {} s: the source has not returned; left behind",
                STOP_TIME.as_secs()
            ),
            _ => {
                if thread.join().is_err() {
                    tracing::warn!("the endpoint's thread ended by a panic");
                }
            }
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.shared.address).field("access", &self.shared.access).finish()
    }
}

impl Shared {
    /// What the pages show, once there is something.
    pub(super) fn source(&self) -> Option<Arc<dyn Source>> {
        self.lock_source().clone()
    }

    fn lock_source(&self) -> MutexGuard<'_, Option<Arc<dyn Source>>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everybody on the network may look.
    pub(super) fn is_open_to_all(&self) -> bool {
        let beyond = self.address.is_some_and(|address| !address.ip().to_canonical().is_loopback());
        self.access.token().is_none() && beyond
    }

    /// The last minutes.
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This rank in a few numbers.
    pub(super) fn brief(&self, source: &Arc<dyn Source>) -> RankBrief {
        let snapshot = source.snapshot();
        let sum = |of: fn(&crate::snapshot::PoolInfo) -> u64| snapshot.pools.iter().map(of).sum();
        RankBrief {
            trouble: source.health().err(),
            uptime_s: snapshot.rank.uptime_s,
            live_objects: sum(|pool| pool.live_objects),
            allocated_bytes: sum(|pool| pool.allocated_bytes),
            managed_bytes: sum(|pool| pool.managed_bytes),
            registered_bytes: snapshot.registrations.bytes,
            moved_bytes: snapshot.traffic.iter().map(|route| route.get_bytes + route.put_bytes).sum(),
            moved_per_s: self.history().moved_per_s(),
            errors: snapshot.traffic.iter().map(|route| route.errors).sum(),
            run: snapshot.rank.run,
            rank: snapshot.rank.rank,
        }
    }
}

/// The simulation comes first: this thread has the least claim to a core, and does not interrupt who runs there.
///
/// Not `SCHED_IDLE`: on a busy core that could leave a lock of the pool held for seconds.
pub(super) fn yield_to_everybody() {
    // SAFETY: setpriority takes plain numbers; 0 names the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } != 0 {
        tracing::warn!("the endpoint's thread keeps its priority: {}", os_error());
    }
    let least = libc::sched_param { sched_priority: 0 };
    // SAFETY: `least` is valid during the call; 0 names the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const least) } != 0 {
        tracing::debug!("the endpoint's thread keeps its scheduling: {}", os_error());
    }
}

/// Runs the calling thread on these cores only, if there are any and the system allows it.
fn keep_to(cores: &[u32]) {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let Some(last) = cores.iter().max() else { return };
    let mut mask = vec![0 as libc::c_ulong; *last as usize / BITS + 1];
    cores.iter().for_each(|core| mask[*core as usize / BITS] |= 1 << (*core as usize % BITS));
    // SAFETY: the mask has as many bytes as said; 0 names the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of_val(mask.as_slice()), mask.as_ptr().cast()) } != 0 {
        tracing::debug!("the endpoint's thread stays on the rank's cores: {}", os_error());
    }
}

/// A listener that the event loop watches.
enum Watched {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "its drop removes the file")] SocketFile),
}

impl Watched {
    fn new(listener: Listener) -> std::io::Result<(Self, Option<SocketAddr>)> {
        Ok(match listener {
            Listener::Tcp(listener, address) => (Self::Tcp(TcpListener::from_std(listener)?), Some(address)),
            Listener::Unix(listener, file) => (Self::Unix(UnixListener::from_std(listener)?, file), None),
        })
    }

    /// The next connection, and the address of this host on which it came in.
    async fn accept(&self) -> std::io::Result<(Box<dyn Stream>, Option<IpAddr>)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is written whole; waiting to fill a packet would only delay it. Without it, it is slower, not
                // wrong.
                let _ = stream.set_nodelay(true);
                let reached = stream.local_addr()?.ip();
                (Box::new(stream), Some(reached))
            }
            Self::Unix(listener, _) => (Box::new(listener.accept().await?.0), None),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn serve(listener: Watched, shared: Arc<Shared>, mut stopped: watch::Receiver<()>) {
    let router = routes::router(Arc::clone(&shared));
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut sampled = interval(SAMPLED_EVERY);
    sampled.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = async { (Arc::clone(&slots).acquire_owned().await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            _ = sampled.tick() => {
                if let Some(source) = shared.source() {
                    let sample = source.sample();
                    shared.history().push(sample);
                }
                continue;
            }
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, reached)) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    converse(stream, reached, router, stopped).await;
                });
            }
            Err(error) => {
                tracing::debug!("a connection was not accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection. How it ended is the other side's affair.
async fn converse(stream: Box<dyn Stream>, reached: Option<IpAddr>, router: Router, mut stopped: watch::Receiver<()>) {
    let until = Instant::now() + CONNECTION_TIME;
    let service = TowerToHyperService::new(router.layer(Extension(Connection { reached, until })));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => {}
        () = sleep_until(until) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}
