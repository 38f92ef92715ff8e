//! Where an endpoint listens: a port of an address or of an interface, or a socket in the file system.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::EndpointOptions;
use crate::error::{Error, Result};

/// A socket that listens, not yet watched by the event loop.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    /// Its file goes with the value.
    Unix(UnixListener, SocketFile),
}

/// A socket's place in the file system.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    owner: u32,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A forked child leaves it to its parent.
        if self.owner == std::process::id()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!("the endpoint's socket {} could not be removed: {error}", self.path.display());
        }
    }
}

impl Listener {
    /// As the options say.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when no port of the range can be had, the address or all interfaces are not there, or the socket
    /// cannot be made.
    pub(super) fn open(options: &EndpointOptions) -> Result<Self> {
        let listener = match &options.socket {
            Some(path) => socket(path)?,
            None => port(options)?,
        };
        let set = match &listener {
            Self::Tcp(listener, _) => listener.set_nonblocking(true),
            Self::Unix(listener, _) => listener.set_nonblocking(true),
        };
        set.map_err(|error| Error::Endpoint(format!("setting up the listening socket failed: {error}")))?;
        Ok(listener)
    }
}

/// A socket at `path` that only this user may connect to.
fn socket(path: &Path) -> Result<Listener> {
    let cannot = |error: std::io::Error| {
        Error::Endpoint(format!("cannot listen on the socket {}: {error}; choose another place", path.display()))
    };
    // Bound under another name, so that it is never there with a mode that lets others in.
    let hidden = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&hidden).map_err(cannot)?;
    let file = SocketFile { path: hidden.clone(), owner: std::process::id() };
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
    // Unlike a rename, a link does not replace what is there.
    std::fs::hard_link(&hidden, path).map_err(cannot)?;
    drop(file);
    Ok(Listener::Unix(listener, SocketFile { path: path.to_path_buf(), owner: std::process::id() }))
}

fn port(options: &EndpointOptions) -> Result<Listener> {
    let (bind, first) = (address(options)?, options.port);
    let last = if first == 0 { 0 } else { first.saturating_add(options.port_range) };
    for port in first..=last {
        match TcpListener::bind((bind, port)) {
            Ok(listener) => {
                let failed = |error| Error::Endpoint(format!("asking for the bound address failed: {error}"));
                let address = listener.local_addr().map_err(failed)?;
                return Ok(Listener::Tcp(listener, address));
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
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

/// The address of the first of the interfaces that is there, or the one given.
fn address(options: &EndpointOptions) -> Result<IpAddr> {
    if options.interfaces.is_empty() {
        return Ok(options.bind);
    }
    let there = if_addrs::get_if_addrs()
        .map_err(|error| Error::Endpoint(format!("the system does not tell its interfaces: {error}")))?;
    // Of an interface's addresses an IPv4 one; an IPv6 one that is only good on its own link needs more than an address.
    let usable = |ip: &IpAddr| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let of = |name: &String| {
        let mut addresses: Vec<IpAddr> =
            there.iter().filter(|found| found.name == *name).map(|found| found.ip()).filter(usable).collect();
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses.first().copied()
    };
    options.interfaces.iter().find_map(of).ok_or_else(|| {
        let mut names: Vec<&str> = there.iter().map(|found| found.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        Error::Endpoint(format!(
            "none of the interfaces {} is there with an address; there are: {}",
            options.interfaces.join(", "),
            names.join(", ")
        ))
    })
}
