//! [`Lunasa`]: one instance on one rank. It owns one of each thing below it.

mod files;
mod panics;
mod start;
#[cfg(test)]
mod tests;
mod watch;

use std::mem::ManuallyDrop;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use mpi::traits::Communicator;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::memory;
use crate::node_id::NodeId;
use crate::object::{self, Ldo, LeakReport, ObjectBuilder, RemoteHandle, Section, TypeId, UserMemory, UserRegion};
use crate::pool::Registration;
use crate::registrar::Registrar;
use crate::snapshot::{ObjectDump, ObjectInfo, PeerInfo, Snapshot};
use crate::status::{Endpoint, HookReply, Hooks, Source};
use crate::transfer::{Direction, Local, Request, View};

use files::Files;
pub(crate) use start::choose_registrar;
use watch::Watch;

/// Network memory on one rank of an MPI job.
///
/// Started from a communicator by all its ranks together, and finished by all together. In between any thread may use it
/// (the `mpi` route needs `MPI_THREAD_MULTIPLE` for that). Several instances may live in one process.
///
/// ```no_run
/// use lunasa::{Config, Lunasa};
///
/// let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Multiple).expect("MPI starts once");
/// let lunasa = Lunasa::start(&universe.world(), Config::new())?;
/// let object = lunasa.object().type_id("greeting").data(100)?;
/// println!("rank {} of {}: {object:?}, see {}", lunasa.rank(), lunasa.ranks(), lunasa.url());
/// drop(object);
/// lunasa.finish()?;
/// # Ok::<(), lunasa::Error>(())
/// ```
pub struct Lunasa {
    parts: ManuallyDrop<Parts>,
}

// Any thread may use an instance.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Lunasa>();
};

/// What an instance owns. Dropped in this order: the pages first, the memory last.
struct Parts {
    endpoint: Option<Endpoint>,
    files: Files,
    token: Option<String>,
    hooks: Hooks,
    _panics: Option<panics::Guard>,
    finished: bool,
    watch: Arc<Watch>,
}

impl Lunasa {
    /// Starts Lunasa on every rank of `comm`. Collective.
    ///
    /// Rank 0 reads the configuration, and all use it. Every rank comes through or every rank gets an error.
    ///
    /// # Errors
    /// [`Error::Start`] on all ranks when any of them fails, with its rank, host and reason: a wrong configuration, a limit
    /// on memory, a port that cannot be had, a launcher that split the job.
    pub fn start(comm: &impl Communicator, config: Config) -> Result<Self> {
        start::with_mpi(comm, &config, None)
    }

    /// As [`Lunasa::start`], with the program's own registrar instead of the configured one.
    ///
    /// # Errors
    /// As for [`Lunasa::start`].
    pub fn start_with(comm: &impl Communicator, config: Config, registrar: Arc<dyn Registrar>) -> Result<Self> {
        start::with_mpi(comm, &config, Some(registrar))
    }

    /// Starts Lunasa in one process by itself, without MPI.
    ///
    /// # Errors
    /// As for [`Lunasa::start`], but as they are.
    ///
    /// ```
    /// use lunasa::{Config, Lunasa};
    /// let lunasa = Lunasa::local(Config::new().set("lunasa.status.enabled", false)?)?;
    /// let mut object = lunasa.object().zeroed().data_of::<f64>(1000)?;
    /// object.data_mut::<f64>()?[7] = 1.5;
    /// let copy = lunasa.fetch(&object.handle()?)?;
    /// assert!(copy.deep_eq(&object)?);
    /// # Ok::<(), lunasa::Error>(())
    /// ```
    pub fn local(config: Config) -> Result<Self> {
        start::alone(&config, None)
    }

    /// As [`Lunasa::local`], with the program's own registrar.
    ///
    /// # Errors
    /// As for [`Lunasa::local`].
    pub fn local_with(config: Config, registrar: Arc<dyn Registrar>) -> Result<Self> {
        start::alone(&config, Some(registrar))
    }

