//! Memory of the program that is registered once, for any number of user objects on parts of it.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use super::user::UserMemory;
use crate::error::{Error, Result};
use crate::memory;
use crate::registrar::{Region, Regions};

/// The program's memory, registered once; its parts become the data of user objects without any further registration.
///
/// Registering takes microseconds and time for each page; a program that sends other parts of one large buffer again and
/// again registers the buffer, and then makes and drops objects on its parts for the price of small allocations. Each byte
/// is part of at most one object at a time. The registration ends, and then the memory goes back, when the region and the
/// last object on it are dropped.
///
/// ```
/// # use lunasa::{Config, Lunasa};
/// # let lunasa = Lunasa::local(Config::new().ignore_environment().set("lunasa.status.enabled", false)?)?;
/// let field = lunasa.user_region(vec![0f64; 1_000_000])?;
/// for row in 0..1000 {
///     let object = lunasa.object().user(field.slice(row * 8000..(row + 1) * 8000)?)?;
///     let handle = object.handle()?; // names the row to other ranks
/// #   assert_eq!(handle.data_len(), 8000);
/// }
/// # Ok::<(), lunasa::Error>(())
/// ```
#[derive(Clone)]
pub struct UserRegion(Arc<Shared>);

/// What the region and the objects on it share.
pub(super) struct Shared {
    memory: ManuallyDrop<UserMemory>,
    /// None when the memory has no bytes.
    region: Option<Region>,
    regions: Arc<Regions>,
    /// Where the parts begin and end that objects have now.
    lent: Mutex<BTreeMap<usize, usize>>,
}

impl UserRegion {
    pub(crate) fn new(memory: UserMemory, regions: Arc<Regions>) -> Result<Self> {
        let (base, len) = (memory.base(), memory.len());
        // SAFETY: the memory stays until it goes back, and `Shared` ends the registration before that.
        let region = if len > 0 { Some(unsafe { regions.register(base, len, None) }?) } else { None };
        let (memory, lent) = (ManuallyDrop::new(memory), Mutex::default());
        Ok(Self(Arc::new(Shared { memory, region, regions, lent })))
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.memory.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.memory.is_empty()
    }

    /// The keys and the addresses that the whole of it is registered with; `None` when it has no bytes.
    pub fn region(&self) -> Option<&Region> {
        self.0.region.as_ref()
    }

    /// A part (in bytes) for [`ObjectBuilder::user`](crate::ObjectBuilder::user); it can be lent again when that object,
    /// or what this returns, is dropped.
    ///
    /// # Errors
    /// [`Error::Object`] when the range is not within the memory, or another object has some of it; [`Error::Closed`] in a
    /// forked child.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<UserMemory> {
        memory::not_in_forked_child()?;
        let whole = self.len();
        let start = match range.start_bound() {
            Bound::Included(&start) => Some(start),
            Bound::Excluded(&before) => before.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1),
            Bound::Excluded(&end) => Some(end),
            Bound::Unbounded => Some(whole),
        };
        let within = start.zip(end).filter(|(start, end)| start <= end && *end <= whole);
        let (start, end) = within.ok_or_else(|| {
            Error::Object(format!("the part to use is not within the region's {whole} bytes; ask for a range that is"))
        })?;
        self.0.lend(start, end)?;
        let shared = self.0.clone();
        // SAFETY: within the memory, so this is at most one past its end.
        let base = unsafe { shared.memory.base().add(start) };
        Ok(UserMemory::part(base, end - start, shared.clone(), move || shared.take_back(start, end)))
    }
}

impl Shared {
    /// The region, if it is one of these.
    pub(super) fn region_of(&self, regions: &Regions) -> Option<Region> {
        self.region.filter(|_| std::ptr::eq(&*self.regions, regions))
    }

    fn lend(&self, start: usize, end: usize) -> Result<()> {
        if start == end {
            return Ok(());
        }
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        // Parts are apart, so of those that begin before this one ends only the last can reach into it.
        if let Some((from, to)) = lent.range(..end).next_back().filter(|(_, to)| **to > start) {
            return Err(Error::Object(format!(
                "bytes {start}..{end} of the region are not free: an object has {from}..{to}; drop that first"
            )));
        }
        lent.insert(start, end);
        Ok(())
    }

