//! [`Ldo`]: one pointer to an object; clones share it, and the last one gives the memory back.

use std::fmt;
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::end::{destroy, destroy_quickly};
use super::handle::{Origin, RemoteHandle};
use super::head::{Birth, HEAD, Head, META_IN_USER, Shape};
use super::parts::{Sections, layout_of, pool_of, sections_of, typed, typed_mut, user_part_of};
use super::section::{Layout, Section, Segments};
use super::types::TypeId;
use super::user::UserPart;
use crate::error::{Error, Result};
use crate::manager::tcmalloc::{Taken, class_byte};
use crate::memory;
use crate::pool::{Pool, Registration};
use crate::registrar::{Region, RegionId};

/// A Lunasa Data Object.
///
/// One pointer wide and atomically reference-counted, as [`std::sync::Arc`] is: a clone is another reference to the same
/// object, and changing it needs the only one. What its bytes are is up to the program; a fresh object holds whatever its
/// memory held before.
pub struct Ldo(NonNull<Head>);

/// Addresses have no more bits than these. Above them an [`Ldo`] carries the size class of its piece, so that a drop knows
/// where the piece goes before the head, which may be far from the processor by then, has been read.
const ADDRESS_BITS: u32 = 56;

// SAFETY: the counts are atomic, shared access only reads, and changes need the only reference.
unsafe impl Send for Ldo {}
// SAFETY: as above.
unsafe impl Sync for Ldo {}

impl Ldo {
    /// Makes an object of a fresh piece.
    ///
    /// # Safety
    /// The piece has [`HEAD`] bytes and what `birth` and `shape` say lies in it, is aligned to 64, and is nobody else's; `class`
    /// is the size class of that length. The owner outlives the object. With the flag `USER`, `extra` is a leaked [`UserPart`].
    #[inline(always)]
    pub(super) unsafe fn begin(piece: NonNull<u8>, class: u8, birth: Birth, shape: Shape) -> Self {
        let head = piece.cast::<Head>();
        // SAFETY: in the piece, aligned, and any bits are valid for its atomics.
        unsafe { head.as_ref() }.begin(birth, shape);
        Self(head.map_addr(|address| address | usize::from(class) << ADDRESS_BITS))
    }

    /// The fast path of making an ordinary object: from the cache that the thread used last, if that is of this pool and has
    /// a piece. The sections fit the capacity, and that the address space.
    ///
    /// Not generic, yet compiled with the program: in an executable the thread's cache is then found without a call.
    #[inline]
    pub(super) fn make_quickly(pool: &Pool, shape: Shape, capacity: usize) -> Option<Self> {
        let Taken { piece, serial, class } = pool.cache_used_last()?.take(HEAD + capacity)?;
        let birth = Birth { owner: pool, serial, flags: 0, capacity: capacity as u64, extra: 0 };
        // SAFETY: a fresh piece of the pool, of HEAD + capacity bytes, aligned to 64.
        Some(unsafe { Self::begin(piece, class, birth, shape) })
    }

    #[inline]
    fn at(&self) -> NonNull<Head> {
        let at = self.0.as_ptr().map_addr(|word| word & ((1 << ADDRESS_BITS) - 1));
        // SAFETY: the address of a head, which is not null, with the class taken off.
        unsafe { NonNull::new_unchecked(at) }
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: alive as long as there is a reference, which `self` is.
        unsafe { self.at().as_ref() }
    }

    #[inline]
    fn address(&self) -> usize {
        self.at().as_ptr().addr()
    }

    #[inline]
    fn pool(&self) -> Result<&Pool> {
        pool_of(self.head())
    }

    fn user_part(&self) -> Result<Option<&UserPart>> {
        user_part_of(self.head())
    }

    /// Its type.
    #[inline]
    pub fn type_id(&self) -> TypeId {
        TypeId(self.head().shape().type_id)
    }

    /// Bytes of metadata.
    #[inline]
    pub fn meta_len(&self) -> usize {
        self.head().shape().meta_len as usize
    }

    /// Bytes of data.
    #[inline]
    pub fn data_len(&self) -> usize {
        self.head().shape().data_len as usize
    }

