//! Protection domains, and the memory regions registered in them.

use std::ffi::c_uint;
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rdma_sys::{ibv_access_flags, ibv_alloc_pd, ibv_dealloc_pd, ibv_dereg_mr, ibv_mr, ibv_pd, ibv_reg_mr_iova2};

use super::context::Context;
use crate::memory;

/// What peers may do with registered memory.
const ACCESS: c_uint = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0
    | ibv_access_flags::IBV_ACCESS_REMOTE_READ.0
    | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;

/// The device may write in any order what lies before a completion.
const RELAXED: c_uint = ibv_access_flags::IBV_ACCESS_RELAXED_ORDERING.0;

/// A page to try a registration with.
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "only its address is used")] [u8; 4096]);

/// A protection domain: what memory regions and queue pairs must share to work together.
pub(crate) struct Domain {
    pd: NonNull<ibv_pd>,
    /// Whether it is ours to end.
    owned: bool,
    /// What memory is registered with: as above, and in relaxed order where the device takes that.
    access: c_uint,
    /// Regions registered in it now.
    regions: AtomicU64,
    context: Arc<Context>,
}

// SAFETY: libibverbs may be called from any thread; only the count changes, and it is atomic.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A domain of our own on a device.
    ///
    /// # Errors
    /// The device's refusal, of the domain or of a first page of memory.
    pub(crate) fn new(context: Arc<Context>) -> io::Result<Arc<Self>> {
        // SAFETY: the context is open.
        let pd = NonNull::new(unsafe { ibv_alloc_pd(context.raw().as_ptr()) }).ok_or_else(io::Error::last_os_error)?;
        Self::with(pd, true, context)
    }

    /// The program's own domain.
    ///
    /// # Errors
    /// In words, when its device does not answer or registers nothing in it.
    ///
    /// # Safety
    /// The domain and its context are open, and stay so as long as this does.
    pub(crate) unsafe fn borrowed(pd: NonNull<ibv_pd>) -> Result<Arc<Self>, String> {
        // SAFETY: the domain is open.
        let context = NonNull::new(unsafe { pd.as_ref().context }).ok_or("the protection domain has no device")?;
        // SAFETY: the caller's promise.
        let context = unsafe { Context::new(context, false) }?;
        Self::with(pd, false, Arc::new(context)).map_err(|error| format!("its device registers no page: {error}"))
    }

    fn with(pd: NonNull<ibv_pd>, owned: bool, context: Arc<Context>) -> io::Result<Arc<Self>> {
        let domain = |access| Self { pd, owned, access, regions: AtomicU64::new(0), context };
        let mut domain = domain(ACCESS | RELAXED);
        let page = Box::new(Page([0; 4096]));
        let base = NonNull::from(&*page).cast();
        let tried = domain.try_register(base, size_of::<Page>()).or_else(|_| {
            domain.access = ACCESS;
            domain.try_register(base, size_of::<Page>())
        })?;
        // SAFETY: registered just now, and ended once. Were it refused, the page is left to the device.
        match unsafe { ibv_dereg_mr(tried.as_ptr()) } {
            0 => drop(page),
            _ => std::mem::forget(page),
        }
        Ok(Arc::new(domain))
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn raw(&self) -> NonNull<ibv_pd> {
        self.pd
    }

    /// Whether the device may write in any order what lies before a completion.
    pub(crate) fn is_relaxed(&self) -> bool {
        self.access & RELAXED != 0
    }

    /// Regions registered in it now.
    pub(crate) fn regions(&self) -> u64 {
        self.regions.load(Ordering::Relaxed)
    }

    fn try_register(&self, base: NonNull<u8>, len: usize) -> io::Result<NonNull<ibv_mr>> {
        let at = base.as_ptr();
        // SAFETY: the domain is open. Registering writes nothing; a range that is not mapped is refused. Of the two
        // functions this is the one that knows the flag for relaxed ordering, and leaves it out on kernels that don't.
        let mr =
            unsafe { ibv_reg_mr_iova2(self.pd.as_ptr(), at.cast(), len, at.expose_provenance() as u64, self.access) };
        NonNull::new(mr).ok_or_else(io::Error::last_os_error)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if self.owned && !memory::in_forked_child() {
            // SAFETY: allocated by us, and no region of it is left, as each keeps it alive.
            let code = unsafe { ibv_dealloc_pd(self.pd.as_ptr()) };
            if code != 0 {
                let error = io::Error::from_raw_os_error(code);
                tracing::warn!("{}: a protection domain is not given back: {error}", self.context.name());
            }
        }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({}, {} regions)", self.context.name(), self.regions())
    }
}

/// A range of memory that the device knows, until this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryRegion {
    /// None once it was ended.
    mr: Option<NonNull<ibv_mr>>,
    local_key: u32,
    remote_key: u32,
    domain: Arc<Domain>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for MemoryRegion {}
// SAFETY: nothing here is changed through a shared reference.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers a range for local writes, and for remote reads and writes at its own addresses.
    ///
    /// # Errors
    /// The device's refusal.
    ///
    /// # Safety
    /// The range is mapped, and stays so until the region is gone.
    pub(crate) unsafe fn register(domain: &Arc<Domain>, base: NonNull<u8>, len: usize) -> io::Result<Self> {
        let mr = domain.try_register(base, len)?;
        domain.regions.fetch_add(1, Ordering::Relaxed);
        // SAFETY: registered just now.
        let (local_key, remote_key) = unsafe { (mr.as_ref().lkey, mr.as_ref().rkey) };
        Ok(Self { mr: Some(mr), local_key, remote_key, domain: domain.clone() })
    }

    /// What a local work request names the memory by.
    pub(crate) fn local_key(&self) -> u32 {
        self.local_key
    }

    /// What a remote one names it by.
    pub(crate) fn remote_key(&self) -> u32 {
        self.remote_key
    }

    /// Ends the registration.
    ///
    /// # Errors
    /// The device's refusal. It may still use the memory, and its domain is never given back.
    pub(crate) fn deregister(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(mr) = self.mr.take() else { return Ok(()) };
        // SAFETY: registered, and ended once: it was taken.
        match unsafe { ibv_dereg_mr(mr.as_ptr()) } {
            0 => {
                self.domain.regions.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
            code => {
                std::mem::forget(self.domain.clone());
                Err(io::Error::from_raw_os_error(code))
            }
        }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        if !memory::in_forked_child()
            && let Err(error) = self.end()
        {
            tracing::error!("{}: a memory region is not given back: {error}", self.domain.context.name());
        }
    }
}
