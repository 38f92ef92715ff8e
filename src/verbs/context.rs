//! An opened device, and how one is chosen.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use rdma_sys::{
    ___ibv_query_port, ibv_close_device, ibv_context, ibv_device_attr, ibv_get_device_name, ibv_gid, ibv_open_device,
    ibv_port_attr, ibv_query_device, ibv_query_gid,
};

use super::device::{Device, Devices};
use super::port::Port;
use crate::config::{self, Settings};
use crate::error::{Error, Result};
use crate::memory;

/// Which device, port and GID to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    /// Its name; empty: the nearest to `near` that has an active port.
    pub device: &'a str,
    /// From 1; 0: the first active one.
    pub port: u8,
    /// None: the best.
    pub gid_index: Option<u8>,
    /// This rank's NUMA node.
    pub near: Option<u32>,
}

impl<'a> Wanted<'a> {
    /// What the configuration asks for, for a rank near this NUMA node.
    pub(crate) fn of(settings: &'a Settings, near: Option<u32>) -> Self {
        let gid_index = u8::try_from(settings.verbs_gid_index).ok();
        Self { device: &settings.verbs_device, port: settings.verbs_port, gid_index, near }
    }
}

/// An opened device.
pub(crate) struct Context {
    raw: NonNull<ibv_context>,
    /// Whether it is ours to close.
    owned: bool,
    name: String,
    limits: ibv_device_attr,
}

// SAFETY: libibverbs may be called from any thread; nothing here is changed after it was made.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the device that is wanted, and chooses its port.
    ///
    /// # Errors
    /// [`Error::Device`] when there is none, or none that can be used, with what is wrong with each.
    pub(crate) fn open(wanted: &Wanted<'_>) -> Result<(Arc<Self>, Port)> {
        let devices = Devices::list()?;
        let mut all: Vec<Device<'_>> = devices.iter().collect();
        if all.is_empty() {
            return Err(Error::Device(
                "there is no RDMA device on this host (`ibv_devices` lists them); load its driver, or leave \
                 lunasa.registrar to \"auto\" or \"host\""
                    .to_owned(),
            ));
        }
        if !wanted.device.is_empty() {
            let names: Vec<String> = all.iter().map(Device::name).collect();
            all.retain(|device| device.name() == wanted.device);
            if all.is_empty() {
                return Err(no_such(wanted.device, &names));
            }
        }
        all.sort_by_key(|device| device.distance(wanted.near));
        let mut refusals = Vec::new();
        for device in all {
            let opened = Self::of(&device)
                .and_then(|context| Port::choose(&context, wanted.port, wanted.gid_index).map(|port| (context, port)));
            match opened {
                Ok((context, port)) => return Ok((Arc::new(context), port)),
                Err(why) => refusals.push(format!("{}: {why}", device.name())),
            }
        }
        Err(Error::Device(refusals.join("; ")))
    }

    fn of(device: &Device<'_>) -> Result<Self, String> {
        // SAFETY: a device of a list that lives.
        let raw = NonNull::new(unsafe { ibv_open_device(device.raw().as_ptr()) });
        let raw = raw.ok_or_else(|| {
            let (error, file) = (io::Error::last_os_error(), device.file());
            // libibverbs looks in other places too and tells of the last; what is wrong with the file itself says more.
            let direct = std::fs::OpenOptions::new().read(true).write(true).open(&file);
            cannot_open(&file, &direct.err().unwrap_or(error))
        })?;
        // SAFETY: opened just now, and owned from here on.
        unsafe { Self::new(raw, true) }
    }

    /// # Safety
    /// The context is open, and stays so as long as this does unless `owned`, which gives it to this.
    pub(super) unsafe fn new(raw: NonNull<ibv_context>, owned: bool) -> Result<Self, String> {
        // SAFETY: open, so it has a device with a name.
        let name = unsafe { std::ffi::CStr::from_ptr(ibv_get_device_name(raw.as_ref().device)) };
        // SAFETY: plain numbers, of which zero is a valid value.
        let limits = unsafe { MaybeUninit::<ibv_device_attr>::zeroed().assume_init() };
        let mut context = Self { raw, owned, name: name.to_string_lossy().into_owned(), limits };
        // SAFETY: open, and the attributes are writable.
        match unsafe { ibv_query_device(raw.as_ptr(), &mut context.limits) } {
            0 => Ok(context),
            code => Err(format!("it does not say its limits: {}", io::Error::from_raw_os_error(code))),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the device can do at most.
    pub(crate) fn limits(&self) -> &ibv_device_attr {
        &self.limits
    }

    pub(super) fn raw(&self) -> NonNull<ibv_context> {
        self.raw
    }

    /// Its ports, by number from 1.
    pub(super) fn ports(&self) -> Vec<(u8, ibv_port_attr)> {
        let ports = (1..=self.limits.phys_port_cnt).filter_map(|number| {
            // SAFETY: plain numbers, of which zero is a valid value.
            let mut port = unsafe { MaybeUninit::<ibv_port_attr>::zeroed().assume_init() };
            // SAFETY: open, and the attributes are writable. The function of the plain name is of an older interface with
            // smaller attributes.
            let code = unsafe { ___ibv_query_port(self.raw.as_ptr(), number, &mut port) };
            (code == 0).then_some((number, port))
        });
        ports.collect()
    }

    /// A port's GID, when the table has that index.
    pub(super) fn gid(&self, port: u8, index: u8) -> Option<ibv_gid> {
        let mut gid = ibv_gid { raw: [0; 16] };
        // SAFETY: open, and the GID is writable.
        let code = unsafe { ibv_query_gid(self.raw.as_ptr(), port, index.into(), &mut gid) };
        (code == 0).then_some(gid)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.owned && !memory::in_forked_child() {
            // SAFETY: opened by us, and nothing that was made from it is left: each such thing keeps it alive.
            unsafe { ibv_close_device(self.raw.as_ptr()) };
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.name)
    }
}

fn no_such(name: &str, names: &[String]) -> Error {
    let near = config::nearest(name, names.iter().map(String::as_str));
    Error::Device(format!(
        "lunasa.verbs.device = {name:?}: there is no such device, did you mean {near:?}? This host has {}",
        names.join(", ")
    ))
}

fn cannot_open(file: &str, error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!("; give this user access to {file} (often by the group \"rdma\")"),
        Some(libc::EMFILE) => "; raise the limit on open files with `ulimit -n`".to_owned(),
        _ => format!("; is {file} there, and the device's library (ibverbs-providers) installed?"),
    };
    format!("cannot be opened: {error}{advice}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_that_is_not_there_is_told_which_are() {
        let error = no_such("mlx5_O", &["rxe0".to_owned(), "mlx5_0".to_owned()]);
        assert_eq!(
            error.to_string(),
            "device: lunasa.verbs.device = \"mlx5_O\": there is no such device, did you mean \"mlx5_0\"? This host has \
             rxe0, mlx5_0"
        );
    }

    #[test]
    fn a_device_that_cannot_be_had_is_one_clear_error() {
        let wanted = Wanted { device: "no-such-device", port: 0, gid_index: None, near: None };
        let error = Context::open(&wanted).unwrap_err().to_string();
        let expected = ["there is no RDMA device on this host", "no-such-device\": there is no such device"];
        assert!(expected.iter().any(|text| error.contains(text)), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_device_without_permission_names_its_file() {
        let why = cannot_open("/dev/infiniband/uverbs0", &io::Error::from_raw_os_error(libc::EACCES));
        assert!(why.contains("Permission denied") && why.contains("access to /dev/infiniband/uverbs0"), "{why}");
    }
}
