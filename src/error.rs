//! What can go wrong, as values: every fallible call of Lunasa returns [`Error`].
//!
//! A message names the thing, the value, the limit, and what to do. The variant says which kind of trouble it is, for
//! programs that want to act on it; the text says the rest, for people.

use std::fmt;

/// The result of a fallible call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration key, file or value is wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// The job was launched in a way that cannot work, for example as N jobs of one rank.
    #[error("launch: {0}")]
    Launch(String),
    /// The collective start failed on some rank; every rank gets this error.
    #[error("start failed on rank {rank} (host {host}): {reason}")]
    Start {
        /// The lowest rank that failed.
        rank: u32,
        /// The host of that rank.
        host: String,
        /// Its own error.
        reason: String,
    },
    /// Memory could not be mapped, bound or touched, or a limit was hit.
    #[error("memory: {0}")]
    Memory(String),
    /// Memory could not be registered or deregistered.
    #[error("registration: {0}")]
    Registration(String),
    /// An RDMA device is not there, or cannot be used.
    #[error("device: {0}")]
    Device(String),
    /// An object was asked for, or used, in a way that does not fit it.
    #[error("object: {0}")]
    Object(String),
    /// A remote handle does not name what it claims to.
    #[error("remote handle: {0}")]
    Handle(HandleFault),
    /// A transfer to or from a peer failed.
    #[error("transfer with rank {peer}: {reason}")]
    Transfer {
        /// The peer's rank.
        peer: u32,
        /// What happened.
        reason: String,
    },
    /// An MPI call returned an error code.
    #[error("{call} failed: {text} (MPI error {code})")]
    Mpi {
        /// The MPI function.
        call: &'static str,
        /// Its return code.
        code: i32,
        /// MPI's own words for the code.
        text: String,
    },
    /// The web endpoint could not be started or asked.
    #[error("endpoint: {0}")]
    Endpoint(String),
    /// A trace of allocations could not be written or read.
    #[error("trace: {0}")]
    Trace(String),
    /// Lunasa was finished (or this is a forked child, where it is closed).
    #[error("Lunasa is closed: {0}")]
    Closed(String),
}

/// Why a remote handle was refused. Nothing was read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleFault {
    /// The bytes are not a handle, or were damaged on the way.
    Malformed(String),
    /// The handle is of another run (or of another instance of Lunasa).
    OtherRun,
    /// The region it points into is gone, or the object in it is.
    Stale(String),
    /// The range asked for is not within the object, or the object not within its region.
    OutOfBounds(String),
    /// The handle does not allow writing.
    ReadOnly,
}

impl fmt::Display for HandleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "not a valid handle: {why}; was it sent whole, as plain bytes?"),
            Self::OtherRun => {
                write!(
                    f,
                    "made by another run or another instance of Lunasa; handles end with the instance that made them"
                )
            }
            Self::Stale(why) => {
                write!(f, "stale: {why}; keep the object alive on its owner while peers use its handle")
            }
            Self::OutOfBounds(why) => write!(f, "out of bounds: {why}"),
            Self::ReadOnly => write!(f, "read-only; the owner must give out `handle_mut` for a peer to write"),
        }
    }
}

impl From<HandleFault> for Error {
    fn from(fault: HandleFault) -> Self {
        Self::Handle(fault)
    }
}

/// The last error of the C library, as text with its number.
pub(crate) fn os_error() -> String {
    std::io::Error::last_os_error().to_string()
}
