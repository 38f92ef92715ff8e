//! What structures without a lock, or with a protocol of their own, are made of. Here it is std's; `models/` compiles the
//! same files with loom's in its place, and tries every way in which threads can meet in them.

pub(crate) use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex, PoisonError, RwLock};
