//! The endpoint: a rank's pages over HTTP, in one thread of the lowest priority.
//!
//! [`Endpoint::start`] binds a port at once, so that the address can go into the collective exchange; the pages answer 503
//! until [`Endpoint::set_source`] names what they show. Everything shown comes from a [`Source`] as the plain data of
//! [`crate::snapshot`].
//!
//! # Who may ask
//! One token for the whole job ([`Access::Token`]), by any of:
//! - the header `Authorization: Bearer TOKEN`, for programs;
//! - `?token=TOKEN` on any path: sets a cookie and redirects (303) to the same URL without the token;
//! - that cookie, `lunasa_PORT`: browsers share cookies between the ports of a host, so its name tells the ranks apart.
//!
//! The links on `/job` lead to `/enter?token=TOKEN` of the other ranks: who sees the page has shown that very token. That
//! path sets the cookie too, but answers with a page that moves on to `/` by itself. A redirect would not do there: the
//! cookie is `SameSite=Strict`, and a redirect that began on another host's page still counts as that host's request, so
//! the browser would hold the cookie back and the click would end at a 401.
//!
//! `/healthz`, `/readyz`, the stylesheet and the script need no token. Every request must name this endpoint in its `Host` header, so that a page of
//! somebody else's cannot read these through a name that it points here (DNS rebinding).

mod access;
mod answers;
mod ask;
mod discovery;
mod documents;
mod events;
mod history;
mod hooks;
mod job_file;
mod listen;
mod metrics;
mod pages;
pub mod pretty;
mod programs;
mod query;
mod rate;
mod routes;
mod server;
mod token_file;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::snapshot::{BlockMap, ObjectDump, ObjectPage, ObjectQuery, PeerInfo, PeerTraffic, Sample, Snapshot};

pub use access::{Access, new_token};
pub use discovery::DiscoveryFile;
pub use hooks::{HookOptions, HookPage, HookReply, HookRequest, Hooks, panics_are_contained};
pub use job_file::{JobFile, JobNote};
pub use server::Endpoint;
pub use token_file::{TokenFile, user_directory};

/// What the pages show: implemented by the instance, called on the endpoint's thread at each request.
///
/// The thread has the lowest priority: hold no lock that an allocation needs for longer than it takes to copy a few numbers.
pub trait Source: Send + Sync + 'static {
    /// The rank as it is now.
    fn snapshot(&self) -> Snapshot;
    /// The numbers for the plots; asked for once a second.
    fn sample(&self) -> Sample;
    /// Every rank of the job, this one included, in the order of ranks.
    fn peers(&self) -> Vec<PeerInfo>;
    /// What passed between this rank and each that it talked to, in the order of ranks.
    fn talked_to(&self) -> Vec<PeerTraffic>;
    /// The live objects that a query asks for.
    fn objects(&self, query: &ObjectQuery) -> ObjectPage;
    /// The live object of a pool (or of all eager or lazy ones) whose data are at this address, with `limit` bytes at most
    /// of its metadata, and of its data from `offset`.
    fn object(&self, pool: &str, address: u64, offset: u64, limit: usize) -> Option<ObjectDump>;
    /// How the blocks are taken, in `cells` parts each; in the order of the snapshot's blocks.
    fn block_maps(&self, cells: usize) -> Vec<BlockMap>;
    /// Whether the rank is well; the reason when it is not. Shown to anybody at `/healthz`: disclose nothing in it.
    fn health(&self) -> Result<(), String>;
}

/// Where an endpoint listens, and who may ask.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// The address to listen on; IPv4 or IPv6.
    pub bind: IpAddr,
    /// Interfaces whose address is taken instead, the preferred one first; those that are not there are passed over.
    pub interfaces: Vec<String>,
    /// The port; 0 lets the system choose one.
    pub port: u16,
    /// How many following ports are tried when the port is taken.
    pub port_range: u16,
    /// A socket in the file system to listen on instead of a port; only its user may connect.
    pub socket: Option<PathBuf>,
    /// Who may ask.
    pub access: Access,
    /// What the ranks of a job show each other to be told a few numbers; empty: they show the token.
    pub between: String,
    /// Requests in a second, at most, over all connections; 0 is without limit.
    pub rate: u32,
    /// The cores that the endpoint's thread is to keep to; none: all that the process may use.
    pub cores: Vec<u32>,
}

impl Default for EndpointOptions {
    /// Any port of the loopback address, with a new token.
    fn default() -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            interfaces: Vec::new(),
            port: 0,
            port_range: 0,
            socket: None,
            access: Access::Token(new_token()),
            between: String::new(),
            rate: 1000,
            cores: Vec::new(),
        }
    }
}

/// Whether `text` can be a hook or a run: it stands in paths, so it is short and needs no escaping anywhere.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(plain) && text != "." && text != ".."
}
