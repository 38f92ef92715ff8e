//! Why a connection broke: whose fault it was, and how that is said.

use crate::error::{Error, HandleFault};
use crate::verbs::{Patience, Status};

/// Whose fault it is that a connection broke.
#[derive(Debug)]
pub(super) enum Breach {
    /// Nobody's here: what was under way is done again.
    None,
    /// One request's: the others are done again.
    One(Error),
    /// The connection's own: all fail.
    All(String),
}

impl Breach {
    /// By how the first work request that failed ended.
    pub(super) fn of(rank: u32, status: Status, patience: Patience) -> Self {
        if status.is_flushed() {
            Self::None
        } else if status.is_remote_access() {
            let why =
                format!("rank {rank}'s device refused key or range ({status}): the memory is not registered any more");
            Self::One(HandleFault::Stale(why).into())
        } else if status.is_of_request() {
            Self::One(Error::Transfer { peer: rank, reason: format!("the device says: {status}") })
        } else if status.is_silence() {
            Self::All(format!(
                "the device says: {status}; its device did not answer within {:?} (lunasa.verbs.timeout), sent {} times \
                 (lunasa.verbs.retries): is it alive, and are the links up at both ends?",
                patience.timeout,
                patience.retries + 1
            ))
        } else {
            Self::All(format!("the device says: {status}"))
        }
    }
}