    fn take_back(&self, start: usize, end: usize) {
        if start < end {
            self.lent.lock().unwrap_or_else(PoisonError::into_inner).remove(&start);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A forked child has the memory as its parent left it, and is no owner.
        if memory::in_forked_child() {
            return;
        }
        if let Some(region) = self.region
            && let Err(error) = self.regions.deregister(region.id)
        {
            tracing::error!("{error}; the program's {} bytes are not given back", self.memory.len());
            return;
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}

impl fmt::Debug for UserRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lent = self.0.lent.lock().unwrap_or_else(PoisonError::into_inner).len();
        write!(f, "UserRegion({} bytes, {lent} parts in use)", self.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::object::Section;
    use crate::{Config, Lunasa, UserMemory};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn lunasa() -> Lunasa {
        let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
        Lunasa::local(config.set("lunasa.registrar", "host").unwrap()).unwrap()
    }

    /// Counts itself when it goes back.
    fn memory(len: usize, returns: &Arc<AtomicU32>) -> UserMemory {
        let (returns, bytes) = (returns.clone(), Box::leak(vec![0u8; len].into_boxed_slice()));
        let back = move |_, _| _ = returns.fetch_add(1, Ordering::SeqCst);
        // SAFETY: leaked memory, used by nobody else.
        unsafe { UserMemory::from_raw(bytes.as_mut_ptr(), len, back) }
    }

    #[test]
    fn any_number_of_objects_register_once_and_see_their_own_part() {
        let (lunasa, returns) = (lunasa(), Arc::default());
        let region = lunasa.user_region(memory(10_000, &returns)).unwrap();
        let before = lunasa.snapshot().registrations;
        let mut objects: Vec<_> = (0..100)
            .map(|part| lunasa.object().meta(8).user(region.slice(part * 100..(part + 1) * 100).unwrap()).unwrap())
            .collect();
        for (part, object) in objects.iter_mut().enumerate() {
            object.data_mut::<u8>().unwrap().fill(part as u8);
        }
        for (part, object) in objects.iter().enumerate() {
            assert!(object.is_registered());
            let segments = object.segments(Section::Data).unwrap();
            let segment = segments.iter().next().unwrap();
            assert_eq!((segment.region(), segment.offset()), (region.region().unwrap(), part * 100));
            assert_eq!(segment.address().cast_const(), object.data::<u8>().unwrap().as_ptr());
            let copy = lunasa.fetch(&object.handle().unwrap()).unwrap();
            assert_eq!(copy.data::<u8>().unwrap(), [part as u8; 100]);
        }
        let now = lunasa.snapshot().registrations;
        assert_eq!((now.done, now.regions), (before.done, before.regions));
        drop(objects);
        assert!(lunasa.object().user(region.slice(..).unwrap()).unwrap().is_registered());
        assert_eq!(returns.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn the_registration_ends_and_memory_goes_back_after_the_last_object() {
        let (lunasa, returns) = (lunasa(), Arc::default());
        let before = lunasa.snapshot().registrations.regions;
        let region = lunasa.user_region(memory(64, &returns)).unwrap();
        let object = lunasa.object().user(region.slice(10..20).unwrap()).unwrap();
        let handle = object.handle().unwrap();
        drop(region);
        assert_eq!(lunasa.snapshot().registrations.regions, before + 1);
        assert_eq!(lunasa.fetch(&handle).unwrap().data_len(), 10);
        drop(object);
        assert_eq!(lunasa.snapshot().registrations.regions, before);
        assert_eq!(returns.load(Ordering::SeqCst), 1);
        assert!(lunasa.fetch(&handle).is_err());
    }

    #[test]
    fn no_byte_is_part_of_two_objects_at_once() {
        let lunasa = lunasa();
        let region = lunasa.user_region(vec![0u8; 100]).unwrap();
        let first = region.slice(20..40).unwrap();
        for (start, end) in [(0, 100), (20, 40), (39, 50), (0, 21), (30, 31)] {
            let error = region.slice(start..end).unwrap_err().to_string();
            assert!(error.contains("an object has 20..40"), "{start}..{end}: {error}");
        }
        let beside = [region.slice(0..20).unwrap(), region.slice(40..).unwrap(), region.slice(20..20).unwrap()];
        drop(beside);
        assert!(region.slice(20..=20).is_err(), "an empty part gave back what it never had");
        drop(first);
        assert_eq!(region.slice(..).unwrap().len(), 100);
        let (ends_late, backwards) = (region.slice(0..101), std::hint::black_box(60)..std::hint::black_box(50));
        assert!(ends_late.is_err() && region.slice(backwards).is_err() && region.slice(..=usize::MAX).is_err());
    }

    #[test]
    fn another_instance_registers_a_part_for_itself() {
        let (one, other) = (lunasa(), lunasa());
        let region = one.user_region(vec![7u8; 1000]).unwrap();
        let before = other.snapshot().registrations.done;
        let object = other.object().user(region.slice(100..200).unwrap()).unwrap();
        assert_eq!(other.snapshot().registrations.done, before + 1);
        assert_eq!(other.fetch(&object.handle().unwrap()).unwrap().data::<u8>().unwrap(), [7; 100]);
    }
}
