//! How objects are made: sizes, type, pool, capacity.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use zerocopy::{FromBytes, IntoBytes};

use super::head::{Birth, HEAD, META_IN_USER, Shape, USER};
use super::ldo::Ldo;
use super::types::TypeId;
use super::user::{UserMemory, UserPart};
use crate::error::{Error, Result};
use crate::manager::tcmalloc::{self, class_byte};
use crate::pool::{Allocated, CallSite, Pool, Pools, Registration};

/// Largest sizes that the quick way considers.
const MOST_QUICK: usize = tcmalloc::LARGEST - HEAD;

/// Describes an object before it is allocated; [`ObjectBuilder::data`], [`ObjectBuilder::data_of`] and
/// [`ObjectBuilder::user`] allocate it.
///
/// ```
/// # use lunasa::{Config, Lunasa};
/// # let lunasa = Lunasa::local(Config::new().ignore_environment().set("lunasa.status.enabled", false)?)?;
/// let object = lunasa.object().type_id("particles").meta(64).data_of::<f64>(1000)?;
/// assert_eq!((object.meta_len(), object.data_len()), (64, 8000));
/// # Ok::<(), lunasa::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is allocated before `data`, `data_of` or `user`"]
pub struct ObjectBuilder<'a> {
    pools: &'a Pools,
    node: Option<u32>,
    time: Registration,
    type_id: TypeId,
    meta: usize,
    capacity: usize,
    zeroed: bool,
}

impl<'a> ObjectBuilder<'a> {
    #[inline]
    pub(crate) fn new(pools: &'a Pools) -> Self {
        Self { pools, node: None, time: Registration::Eager, type_id: TypeId(0), meta: 0, capacity: 0, zeroed: false }
    }

    /// Its type: a number or a name.
    #[inline]
    pub fn type_id(self, type_id: impl Into<TypeId>) -> Self {
        Self { type_id: type_id.into(), ..self }
    }

    /// Bytes of metadata, in front of the data: up to 4 GiB - 1. For a typed view of the data behind them, a multiple of
    /// the type's alignment.
    #[inline]
    pub fn meta(self, bytes: usize) -> Self {
        Self { meta: bytes, ..self }
    }

    /// Bytes that metadata and data together may grow to; at least what they have.
    #[inline]
    pub fn capacity(self, bytes: usize) -> Self {
        Self { capacity: bytes, ..self }
    }

    /// From the lazy pool: registered when a handle is first asked for.
    #[inline]
    pub fn lazy(self) -> Self {
        Self { time: Registration::Lazy, ..self }
    }

    /// On this NUMA node. Without it, on the one that `lunasa.numa.policy` gives; with `"per-node"` that is the node near
    /// the cpu the calling thread runs on (a thread that moved to another node is noticed within 64 allocations). A node
    /// that has too little memory left is an object elsewhere; the block's report says so.
    ///
    /// Allocating is an error, which says what to do, when there is no pool of that node: with the policy `"local"` there
    /// is only one of the rank's own, and a manager `malloc` has none.
    #[inline]
    pub fn node(self, node: u32) -> Self {
        Self { node: Some(node), ..self }
    }

    /// Metadata and data begin as zeros; otherwise they hold whatever was there before.
    #[inline]
    pub fn zeroed(self) -> Self {
        Self { zeroed: true, ..self }
    }

    /// Allocates the object with that many bytes of data. With `lunasa.eager.when_refused = "lazy"` it comes from the lazy pool
    /// where the eager one is refused the registration of more memory.
    ///
    /// # Errors
    /// [`Error::Memory`] or [`Error::Registration`] when the pool cannot grow, [`Error::Object`] when a size is beyond its
    /// limit, [`Error::Closed`] after finish.
    #[inline(always)]
    #[track_caller]
    pub fn data(self, bytes: usize) -> Result<Ldo> {
        // Sums of such sizes cannot overflow; all else, and every error, goes the long way.
        let quick = self.meta <= u32::MAX as usize && bytes <= MOST_QUICK && self.capacity <= MOST_QUICK;
        if quick
            && !self.zeroed
            && self.node.is_none()
            && let Some(pool) = self.pools.anywhere(self.time)
        {
            let capacity = (self.meta + bytes).max(self.capacity);
            let shape = Shape { type_id: self.type_id.0, meta_len: self.meta as u32, data_len: bytes as u64 };
            if let Some(object) = Ldo::make_quickly(pool, shape, capacity) {
                return Ok(object);
            }
        }
        Wish { builder: self, bytes, site: Location::caller() }.fulfil()
    }

