//! The server: one thread, its sockets, and the limits that keep strangers from wearing it out.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::access::HostNames;
use super::routes::{self, ReachedAt};
use super::{Access, EndpointOptions, Hooks, Source};
use crate::error::{Error, Result, os_error};

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
/// How long a hook may keep [`Endpoint::stop`] waiting.
const STOP_TIME: Duration = Duration::from_secs(5);
/// How long to wait when the system has no file descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The HTTP endpoint of a rank, served by one thread named `lunasa-status` of the lowest priority.
///
/// Stopped by [`stop`](Self::stop) or by its drop. In a forked child, where that thread is not, both do nothing.
pub struct Endpoint {
    shared: Arc<Shared>,
    running: Option<Running>,
}

/// What the thread and the handle both need.
pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) names: HostNames,
    pub(super) access: Access,
    pub(super) hooks: Hooks,
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
    /// Binds the first free port of `port ..= port + port_range` and serves it at once.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when all those ports are taken, the address is not this host's, the token cannot be carried by a
    /// header, or the system gives no thread.
    pub fn start(options: EndpointOptions, hooks: Hooks) -> Result<Endpoint> {
        options.access.check()?;
        let listener = bind(&options)?;
        let failed = |what: &str, error: std::io::Error| Error::Endpoint(format!("{what} failed: {error}"));
        let address = listener.local_addr().map_err(|error| failed("asking for the bound address", error))?;
        listener.set_nonblocking(true).map_err(|error| failed("setting up the listening socket", error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed("setting up the endpoint's event loop", error))?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(|error| failed("listening", error))?
        };
        let names = HostNames::of(address);
        let shared = Arc::new(Shared { address, names, access: options.access, hooks, source: Mutex::new(None) });
        let (stop, stopped) = watch::channel(());
        let (alive, ended) = sync_channel::<Infallible>(0);
        let router = routes::router(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("lunasa-status".into())
            .spawn(move || {
                let _alive = alive;
                yield_to_everybody();
                runtime.block_on(serve(listener, router, stopped));
            })
            .map_err(|error| failed("starting the endpoint's thread", error))?;
        Ok(Endpoint {
            shared,
            running: Some(Running { thread, stop, ended: Mutex::new(ended), owner: std::process::id() }),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
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
    /// A hook that does not return within five seconds is left behind with the thread, and a warning says so.
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
                "the endpoint's thread did not end within {} s: a hook (or the source) has not returned; left behind",
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

    fn lock_source(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Source>>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bind(options: &EndpointOptions) -> Result<StdListener> {
    let EndpointOptions { bind, port: first, port_range, .. } = *options;
    let last = if first == 0 { 0 } else { first.saturating_add(port_range) };
    for port in first..=last {
        match StdListener::bind((bind, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => {
                let address = SocketAddr::new(bind, port);
                return Err(Error::Endpoint(format!(
                    "cannot listen on {address}: {error}; choose another address or port"
                )));
            }
        }
    }
    Err(Error::Endpoint(format!(
        "every port from {first} to {last} on {bind} is taken; choose another port, a wider range, or port 0 for any"
    )))
}

/// The simulation comes first: this thread runs when nobody else wants its core.
fn yield_to_everybody() {
    // SAFETY: setpriority takes plain numbers; 0 names the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } != 0 {
        tracing::warn!("the endpoint's thread keeps its priority: {}", os_error());
    }
}

async fn serve(listener: TcpListener, router: Router, mut stopped: watch::Receiver<()>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async { (Arc::clone(&slots).acquire_owned().await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    converse(stream, router, stopped).await;
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
async fn converse(stream: TcpStream, router: Router, mut stopped: watch::Receiver<()>) {
    let Ok(reached) = stream.local_addr() else { return };
    // An answer is written whole; waiting to fill a packet would only delay it. Without it, it is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.layer(Extension(ReachedAt(reached.ip()))));
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
        () = sleep(CONNECTION_TIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}
