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
//! `/healthz` and `/style.css` need no token. Every request must name this endpoint in its `Host` header, so that a page of
//! somebody else's cannot read these through a name that it points here (DNS rebinding).

mod access;
mod hooks;
mod pages;
pub mod pretty;
mod routes;
mod server;
mod token_file;

use std::net::IpAddr;

use crate::snapshot::{ObjectInfo, PeerInfo, Snapshot};

pub use access::{Access, new_token};
pub use hooks::{HookReply, HookRequest, Hooks, panics_are_contained};
pub use server::Endpoint;
pub use token_file::TokenFile;

/// What the pages show: implemented by the instance, called on the endpoint's thread at each request.
///
/// The thread has the lowest priority: hold no lock that an allocation needs for longer than it takes to copy a few numbers.
pub trait Source: Send + Sync + 'static {
    /// The rank as it is now.
    fn snapshot(&self) -> Snapshot;
    /// Every rank of the job, this one included, in the order of ranks.
    fn peers(&self) -> Vec<PeerInfo>;
    /// At most `limit` live objects of the pool of this name; of all eager or lazy ones with `"eager"` or `"lazy"`.
    fn objects(&self, pool: &str, limit: usize) -> Vec<ObjectInfo>;
    /// Whether the rank is well; the reason when it is not. Shown to anybody at `/healthz`: disclose nothing in it.
    fn health(&self) -> Result<(), String>;
}

/// Where an endpoint listens, and who may ask.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// The address to listen on; IPv4 or IPv6.
    pub bind: IpAddr,
    /// The port; 0 lets the system choose one.
    pub port: u16,
    /// How many following ports are tried when the port is taken.
    pub port_range: u16,
    /// Who may ask.
    pub access: Access,
}

/// Whether `text` can be a hook or a run: it stands in paths, so it is short and needs no escaping anywhere.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(plain) && text != "." && text != ".."
}