    #[inline]
    fn watch(&self) -> &Watch {
        &self.parts.watch
    }

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.watch().regions.rank()
    }

    /// Number of ranks.
    pub fn ranks(&self) -> u32 {
        self.watch().directory.ranks()
    }

    /// Where a rank's endpoint answers; `None` when there is no such rank.
    pub fn node(&self, rank: u32) -> Option<NodeId> {
        self.watch().directory.node(rank)
    }

    /// Name of a rank's host; empty when there is no such rank.
    pub fn host(&self, rank: u32) -> &str {
        self.watch().directory.host_name(rank)
    }

    /// Bytes of the directory of all ranks. There is one copy per host.
    pub fn directory_bytes(&self) -> usize {
        self.watch().directory.bytes()
    }

    /// Address of this rank's first page, with the token that opens it; `unix:PATH` when it is a socket; empty when the
    /// endpoint is off.
    pub fn url(&self) -> String {
        let url = self.watch().url();
        match &self.parts.token {
            Some(token) if url.starts_with("http") => format!("{url}?token={token}"),
            _ => url,
        }
    }

    /// The program's own pages: `hooks().register("name", …)` answers at `/hooks/name`.
    pub fn hooks(&self) -> &Hooks {
        &self.parts.hooks
    }

    /// Answers the hooks that are to run on the program's own thread (see [`HookOptions::by_program`]); how many. To be called
    /// now and then, such as once in each step: it costs one load when nobody asks.
    ///
    /// [`HookOptions::by_program`]: crate::status::HookOptions::by_program
    pub fn poll_hooks(&self) -> usize {
        self.parts.hooks.poll()
    }

    /// Shows what is in objects of this type on their page by `dump`, instead of as bytes; see [`Hooks::register_dump`].
    pub fn register_dump(
        &self,
        type_id: impl Into<TypeId>,
        dump: impl Fn(&ObjectDump) -> HookReply + Send + Sync + 'static,
    ) {
        self.parts.hooks.register_dump(type_id.into().0, dump);
    }

    /// Describes a new object; see [`ObjectBuilder`].
    #[inline]
    pub fn object(&self) -> ObjectBuilder<'_> {
        ObjectBuilder::new(&self.watch().pools)
    }

    /// Registers the program's memory once, for any number of user objects on parts of it; see [`UserRegion`].
    ///
    /// # Errors
    /// [`Error::Registration`] when it is refused, [`Error::Closed`] after finish; the memory has then gone back.
    pub fn user_region(&self, memory: impl Into<UserMemory>) -> Result<UserRegion> {
        self.watch().pools.here(Registration::Eager).check_open("registrations")?;
        UserRegion::new(memory.into(), self.watch().regions.clone())
    }

    /// Reads the range of the handle's section (in bytes; a fresh handle names its data) into the beginning of the object's
    /// data, and waits for it. Returns how many bytes that were.
    ///
    /// # Errors
    /// [`Error::Handle`] when the handle or the range does not fit, [`Error::Object`] when the object has less room or other
    /// references, [`Error::Transfer`] when no route reaches the peer.
    pub fn get(&self, handle: &RemoteHandle, range: impl RangeBounds<usize>, object: &mut Ldo) -> Result<usize> {
        let (offset, len) = section_range(handle, range)?;
        let into = room(object, len)?;
        self.get_bytes(handle, offset, into)?;
        Ok(len)
    }

    /// Reads `into.len()` bytes from `offset` of the handle's section, and waits for them.
    ///
    /// # Errors
    /// As for [`Lunasa::get`].
    pub fn get_bytes(&self, handle: &RemoteHandle, offset: usize, into: &mut [u8]) -> Result<()> {
        let local = Local { at: into.as_mut_ptr(), len: into.len() };
        // SAFETY: borrowed mutably, until the call returns.
        unsafe { self.watch().transfers.transfer(Direction::Get, handle, offset as u64, local) }
    }

    /// Begins to read as [`Lunasa::get`] does; the request gives the object back.
    ///
    /// # Errors
    /// As for [`Lunasa::get`]; the object is dropped then.
    pub fn start_get(&self, handle: &RemoteHandle, range: impl RangeBounds<usize>, mut object: Ldo) -> Result<Request> {
        let (offset, len) = section_range(handle, range)?;
        let at = room(&mut object, len)?.as_mut_ptr();
        // SAFETY: the object's own memory; it has no other reference, and the request keeps it.
        unsafe { self.begin(Direction::Get, handle, offset, Local { at, len }, object) }
    }

    /// Writes the object's data to the beginning of the handle's section, and waits until they are there.
    ///
    /// # Errors
    /// [`Error::Handle`] when the handle does not fit, or is read-only; [`Error::Transfer`] when no route reaches the peer.
    pub fn put(&self, object: &Ldo, handle: &RemoteHandle) -> Result<()> {
        self.put_bytes(object.data::<u8>()?, handle, 0)
    }

    /// Writes the bytes to `offset` of the handle's section, and waits until they are there.
    ///
    /// # Errors
    /// As for [`Lunasa::put`].
    pub fn put_bytes(&self, bytes: &[u8], handle: &RemoteHandle, offset: usize) -> Result<()> {
        let local = Local { at: bytes.as_ptr().cast_mut(), len: bytes.len() };
        // SAFETY: borrowed until the call returns; a put only reads.
        unsafe { self.watch().transfers.transfer(Direction::Put, handle, offset as u64, local) }
    }

    /// Begins to write the range (in bytes) of the object's data to `offset` of the handle's section. The request holds a
    /// reference, so the object cannot be changed meanwhile.
    ///
    /// # Errors
    /// As for [`Lunasa::put`], and [`Error::Object`] when the range is not within the data.
    pub fn start_put(
        &self,
        object: &Ldo,
        range: impl RangeBounds<usize>,
        handle: &RemoteHandle,
        offset: usize,
    ) -> Result<Request> {
        let data = object.data::<u8>()?;
        let part =
            within(range, data.len()).and_then(|(start, len)| data.get(start..start + len)).ok_or_else(|| {
                Error::Object(format!("the range to put is not within the object's data of {} bytes", data.len()))
            })?;
        let local = Local { at: part.as_ptr().cast_mut(), len: part.len() };
        // SAFETY: the object's own memory, only read; the request keeps a reference.
        unsafe { self.begin(Direction::Put, handle, offset, local, object.clone()) }
    }

    /// # Safety
    /// `local` lies in `object`; for a get there is no other reference to it.
    unsafe fn begin(
        &self,
        direction: Direction,
        handle: &RemoteHandle,
        offset: usize,
        local: Local,
        object: Ldo,
    ) -> Result<Request> {
        // A second pointer to the object, for the route to keep; which of the two is used is decided by the outcome.
        let kept = object.clone();
        // SAFETY: the caller's promise; `kept` keeps the memory until the operation is over.
        match unsafe { self.watch().transfers.start(direction, handle, offset as u64, local, Some(kept)) }? {
            None => Ok(Request::done(object)),
            Some(operation) => Ok(Request::under_way(operation)),
        }
    }

    /// Copies a peer's object: a new eager object here, with its type, metadata and data.
    ///
    /// # Errors
    /// As for [`Lunasa::get`], and those of allocating.
    #[track_caller]
    pub fn fetch(&self, handle: &RemoteHandle) -> Result<Ldo> {
        let mut object = self.room_for(handle)?;
        let (at, len) = object.body_mut()?;
        // SAFETY: a fresh object's memory, waited for.
        unsafe { self.watch().transfers.transfer(Direction::Get, &whole(handle), BODY, Local { at, len }) }?;
        Ok(object)
    }

    /// Begins to copy a peer's object; the request gives the new one.
    ///
    /// # Errors
    /// As for [`Lunasa::fetch`].
    #[track_caller]
    pub fn start_fetch(&self, handle: &RemoteHandle) -> Result<Request> {
        let mut object = self.room_for(handle)?;
        let (at, len) = object.body_mut()?;
        // SAFETY: a fresh object's memory, which the request keeps.
        unsafe { self.begin(Direction::Get, &whole(handle), BODY as usize, Local { at, len }, object) }
    }

    #[track_caller]
    fn room_for(&self, handle: &RemoteHandle) -> Result<Ldo> {
        handle.check()?;
        self.object().type_id(handle.type_id()).meta(handle.meta_len()).data(handle.data_len())
    }

    /// A peer's object on this host, as it lies in the peer's memory: nothing is copied.
    ///
    /// # Errors
    /// As for [`Lunasa::get`]; [`Error::Transfer`] when the object is on another host, or its memory cannot be mapped.
    pub fn view(&self, handle: &RemoteHandle) -> Result<View> {
        self.watch().transfers.view(handle)
    }

    /// Serves peers' requests that came by the `mpi` route, without waiting. Needed now and then while computing when MPI
    /// has no `MPI_THREAD_MULTIPLE`; otherwise a thread does it, and this does no harm. Returns whether there was anything.
    pub fn progress(&self) -> bool {
        self.watch().transfers.mpi().is_some_and(|mpi| mpi.progress())
    }

    /// This rank at this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.watch().snapshot()
    }

    /// Every rank, and how it is reached from here.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.watch().peers()
    }

    /// At most `limit` live objects of a pool, by its name; of all eager or lazy ones with `eager` or `lazy`.
    pub fn objects(&self, pool: &str, limit: usize) -> Vec<ObjectInfo> {
        self.watch().list(pool, limit)
    }

    /// Makes sure that objects of `bytes` in all can be allocated eagerly without mapping or registering anything more,
    /// for programs that know what they will need. With `lunasa.numa.policy = "per-node"` that is the pool of the node near
    /// the calling thread.
    ///
    /// # Errors
    /// [`Error::Memory`] or [`Error::Registration`] with the limit that was hit.
    pub fn reserve(&self, bytes: usize) -> Result<()> {
        self.watch().pools.here(Registration::Eager).reserve(bytes)
    }

    /// Walks every structure of all pools and proves that each byte is in exactly one place, and that no live object was
    /// damaged. With `lunasa.debug.poison` also that nobody wrote into freed memory since the start. To be called while no
    /// other thread of this process allocates or drops objects.
    ///
    /// # Errors
    /// [`Error::Memory`] with the first thing that is not as it must be.
    pub fn check(&self) -> Result<()> {
        self.watch().pools.all().iter().try_for_each(|pool| object::check(pool))
    }

    /// Ends Lunasa on every rank. Collective: waits for all ranks, serving them meanwhile.
    ///
    /// Objects that are still alive are reported; their memory stays valid for those who hold them, until the process ends,
    /// and handles to them become errors.
    ///
    /// # Errors
    /// What MPI or the registrar says; the instance is closed all the same. [`Error::Closed`] in a forked child, where it
    /// does nothing.
    pub fn finish(mut self) -> Result<LeakReport> {
        memory::not_in_forked_child()?;
        let parts = &mut *self.parts;
        let drained = parts.watch.transfers.mpi().map_or(Ok(()), |mpi| mpi.finish());
        let registrations = parts.watch.registrations();
        let report = LeakReport { registrations, ..object::leaks(parts.watch.pools.all()) };
        let rank = parts.watch.regions.rank();
        if report.objects() + report.late_writes.count > 0 {
            tracing::warn!("rank {rank} finishes with {report}");
        } else {
            tracing::info!("rank {rank} finishes with {report}");
        }
        parts.finished = true;
        drained.and(parts.close())?;
        Ok(report)
    }
}

