//! The registrar for a real RDMA device: one memory region for each registration.

use std::any::Any;
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::{RegionKeys, Registrar, RegistrarLimits};
use crate::error::{Error, Result};
use crate::memory::Pins;
use crate::sizes::bytes;
use crate::verbs::{Context, Domain, MemoryRegion, Port, Wanted};

/// What kind of network a rank's device is on: those of two ranks reach each other only when they are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// No device, or none with an active port.
    None = 0,
    Ethernet = 1,
    InfiniBand = 2,
}

impl Network {
    pub(crate) fn of(port: &Port) -> Self {
        if port.ethernet { Self::Ethernet } else { Self::InfiniBand }
    }

    /// That of a registrar's device.
    pub(crate) fn reached_by(registrar: &dyn Registrar) -> Self {
        let registrar: &dyn Any = registrar;
        registrar.downcast_ref::<VerbsRegistrar>().and_then(VerbsRegistrar::port).map_or(Self::None, Self::of)
    }
}

/// Registers memory with an RDMA device: for local writes, and for remote reads and writes at the memory's own addresses,
/// in relaxed order where the device takes that.
///
/// `lunasa.registrar` makes one of the configured device. A program with verbs code of its own gives Lunasa its protection
/// domain, and can then use the keys of every [`Segment`](crate::Segment) in its own work requests.
pub struct VerbsRegistrar {
    domain: Arc<Domain>,
    /// What the `verbs` route goes by; of the program's own domain, if its device has an active one.
    port: Option<Port>,
}

impl VerbsRegistrar {
    /// On the device that is wanted, which is said to whoever listens.
    pub(crate) fn open(wanted: &Wanted<'_>) -> Result<Self> {
        let (context, port) = Context::open(wanted)?;
        let name = context.name().to_owned();
        let pins = Pins::read();
        let domain = Domain::new(context).map_err(|error| {
            let advice = pins.advice();
            Error::Device(format!("{name}: a first page cannot be registered: {error}; {pins}; {advice}"))
        })?;
        let order = if domain.is_relaxed() { "relaxed" } else { "strict" };
        tracing::info!("registrar verbs: device {name}, {port}, {order} order");
        Ok(Self { domain, port: Some(port) })
    }

    /// In the program's own protection domain, for [`Lunasa::start_with`](crate::Lunasa::start_with). `domain` is what
    /// `ibv_alloc_pd` gave, whichever bindings it was called by. The `verbs` route then goes by the first active port of its
    /// device.
    ///
    /// # Errors
    /// [`Error::Device`] when the pointer is null, or the device does not answer.
    ///
    /// # Safety
    /// The domain and its context are open, and stay so until Lunasa has finished and the registrar is dropped.
    pub unsafe fn from_domain(domain: *mut rdma_sys::ibv_pd) -> Result<Self> {
        let domain = NonNull::new(domain).ok_or_else(|| {
            Error::Device("the protection domain is a null pointer; did ibv_alloc_pd fail?".to_owned())
        })?;
        // SAFETY: the caller's promise.
        let domain = unsafe { Domain::borrowed(domain) }
            .map_err(|why| Error::Device(format!("the program's protection domain: {why}")))?;
        let port = Port::choose(domain.context(), 0, None)
            .inspect_err(|why| tracing::info!("{}: no verbs route: {why}", domain.context().name()))
            .ok();
        Ok(Self { domain, port })
    }

    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// The port to talk to peers by.
    pub(crate) fn port(&self) -> Option<&Port> {
        self.port.as_ref()
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        self.domain.context().name()
    }

    /// What a refusal is about, as far as its number and the limits tell.
    fn refused(&self, base: NonNull<u8>, len: usize, error: &io::Error, pins: Pins) -> Error {
        let limits = self.domain.context().limits();
        let reason = if len as u64 > limits.max_mr_size {
            format!(
                "the device takes at most {} at once; lower lunasa.tcmalloc.max_system_alloc, or bring smaller memory",
                bytes(limits.max_mr_size)
            )
        } else if error.raw_os_error() == Some(libc::ENOMEM) && pins.refuse(base, len) {
            format!("{pins}; {}", pins.advice())
        } else if error.raw_os_error() == Some(libc::ENOMEM) {
            format!(
                "{pins}, which is not the reason; {} of the device's {} regions are this process's: allocate eagerly or in \
                 larger blocks (lunasa.tcmalloc.min_system_alloc), or free memory on this host",
                self.domain.regions(),
                limits.max_mr
            )
        } else if error.raw_os_error() == Some(libc::EFAULT) {
            "some of the range is not mapped, or may not be written; bring memory that is both".to_owned()
        } else {
            format!("{pins}; the device's limits are {} regions of {}", limits.max_mr, bytes(limits.max_mr_size))
        };
        let (device, len) = (self.device(), bytes(len as u64));
        Error::Registration(format!("{device} does not register {len} at {base:?}: {error}; {reason}"))
    }
}

impl fmt::Debug for VerbsRegistrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerbsRegistrar({})", self.device())
    }
}

// SAFETY: a device writes to memory only for a peer who was given its key, or for a work request of the program's own, and
// once a region was ended it does not.
unsafe impl Registrar for VerbsRegistrar {
    fn name(&self) -> &str {
        "verbs"
    }

    fn limits(&self) -> RegistrarLimits {
        let limits = self.domain.context().limits();
        // Devices in software say a number that no memory reaches.
        let region_bytes = Some(limits.max_mr_size).filter(|most| *most < 1 << 60);
        RegistrarLimits { region_bytes, regions: u64::try_from(limits.max_mr).ok() }
    }

    unsafe fn register(&self, base: NonNull<u8>, len: usize) -> Result<RegionKeys> {
        // What is pinned before, since a refused attempt may leave traces for a moment.
        let pins = Pins::read();
        // SAFETY: the caller's promise.
        let region = unsafe { MemoryRegion::register(&self.domain, base, len) }
            .map_err(|error| self.refused(base, len, &error, pins))?;
        let (local, remote) = (region.local_key(), region.remote_key());
        let cookie = Box::into_raw(Box::new(region)).expose_provenance() as u64;
        Ok(RegionKeys { local, remote, cookie })
    }

    unsafe fn deregister(&self, base: NonNull<u8>, len: usize, keys: RegionKeys) -> Result<()> {
        let region = std::ptr::with_exposed_provenance_mut::<MemoryRegion>(keys.cookie as usize);
        // SAFETY: the keys are those of one registration, whose region was leaked there, and this is its end.
        let region = unsafe { Box::from_raw(region) };
        region.deregister().map_err(|error| {
            let (device, len) = (self.device(), bytes(len as u64));
            Error::Registration(format!(
                "{device} does not deregister {len} at {base:?}: {error}; the memory stays mapped"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_domain_that_is_none_is_an_error() {
        // SAFETY: no domain is given.
        let error = unsafe { VerbsRegistrar::from_domain(std::ptr::null_mut()) }.unwrap_err();
        assert!(error.to_string().contains("null pointer"), "{error}");
    }
}
