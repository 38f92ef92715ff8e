//! Transfers under way, as values.

use std::fmt;
use std::time::Duration;

use super::{mpi, verbs};
use crate::error::{Error, Result};
use crate::object::Ldo;

/// A transfer under way. It goes on by itself; a request that is dropped lets it.
///
/// It holds the program's object until then, and gives it back at the end.
#[must_use = "wait for it, or its object is lost"]
pub struct Request(State);

/// What a route has under way.
pub(crate) enum Operation {
    Verbs(verbs::Operation),
    Mpi(mpi::Operation),
}

impl Operation {
    /// Whether it is over. Never waits.
    fn test(&self) -> bool {
        match self {
            Self::Verbs(operation) => operation.test(),
            Self::Mpi(operation) => operation.test(),
        }
    }

    /// Waits until it is over, but no longer than `limit`; whether it is.
    fn wait_until(&self, limit: Duration) -> bool {
        match self {
            Self::Verbs(operation) => operation.wait_until(Some(limit)),
            Self::Mpi(operation) => operation.wait_until(limit),
        }
    }

    /// Waits until it is over; its outcome, and the object that it kept.
    pub(super) fn wait(self) -> Result<Option<Ldo>> {
        match self {
            Self::Verbs(operation) => operation.wait(),
            Self::Mpi(operation) => operation.wait(None),
        }
    }
}

enum State {
    Done(Ldo),
    UnderWay(Operation),
}

/// How a wait with a limit ended.
#[derive(Debug)]
pub enum Waited {
    /// The transfer is done; here is its object.
    Done(Ldo),
    /// It is not done yet.
    Pending(Request),
}

impl Request {
    pub(crate) fn done(object: Ldo) -> Self {
        Self(State::Done(object))
    }

    pub(crate) fn under_way(operation: Operation) -> Self {
        Self(State::UnderWay(operation))
    }

    /// Whether it has ended, well or not. Never waits.
    pub fn test(&self) -> bool {
        match &self.0 {
            State::Done(_) => true,
            State::UnderWay(operation) => operation.test(),
        }
    }

    /// Waits for the end, and gives the object back.
    ///
    /// # Errors
    /// What the peer or the route says; the object is dropped then.
    pub fn wait(self) -> Result<Ldo> {
        match self.0 {
            State::Done(object) => Ok(object),
            State::UnderWay(operation) => finished(operation.wait()?),
        }
    }

    /// Waits for the end, but no longer than `limit`.
    ///
    /// # Errors
    /// As for [`Request::wait`].
    pub fn wait_timeout(self, limit: Duration) -> Result<Waited> {
        match self.0 {
            State::Done(object) => Ok(Waited::Done(object)),
            State::UnderWay(operation) => {
                if !operation.wait_until(limit) {
                    return Ok(Waited::Pending(Self::under_way(operation)));
                }
                finished(operation.wait()?).map(Waited::Done)
            }
        }
    }
}

fn finished(object: Option<Ldo>) -> Result<Ldo> {
    object.ok_or_else(|| Error::Object("the transfer's object was taken already; this is a fault of Lunasa".to_owned()))
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.test() { "Request(done)" } else { "Request(under way)" })
    }
}