impl Parts {
    /// Stops the threads, ends the registrations, and leaves to live objects the memory they are in.
    fn close(&mut self) -> Result<()> {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.stop();
        }
        self.files = Files::default();
        if let Some(mpi) = self.watch.transfers.mpi() {
            mpi.stop_thread();
        }
        if let Some(verbs) = self.watch.transfers.verbs() {
            verbs.close();
        }
        self.watch.pools.all().iter().for_each(|pool| pool.close());
        if let Some(recorder) = &self.watch.recorder {
            recorder.finish();
        }
        let ended = self.watch.regions.deregister_all();
        for pool in self.watch.pools.all().iter().filter(|pool| pool.live() > 0) {
            // Live objects point to their pool: it is left to them until the process ends.
            std::mem::forget(pool.clone());
        }
        let freed = match self.watch.transfers.mpi() {
            Some(mpi) if self.finished => mpi.free(),
            _ => Ok(()),
        };
        ended.and(freed)
    }
}

impl Drop for Lunasa {
    fn drop(&mut self) {
        // A forked child shares memory, ports and MPI with its parent: it leaves them alone.
        if memory::in_forked_child() {
            return;
        }
        if !self.parts.finished {
            tracing::warn!("rank {} drops Lunasa without finish", self.parts.watch.regions.rank());
            if let Err(error) = self.parts.close() {
                tracing::error!("{error}");
            }
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.parts) };
    }
}