    /// Allocates the object with room for `count` values of `T` as data. They hold whatever was there before, which for
    /// such a type is some value.
    ///
    /// # Errors
    /// As for [`ObjectBuilder::data`].
    #[inline]
    #[track_caller]
    pub fn data_of<T: FromBytes + IntoBytes>(self, count: usize) -> Result<Ldo> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or_else(|| {
            Error::Object(format!("{count} values of {} bytes exceed the address space", size_of::<T>()))
        })?;
        self.data(bytes)
    }

    /// A user object: the program's memory becomes its data; headers and metadata are allocated beside it.
    ///
    /// # Errors
    /// As for [`ObjectBuilder::data`]; the memory has then gone back through its cleanup function.
    #[track_caller]
    pub fn user(self, memory: impl Into<UserMemory>) -> Result<Ldo> {
        let memory = memory.into();
        let data_len = memory.len();
        self.user_object(memory, self.meta, data_len, USER)
    }

    /// A user object whose metadata (the first `meta` bytes, as set before) and data both lie in the program's memory; only
    /// the headers are allocated.
    ///
    /// # Errors
    /// As for [`ObjectBuilder::user`], and [`Error::Object`] when the memory is shorter than the metadata.
    #[track_caller]
    pub fn user_with_meta(self, memory: impl Into<UserMemory>) -> Result<Ldo> {
        let memory = memory.into();
        let (meta, len) = (self.meta, memory.len());
        let data_len = len
            .checked_sub(meta)
            .ok_or_else(|| Error::Object(format!("{meta} bytes of metadata do not fit user memory of {len} bytes")))?;
        self.user_object(memory, 0, data_len, USER | META_IN_USER)
    }

    #[track_caller]
    fn user_object(&self, memory: UserMemory, in_piece: usize, data_len: usize, flags: u64) -> Result<Ldo> {
        let (pool, meta_len) = (self.pool()?, self.meta_len()?);
        let piece_len = HEAD + in_piece;
        let Allocated { pool: owner, piece, serial, region } = pool.allocate_for(piece_len, Location::caller())?;
        let piece_region = AtomicU64::new(region.map_or(0, |region| region.id.pack()));
        let capacity = (in_piece + memory.len()) as u64;
        let part = Box::new(UserPart { memory, region: AtomicU64::new(0), piece_region, piece_len });
        let extra = Box::into_raw(part).expose_provenance() as u64;
        let birth = Birth { owner, serial, flags, capacity, extra };
        let shape = Shape { type_id: self.type_id.0, meta_len, data_len: data_len as u64 };
        // SAFETY: a fresh piece of the pool, of HEAD and the metadata, aligned to 64; the user part was leaked for it.
        let mut object = unsafe { Ldo::begin(piece, class_byte(piece_len), birth, shape) };
        // When the memory for the headers was refused already, there is no need to try with the program's.
        if owner.time == Registration::Eager
            && let Err(refusal) = object.register()
        {
            pool.instead_of(refusal)?;
        }
        if self.zeroed {
            object.wipe()?;
        }
        Ok(object)
    }

    #[inline]
    fn pool(&self) -> Result<&'a Arc<Pool>> {
        match self.node {
            None => Ok(self.pools.here(self.time)),
            Some(node) => self.pools.on(node, self.time),
        }
    }

    fn meta_len(&self) -> Result<u32> {
        u32::try_from(self.meta).map_err(|_| {
            Error::Object(format!(
                "metadata of {} bytes; the limit is {} (4 GiB - 1): put it with the data",
                self.meta,
                u32::MAX
            ))
        })
    }
}

/// An ordinary object to be made the slow way: in a value of its own, so that the fast way need not keep any in memory.
struct Wish<'a> {
    builder: ObjectBuilder<'a>,
    bytes: usize,
    site: CallSite,
}

impl Wish<'_> {
    #[cold]
    #[inline(never)]
    fn fulfil(self) -> Result<Ldo> {
        let Self { builder, bytes, site } = self;
        let (pool, meta_len) = (builder.pool()?, builder.meta_len()?);
        let too_large = || {
            let (meta, capacity) = (builder.meta, builder.capacity);
            Error::Object(format!(
                "metadata of {meta} and data of {bytes} bytes (capacity {capacity}) exceed the address space"
            ))
        };
        let sections = builder.meta.checked_add(bytes).ok_or_else(too_large)?;
        let capacity = sections.max(builder.capacity);
        let total = capacity.checked_add(HEAD).filter(|&total| total <= isize::MAX as usize).ok_or_else(too_large)?;
        let Allocated { pool, piece, serial, region } = pool.allocate_for(total, site)?;
        let extra = region.map_or(0, |region| region.id.pack());
        let birth = Birth { owner: pool, serial, flags: 0, capacity: capacity as u64, extra };
        let shape = Shape { type_id: builder.type_id.0, meta_len, data_len: bytes as u64 };
        // SAFETY: a fresh piece of the pool, of HEAD + capacity bytes, aligned to 64.
        let mut object = unsafe { Ldo::begin(piece, class_byte(total), birth, shape) };
        if builder.zeroed {
            object.wipe()?;
        }
        Ok(object)
    }
}