    /// Bytes that metadata and data together may take.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.head().capacity() as usize
    }

    /// References to the object, this one included.
    #[inline]
    pub fn references(&self) -> u32 {
        self.head().life.references()
    }

    /// Whether its data lie in memory that the program brought.
    #[inline]
    pub fn is_user(&self) -> bool {
        self.head().is_user()
    }

    /// Whether both are references to the same object.
    #[inline]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    #[inline]
    fn sections(&self) -> Result<Sections> {
        sections_of(self.head())
    }

    /// The metadata as values of `T`.
    ///
    /// # Errors
    /// [`Error::Object`] when their length is no multiple of `T`'s size or their address none of its alignment.
    #[inline]
    pub fn meta<T: FromBytes + Immutable>(&self) -> Result<&[T]> {
        // SAFETY: shared access; those who may change the bytes have the only reference (or promised, by `handle_mut`).
        unsafe { typed(self.sections()?.meta, Section::Meta) }
    }

    /// The data as values of `T`.
    ///
    /// # Errors
    /// As for [`Ldo::meta`].
    #[inline]
    pub fn data<T: FromBytes + Immutable>(&self) -> Result<&[T]> {
        // SAFETY: as in `meta`.
        unsafe { typed(self.sections()?.data, Section::Data) }
    }

    /// The metadata, to be changed.
    ///
    /// # Errors
    /// As for [`Ldo::meta`], and when there are other references.
    #[inline]
    pub fn meta_mut<T: FromBytes + IntoBytes>(&mut self) -> Result<&mut [T]> {
        self.must_be_unique("change the metadata of")?;
        // SAFETY: the only reference, borrowed mutably.
        unsafe { typed_mut(self.sections()?.meta, Section::Meta) }
    }

    /// The data, to be changed.
    ///
    /// # Errors
    /// As for [`Ldo::meta_mut`].
    #[inline]
    pub fn data_mut<T: FromBytes + IntoBytes>(&mut self) -> Result<&mut [T]> {
        self.must_be_unique("change the data of")?;
        // SAFETY: the only reference, borrowed mutably.
        unsafe { typed_mut(self.sections()?.data, Section::Data) }
    }

    /// Where the data are, for memory that a peer may be writing meanwhile (see [`Ldo::handle_mut`]): use volatile or
    /// atomic access, no slices.
    ///
    /// # Errors
    /// [`Error::Object`] when the header was damaged.
    #[inline]
    pub fn data_ptr(&self) -> Result<(*mut u8, usize)> {
        Ok(self.sections()?.data)
    }

    /// Metadata and data of a fresh ordinary object, where they lie one behind the other.
    pub(crate) fn body_mut(&mut self) -> Result<(*mut u8, usize)> {
        let Sections { meta, data } = self.sections()?;
        Ok((meta.0, meta.1 + data.1))
    }

    /// Whether this is the only reference.
    #[inline]
    pub fn is_unique(&self) -> bool {
        self.references() == 1
    }

    #[inline]
    fn must_be_unique(&self, what: &str) -> Result<()> {
        // A forked child has the same memory: what it writes there would be its parent's.
        memory::not_in_forked_child()?;
        if self.is_unique() {
            return Ok(());
        }
        let others = self.references().saturating_sub(1);
        Err(Error::Object(format!(
            "to {what} an object takes its only reference, and there are {others} others; drop them, or `deep_copy` it"
        )))
    }

    /// Sets the type.
    ///
    /// # Errors
    /// [`Error::Object`] when there are other references.
    pub fn set_type_id(&mut self, type_id: impl Into<TypeId>) -> Result<()> {
        self.must_be_unique("change the type of")?;
        self.head().set_shape(Shape { type_id: type_id.into().0, ..self.head().shape() });
        Ok(())
    }

    /// Changes the sizes of metadata and data within the capacity. The data keep their contents, as far as they fit; what
    /// is new holds whatever was there before. Handles made earlier become stale for `fetch`.
    ///
    /// # Errors
    /// [`Error::Object`] when there are other references, or when the sizes exceed the capacity.
    pub fn resize(&mut self, meta: usize, data: usize) -> Result<()> {
        self.must_be_unique("resize")?;
        let before = self.sections()?;
        let shape = self.head().shape();
        let too_large = |room: String| {
            Error::Object(format!(
                "metadata of {meta} and data of {data} bytes do not fit {room}; allocate with `.capacity(…)`"
            ))
        };
        let meta_len = u32::try_from(meta).map_err(|_| too_large("4 GiB - 1 of metadata".to_owned()))?;
        let both = meta.checked_add(data).ok_or_else(|| too_large("the address space".to_owned()))?;
        match self.user_part()? {
            Some(part) if self.head().tag() & META_IN_USER == 0 => {
                let (meta_room, data_room) = (part.piece_len - HEAD, part.memory.len());
                if meta > meta_room || data > data_room {
                    return Err(too_large(format!("{meta_room} + {data_room} bytes of a user object")));
                }
            }
            _ if both > self.capacity() => return Err(too_large(format!("the capacity of {} bytes", self.capacity()))),
            _ => {}
        }
        self.head().set_shape(Shape { meta_len, data_len: data as u64, ..shape });
        let after = self.sections()?;
        // SAFETY: both ranges lie in memory of this object, which is ours alone; they may overlap.
        unsafe { std::ptr::copy(before.data.0, after.data.0, before.data.1.min(data)) };
        Ok(())
    }

    /// Sets metadata and data to zero.
    ///
    /// # Errors
    /// [`Error::Object`] when there are other references.
    pub fn wipe(&mut self) -> Result<()> {
        self.meta_mut::<u8>()?.fill(0);
        self.data_mut::<u8>()?.fill(0);
        Ok(())
    }

    /// A new object of the same pool with the same type, metadata and data. A user object's copy is an ordinary one.
    ///
    /// # Errors
    /// As for [`super::ObjectBuilder::data`].
    #[track_caller]
    pub fn deep_copy(&self) -> Result<Self> {
        let (pool, shape) = (self.pool()?, self.head().shape());
        let from = self.sections()?;
        let capacity = (shape.meta_len as usize + shape.data_len as usize).max(self.capacity());
        let (piece, serial, region) = pool.allocate(HEAD + capacity, Location::caller())?;
        let extra = region.map_or(0, |region| region.id.pack());
        let birth = Birth { owner: pool, serial, flags: 0, capacity: capacity as u64, extra };
        // SAFETY: a fresh piece of that many bytes.
        let copy = unsafe { Self::begin(piece, class_byte(HEAD + capacity), birth, shape) };
        let to = copy.sections()?;
        // SAFETY: each pair has the same length (one shape), in different objects.
        unsafe {
            memory::copy(from.meta.0, to.meta.0, from.meta.1);
            memory::copy(from.data.0, to.data.0, from.data.1);
        }
        Ok(copy)
    }

    /// Whether type, metadata and data are equal.
    ///
    /// # Errors
    /// [`Error::Object`] when a header was damaged.
    pub fn deep_eq(&self, other: &Self) -> Result<bool> {
        Ok(self.head().shape() == other.head().shape()
            && self.meta::<u8>()? == other.meta::<u8>()?
            && self.data::<u8>()? == other.data::<u8>()?)
    }

    /// Whether its memory is registered: a handle costs nothing more then.
    pub fn is_registered(&self) -> bool {
        let known = |word: &AtomicU64, pool: &Pool| {
            let id = RegionId::unpack(word.load(Ordering::Acquire));
            id.is_some_and(|id| pool.regions.get(id).is_some())
        };
        // SAFETY: the head's piece is handed out as long as the object lives.
        let block_region = |pool: &Pool| unsafe { pool.block_region(self.address()) };
        // After finish a block still knows the region that it had.
        let in_block = |pool: &Pool| block_region(pool).is_some_and(|region| pool.regions.get(region.id).is_some());
        match (self.pool(), self.user_part()) {
            (Ok(pool), Ok(None)) => known(&self.head().extra, pool) || in_block(pool),
            (Ok(pool), Ok(Some(part))) => {
                let whole = part.memory.region_in(&pool.regions);
                let within = whole.is_some_and(|region| pool.regions.get(region.id).is_some());
                (part.memory.is_empty() || within || known(&part.region, pool))
                    && (known(&part.piece_region, pool) || in_block(pool))
            }
            _ => false,
        }
    }

    /// Registers its memory now, if it is not yet.
    ///
    /// # Errors
    /// [`Error::Registration`] with the limit that was hit; the object stays as it was.
    pub fn register(&self) -> Result<()> {
        self.regions().map(drop)
    }

    /// The regions of the piece and of the program's memory, registered if they were not.
    fn regions(&self) -> Result<(Region, Option<Region>)> {
        let (pool, part) = (self.pool()?, self.user_part()?);
        pool.check_open("handles")?;
        // SAFETY: the head's piece is handed out as long as the object lives.
        let piece_region = if let Some(region) = unsafe { pool.block_region(self.address()) } {
            region
        } else {
            let (len, current) = match part {
                Some(part) => (part.piece_len, &part.piece_region),
                None => (HEAD + self.capacity(), &self.head().extra),
            };
            self.head().life.share();
            // SAFETY: destroying the object deregisters what `current` says, then releases the piece.
            unsafe { pool.register_once(self.at().cast(), len, current) }?
        };
        let user_region = match part {
            Some(part) if !part.memory.is_empty() => Some(match part.memory.region_in(&pool.regions) {
                Some(whole) => whole,
                // SAFETY: destroying the object deregisters what `region` says, then gives the memory back.
                None => unsafe { pool.register_once(part.memory.base(), part.memory.len(), &part.region) }?,
            }),
            _ => None,
        };
        Ok((piece_region, user_region))
    }

    /// The segments of a section: what a scatter/gather list or a message of the program's own needs. Registers the object
    /// if it is not registered yet.
    ///
    /// # Errors
    /// [`Error::Registration`] when that fails, [`Error::Closed`] after finish.
    #[inline]
    pub fn segments(&self, section: Section) -> Result<Segments> {
        match self.only_segment(section) {
            Some(segments) => Ok(segments),
            None => self.segments_slowly(section),
        }
    }

    /// The segments of an ordinary object in a registered block, of which there is at most one.
    #[inline(always)]
    fn only_segment(&self, section: Section) -> Option<Segments> {
        let (head, address) = (self.head(), self.address());
        let (pool, capacity) = head.pool_and_capacity()?;
        // SAFETY: sound, so this is the pool that made the object; a pool outlives its objects.
        let pool = unsafe { &*pool };
        let shape = head.shape();
        let (meta_len, data_len) = (shape.meta_len as usize, shape.data_len as usize);
        if !pool.is_open() || meta_len > capacity || data_len > capacity - meta_len {
            return None;
        }
        // SAFETY: the head's piece is handed out as long as the object lives.
        let region = unsafe { pool.block_region(address) }?;
        let (start, len) = Layout::ordinary(meta_len as u64, data_len as u64).section(section);
        let offset = address - region.base().addr() + start as usize;
        Some(Segments::new((region, offset, len as usize), None))
    }

    #[inline(never)]
    fn segments_slowly(&self, section: Section) -> Result<Segments> {
        let (piece_region, user_region) = self.regions()?;
        let layout = layout_of(self.head())?;
        let (start, len) = layout.section(section);
        let [(in_piece, piece_len), (in_user, user_len)] = layout.cut(start, len);
        let offset = self.address() - piece_region.base().addr() + in_piece as usize;
        let user_at = self.user_part()?.map_or(0, |part| part.memory.base().as_ptr().addr());
        let user =
            user_region.map(|region| (region, user_at - region.base().addr() + in_user as usize, user_len as usize));
        Ok(Segments::new((piece_region, offset, piece_len as usize), user))
    }

    /// A handle by which any rank can read this object. Registers it if it is not registered yet.
    ///
    /// Peers read what the bytes are at that moment; to let them read something consistent is up to the program's own
    /// messages, as with any one-sided access.
    ///
    /// # Errors
    /// [`Error::Registration`] when registering fails, [`Error::Closed`] after finish.
    pub fn handle(&self) -> Result<RemoteHandle> {
        self.make_handle(false)
    }

    /// A handle by which any rank can also write this object's metadata and data.
    ///
    /// # Errors
    /// As for [`Ldo::handle`].
    ///
    /// # Safety
    /// While a peer may write through the handle, no slice of the written section ([`Ldo::data`], [`Ldo::data_mut`] and their
    /// like) is alive in this process: order the accesses by messages, or use [`Ldo::data_ptr`].
    pub unsafe fn handle_mut(&self) -> Result<RemoteHandle> {
        self.make_handle(true)
    }

    fn make_handle(&self, writable: bool) -> Result<RemoteHandle> {
        let pool = self.pool()?;
        let (piece, user) = self.regions()?;
        self.head().life.share();
        let user_base = self.user_part()?.map_or(0, |part| part.memory.base().as_ptr().addr() as u64);
        Ok(RemoteHandle::new(&Origin {
            rank: pool.regions.rank(),
            run: pool.regions.run(),
            tag: self.head().tag(),
            shape: self.head().shape(),
            piece: (piece, self.address() as u64),
            user: user.map(|region| (region, user_base)),
            writable,
        }))
    }

    /// Which pool it is of.
    ///
    /// # Errors
    /// [`Error::Object`] when the header was damaged.
    pub fn registration(&self) -> Result<Registration> {
        Ok(self.pool()?.time)
    }
}

impl Clone for Ldo {
    #[inline]
    fn clone(&self) -> Self {
        // A forked child shares the memory with its parent: it must not count there.
        if !memory::in_forked_child() {
            self.head().life.add_reference();
        }
        Self(self.0)
    }
}

impl Drop for Ldo {
    #[inline]
    fn drop(&mut self) {
        let head = self.head();
        if head.life.is_its_holders_alone() {
            // SAFETY: that was the only reference; above the address is the class, see `begin`.
            unsafe { destroy_quickly(self.at(), (self.0.as_ptr().addr() >> ADDRESS_BITS) as u8) };
        } else if !memory::in_forked_child() && head.life.drop_reference() {
            // SAFETY: that was the last of everything.
            unsafe { destroy(self.at()) };
        }
    }
}

impl fmt::Debug for Ldo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_user() { "user, " } else { "" };
        let time = match self.registration() {
            Ok(Registration::Eager) => "eager",
            Ok(Registration::Lazy) => "lazy",
            Err(_) => "damaged",
        };
        let (meta, data) = (self.meta_len(), self.data_len());
        write!(f, "Ldo({}, {kind}{time}, {meta} + {data} bytes, {} references)", self.type_id(), self.references())
    }
}
