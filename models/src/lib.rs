//! Models of the structures that Lunasa's threads share without a lock, or by a protocol of their own. The structures are
//! the library's own source files, compiled here with loom's atomics and locks in the place of std's; loom then runs each
//! test in every order of steps, and with every value that a weakly ordered load may give.
//!
//! A model that finds nothing wrong says how many ways it tried when `LOOM_LOG=1`; one that does gives the way to it.
#![cfg(test)]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, Mutex, RwLock};
    pub(crate) use std::sync::PoisonError;
}

#[path = "../../src/object/life.rs"]
mod life;
#[path = "../../src/manager/tcmalloc/map.rs"]
mod map;
#[path = "../../src/registrar/slot.rs"]
mod slot;
#[path = "../../src/manager/tcmalloc/wake.rs"]
mod wake;

mod lives;
mod maps;
mod slots;
mod wakes;
