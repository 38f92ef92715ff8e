//! The devices of this host, as libibverbs and `/sys` know them.

use std::ffi::{CStr, c_char};
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

use rdma_sys::{ibv_device, ibv_free_device_list, ibv_get_device_list};

use crate::error::{Error, Result};

/// The list of this host's devices; freed when dropped.
#[derive(Debug)]
pub(super) struct Devices {
    /// None when there is no device, and no list to free.
    list: Option<NonNull<*mut ibv_device>>,
    len: usize,
}

/// One device of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Device<'a> {
    raw: NonNull<ibv_device>,
    list: PhantomData<&'a Devices>,
}

impl Devices {
    /// Asks libibverbs. A host whose kernel knows no RDMA has no devices; that is no error.
    ///
    /// # Errors
    /// [`Error::Device`] when the list cannot be read.
    pub(super) fn list() -> Result<Self> {
        let mut count = 0;
        // SAFETY: `count` is writable.
        let list = NonNull::new(unsafe { ibv_get_device_list(&mut count) });
        let error = io::Error::last_os_error();
        match (list, error.raw_os_error()) {
            (Some(_), _) => Ok(Self { list, len: usize::try_from(count).unwrap_or(0) }),
            (None, Some(libc::ENOSYS)) => Ok(Self { list, len: 0 }),
            (None, _) => Err(Error::Device(format!(
                "the RDMA devices cannot be listed: {error}; may this user read /sys/class/infiniband_verbs?"
            ))),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Device<'_>> {
        (0..self.len).filter_map(|at| {
            let list = self.list?;
            // SAFETY: the list has `len` entries, and is freed no sooner than `self`.
            let raw = unsafe { *list.as_ptr().add(at) };
            Some(Device { raw: NonNull::new(raw)?, list: PhantomData })
        })
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        if let Some(list) = self.list {
            // SAFETY: from `ibv_get_device_list`, and freed once; what was opened from it has its own reference.
            unsafe { ibv_free_device_list(list.as_ptr()) };
        }
    }
}

impl Device<'_> {
    pub(super) fn raw(&self) -> NonNull<ibv_device> {
        self.raw
    }

    /// Its name, such as `mlx5_0`.
    pub(super) fn name(&self) -> String {
        // SAFETY: a device of a list that lives.
        text(unsafe { &self.raw.as_ref().name })
    }

    /// The file through which it is used.
    pub(super) fn file(&self) -> String {
        // SAFETY: as above.
        format!("/dev/infiniband/{}", text(unsafe { &self.raw.as_ref().dev_name }))
    }

    /// How far its NUMA node is from `node`, by the kernel's table (10 is the same node); the greatest number when that is
    /// not known, as for a device in software.
    pub(super) fn distance(&self, node: Option<u32>) -> u32 {
        let known = node_of(&self.name()).zip(node);
        known.and_then(|(own, node)| distance(node, own)).unwrap_or(u32::MAX)
    }
}

/// The NUMA node of the device of this name, when it is on one.
pub(crate) fn node_of(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/infiniband/{name}/device/numa_node")).ok()?.trim().parse().ok()
}

/// The kernel's distance between two NUMA nodes; 10 is the same one.
pub(crate) fn distance(from: u32, to: u32) -> Option<u32> {
    let table = fs::read_to_string(format!("/sys/devices/system/node/node{from}/distance")).ok()?;
    let online = fs::read_to_string("/sys/devices/system/node/online").ok()?;
    entry(&table, &online.parse().ok()?, to)
}

/// The number for node `to` in a line that has one for each node that is online.
fn entry(table: &str, online: &crate::topology::CpuList, to: u32) -> Option<u32> {
    let column = online.iter().position(|node| node == to)?;
    table.split_whitespace().nth(column)?.parse().ok()
}

/// A C string in an array.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|char| *char as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_nodes_distance_is_in_the_column_of_its_place_among_those_online() {
        let online = "0,2-3".parse().unwrap();
        assert_eq!([0, 1, 2, 3].map(|to| entry("21 10 31\n", &online, to)), [Some(21), None, Some(10), Some(31)]);
        assert_eq!(entry("10", &online, 3), None);
    }

    #[test]
    fn a_host_without_rdma_has_no_devices_and_no_error() {
        let names: Vec<String> = Devices::list().unwrap().iter().map(|device| device.name()).collect();
        let expected = fs::read_dir("/sys/class/infiniband_verbs").map_or(0, |entries| entries.count());
        assert!(names.len() <= expected, "{names:?}");
        assert!(names.iter().all(|name| !name.is_empty()), "{names:?}");
    }
}
