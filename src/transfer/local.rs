//! The `self` route: the object is this rank's own.

use super::view::{Keep, View};
use super::{Direction, Local, Outcome};
use crate::error::Result;
use crate::memory;
use crate::object::{PinnedObject, RemoteHandle};
use crate::registrar::Regions;

/// # Safety
/// As for [`super::Transfers::transfer`].
pub(super) unsafe fn copy(
    regions: &Regions,
    direction: Direction,
    handle: &RemoteHandle,
    offset: u64,
    local: Local,
) -> Result<Outcome> {
    let object = PinnedObject::acquire(regions, handle)?;
    let mut at = local.at;
    for (remote, len) in object.ranges(handle, offset, local.len as u64)? {
        // SAFETY: both are valid for `len` bytes: the object is pinned, and the lengths add up to `local.len`.
        unsafe {
            match direction {
                Direction::Get => memory::copy(remote, at, len),
                Direction::Put => memory::copy(at, remote, len),
            }
            at = at.add(len);
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn view(regions: &Regions, handle: &RemoteHandle) -> Result<View> {
    let object = PinnedObject::acquire(regions, handle)?;
    let (start, _) = handle.section(crate::object::Section::Meta).section_range()?;
    debug_assert_eq!(start as usize, crate::object::HEAD);
    let whole = handle.section(crate::object::Section::Object);
    let meta = object.ranges(&whole, 16, handle.meta_len() as u64)?;
    let data = object.ranges(&whole, 16 + handle.meta_len() as u64, handle.data_len() as u64)?;
    let one = |parts: [(*mut u8, usize); 2]| if parts[1].1 > 0 { parts[1] } else { parts[0] };
    Ok(View::new(*handle, one(meta), one(data), Keep::Own(object)))
}
