//! What is alive: the list for the pages, and the report at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::Arc;

use super::head::{Head, Shape};
use super::types::TypeId;
use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::registrar::RegionId;
use crate::snapshot::{LateWrites, ObjectInfo, RegistrationInfo};

/// What a live piece shows.
pub(super) enum Found<'a> {
    Object(&'a Head, Shape),
    Damaged,
}

pub(super) fn walk(pool: &Pool, visit: &mut dyn FnMut(usize, Found<'_>) -> bool) {
    let mut suspects = Vec::new();
    let mut more = true;
    pool.walk(&mut |piece: NonNull<u8>| {
        let address = piece.as_ptr().addr();
        // SAFETY: the walk's pieces stay mapped meanwhile and are aligned to 64; any bits are valid for a head's atomics.
        let head = unsafe { piece.cast::<Head>().as_ref() };
        // An object that is just being made looks damaged for a moment: look again.
        for _ in 0..1000 {
            if head.is_vacant() {
                return true;
            }
            if head.is_sound() {
                more = visit(address, Found::Object(head, head.shape()));
                return more;
            }
            std::hint::spin_loop();
        }
        suspects.push(piece);
        true
    });
    // Where pieces were cut anew since the walk began there is none any more. (Asked now, as the walk may hold locks.)
    suspects.retain(|&piece| pool.is_piece(piece));
    for piece in suspects {
        more = more && visit(piece.as_ptr().addr(), Found::Damaged);
    }
}

/// At most `limit` live objects of a pool.
pub(crate) fn list(pool: &Pool, limit: usize) -> Vec<ObjectInfo> {
    let mut objects = Vec::new();
    walk(pool, &mut |address, found| {
        if objects.len() == limit {
            return false;
        }
        objects.push(describe(pool, address, &found));
        true
    });
    objects
}

/// What the pages say of the piece at `address`, which a walk of the pool found.
pub(super) fn describe(pool: &Pool, address: usize, found: &Found<'_>) -> ObjectInfo {
    let allocated_at = pool.call_site(address).map(ToString::to_string);
    match found {
        Found::Object(head, shape) => {
            let own = RegionId::unpack(head.extra.load(std::sync::atomic::Ordering::Relaxed));
            // SAFETY: the piece stays handed out meanwhile.
            let in_block = unsafe { pool.block_region(address) }.is_some();
            ObjectInfo {
                address: (address + super::HEAD + shape.meta_len as usize) as u64,
                kind: if head.is_user() { "user" } else { "ordinary" }.to_owned(),
                type_id: shape.type_id,
                type_name: TypeId(shape.type_id).name().map(str::to_owned),
                meta_bytes: u64::from(shape.meta_len),
                data_bytes: shape.data_len,
                references: head.life.references(),
                registered: in_block || (!head.is_user() && own.is_some_and(|id| pool.regions.get(id).is_some())),
                allocated_at,
            }
        }
        Found::Damaged => ObjectInfo {
            address: address as u64,
            kind: "damaged".to_owned(),
            type_id: 0,
            type_name: None,
            meta_bytes: 0,
            data_bytes: 0,
            references: 0,
            registered: false,
            allocated_at,
        },
    }
}

/// The live objects of a pool, until `visit` says no: where each piece begins, and how many bytes of it are taken.
pub(super) fn extents(pool: &Pool, visit: &mut dyn FnMut(usize, usize) -> bool) {
    walk(pool, &mut |address, found| match found {
        Found::Object(head, _) => {
            visit(address, super::HEAD + if head.is_user() { 0 } else { head.capacity() as usize })
        }
        Found::Damaged => true,
    });
}

/// Objects of one type and size, and of one call site where that was recorded, that are still alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeakGroup {
    /// Their pool, by its name.
    pub pool: String,
    /// Their type.
    pub type_id: TypeId,
    /// Bytes of metadata of each.
    pub meta_len: usize,
    /// Bytes of data of each.
    pub data_len: usize,
    /// Where they were allocated; only with `lunasa.debug.call_sites`.
    pub call_site: Option<&'static Location<'static>>,
    /// How many there are.
    pub objects: u64,
}

/// What was still alive at the end, by pool, type, size and call site; and what the registrations came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LeakReport {
    /// The groups, largest total first.
    pub groups: Vec<LeakGroup>,
    /// Objects whose local header was written over.
    pub damaged: u64,
    /// What was registered and avoided since the start, and what that saved.
    pub registrations: RegistrationInfo,
    /// Where those were allocated, as far as it is known.
    pub damaged_sites: Vec<&'static Location<'static>>,
    /// Writes into freed memory that were found; only with `lunasa.debug.poison`.
    pub late_writes: LateWrites,
}

impl LeakReport {
    /// Objects still alive, damaged ones included.
    pub fn objects(&self) -> u64 {
        self.groups.iter().map(|group| group.objects).sum::<u64>() + self.damaged
    }

    /// Bytes of metadata and data in them.
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(LeakGroup::bytes).sum()
    }
}

impl LeakGroup {
    fn bytes(&self) -> u64 {
        self.objects * (self.meta_len as u64 + self.data_len as u64)
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects alive, {} bytes", self.objects(), self.bytes())?;
        for group in &self.groups {
            let LeakGroup { pool, type_id, meta_len, data_len, call_site, objects } = group;
            write!(f, "\n  {objects} x {type_id}, {pool}, {meta_len} + {data_len} bytes")?;
            if let Some(site) = call_site {
                write!(f, ", allocated at {site}")?;
            }
        }
        if self.damaged > 0 {
            write!(f, "\n  {} with a damaged header", self.damaged)?;
        }
        for site in &self.damaged_sites {
            write!(f, "\n    one of them allocated at {site}")?;
        }
        if self.late_writes.count > 0 {
            write!(f, "\n  {} writes into freed memory", self.late_writes.count)?;
        }
        for late in &self.late_writes.first {
            write!(f, "\n    {late}")?;
        }
        write!(f, "\n  {}", self.registrations)
    }
}

/// What is alive in these pools; of the registrations others know.
pub(crate) fn leaks(pools: &[Arc<Pool>]) -> LeakReport {
    let mut report = LeakReport::default();
    for pool in pools {
        let mut groups: BTreeMap<_, u64> = BTreeMap::new();
        walk(pool, &mut |address, found| {
            let site = pool.call_site(address);
            match found {
                Found::Object(_, shape) => {
                    *groups.entry((shape.type_id, shape.meta_len, shape.data_len, site)).or_default() += 1
                }
                Found::Damaged => {
                    report.damaged += 1;
                    report.damaged_sites.extend(site);
                }
            }
            true
        });
        pool.sweep();
        report.late_writes.add(pool.late_writes());
        report.groups.extend(groups.into_iter().map(|((type_id, meta_len, data_len, call_site), objects)| LeakGroup {
            pool: pool.name().to_owned(),
            type_id: TypeId(type_id),
            meta_len: meta_len as usize,
            data_len: data_len as usize,
            call_site,
            objects,
        }));
    }
    report.groups.sort_by_key(|group| std::cmp::Reverse(group.bytes()));
    report
}

/// Proves that each byte of a pool is in exactly one place; see [`Pool::check`].
pub(crate) fn check(pool: &Pool) -> Result<()> {
    // SAFETY: a piece that is handed out begins with a head, and any bits are valid for its atomics.
    let is_live = |piece: NonNull<u8>| unsafe { piece.cast::<Head>().as_ref() }.is_sound();
    pool.check(&is_live).map_err(|found| Error::Memory(format!("the {} pool is not sound: {found}", pool.name())))
}