impl std::fmt::Debug for Lunasa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lunasa(rank {} of {} on {})", self.rank(), self.ranks(), self.host(self.rank()))
    }
}

/// Where metadata and data begin in the section [`Section::Object`].
const BODY: u64 = (object::HEAD - object::LOCAL) as u64;

fn whole(handle: &RemoteHandle) -> RemoteHandle {
    handle.section(Section::Object)
}

/// Start and length of a range over `len` bytes; `None` when it runs backwards.
fn within(range: impl RangeBounds<usize>, len: usize) -> Option<(usize, usize)> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.checked_add(1)?,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len.max(start),
    };
    Some((start, end.checked_sub(start)?))
}

fn section_range(handle: &RemoteHandle, range: impl RangeBounds<usize>) -> Result<(usize, usize)> {
    handle.check()?;
    let (_, len) = handle.section_range()?;
    within(range, len as usize).ok_or_else(|| Error::Object("the range ends before it begins".to_owned()))
}

/// The first `len` bytes of the object's data.
fn room(object: &mut Ldo, len: usize) -> Result<&mut [u8]> {
    let data_len = object.data_len();
    object.data_mut::<u8>()?.get_mut(..len).ok_or_else(|| {
        Error::Object(format!(
            "{len} bytes are to be read into an object with {data_len} bytes of data; allocate or resize it"
        ))
    })
}
