//! Looking at live objects for the pages: some of very many in an order, with a bound on memory and time; and what is in one.

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::head::{HEAD, Head, Shape};
use super::list::{Found, describe, extents, walk};
use super::parts::sections_of;
use super::pinned::PinnedObject;
use super::types::TypeId;
use crate::memory;
use crate::pool::Pool;
use crate::snapshot::{BlockInfo, BlockMap, ObjectDump, ObjectInfo, ObjectKey, ObjectPage, ObjectQuery, TypeTotal};

/// How long one look may take; a list that is cut by it says so.
const TIME: Duration = Duration::from_secs(2);
/// Types that are told apart in the totals.
const TYPES: usize = 64;

/// Chooses the objects that a query asks for while pools are walked. Keeps no more than it asks for.
pub(crate) struct Selection<'a> {
    query: &'a ObjectQuery,
    began: Instant,
    /// The first of those seen, in the query's order; the last of these on top.
    best: BinaryHeap<Candidate>,
    types: BTreeMap<u32, (u64, u64)>,
    /// Whether a type is wanted, so far as it was asked.
    wanted: BTreeMap<u32, bool>,
    matched: (u64, u64),
    passed: u64,
    complete: bool,
}

/// In the query's order by its place in it.
struct Candidate {
    place: (u64, u64),
    info: ObjectInfo,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place.cmp(&other.place)
    }
}

impl<'a> Selection<'a> {
    pub(crate) fn new(query: &'a ObjectQuery) -> Self {
        Self {
            query,
            began: Instant::now(),
            best: BinaryHeap::with_capacity(query.limit + 1),
            types: BTreeMap::new(),
            wanted: BTreeMap::new(),
            matched: (0, 0),
            passed: 0,
            complete: true,
        }
    }

    /// Looks at all objects of one pool.
    pub(crate) fn walk(&mut self, pool: &Pool) {
        walk(pool, &mut |address, found| {
            self.consider(pool, address, &found);
            self.passed += 1;
            self.complete &= !self.passed.is_multiple_of(4096) || self.began.elapsed() < TIME;
            self.complete
        });
    }

    fn consider(&mut self, pool: &Pool, address: usize, found: &Found<'_>) {
        let (shape, references) = match found {
            Found::Object(head, shape) => (*shape, head.life.references()),
            Found::Damaged => (Shape { type_id: 0, meta_len: 0, data_len: 0 }, 0),
        };
        let query = self.query;
        let fits = shape.data_len >= query.min_bytes && query.max_bytes.is_none_or(|most| shape.data_len <= most);
        if !fits || !self.is_wanted(shape.type_id) {
            return;
        }
        self.matched.0 += 1;
        self.matched.1 += shape.data_len;
        if self.types.len() < TYPES || self.types.contains_key(&shape.type_id) {
            let total = self.types.entry(shape.type_id).or_default();
            *total = (total.0 + 1, total.1 + shape.data_len);
        }
        let at = match found {
            Found::Object(..) => (address + HEAD + shape.meta_len as usize) as u64,
            Found::Damaged => address as u64,
        };
        let key = match query.sort {
            ObjectKey::Address => at,
            ObjectKey::Data => shape.data_len,
            ObjectKey::Meta => shape.meta_len.into(),
            ObjectKey::References => references.into(),
            ObjectKey::Type => shape.type_id.into(),
        };
        let place = place(query, (key, at));
        let after = query.after.is_none_or(|after| place > self::place(query, after));
        // One more than wanted tells whether there is a next page.
        let full = self.best.len() > query.limit;
        if !after || (full && self.best.peek().is_some_and(|last| last.place < place)) {
            return;
        }
        if full {
            self.best.pop();
        }
        self.best.push(Candidate { place, info: describe(pool, address, found) });
    }

    fn is_wanted(&mut self, type_id: u32) -> bool {
        let wanted = self.query.of_type.as_str();
        wanted.is_empty()
            || *self.wanted.entry(type_id).or_insert_with(|| {
                wanted.parse() == Ok(type_id) || TypeId(type_id).name().is_some_and(|name| name.contains(wanted))
            })
    }

    pub(crate) fn finish(self) -> ObjectPage {
        let query = self.query;
        let mut chosen = self.best.into_sorted_vec();
        let more = chosen.len() > query.limit;
        chosen.truncate(query.limit);
        let next = chosen.last().filter(|_| more).map(|last| place(query, last.place));
        let mut types: Vec<TypeTotal> = self
            .types
            .into_iter()
            .map(|(type_id, (objects, bytes))| {
                let type_name = TypeId(type_id).name().map(str::to_owned);
                TypeTotal { type_id, type_name, objects, bytes }
            })
            .collect();
        types.sort_by_key(|total| std::cmp::Reverse(total.bytes));
        ObjectPage {
            objects: chosen.into_iter().map(|candidate| candidate.info).collect(),
            matched: self.matched.0,
            matched_bytes: self.matched.1,
            complete: self.complete,
            next,
            types,
        }
    }
}

/// How the blocks of a pool are taken, in `cells` parts each.
pub(crate) fn block_maps(pool: &Pool, cells: usize) -> Vec<BlockMap> {
    let (_, blocks) = pool.info();
    let mut sums: Vec<Vec<(u64, u64)>> = blocks.iter().map(|_| vec![(0, 0); cells]).collect();
    let mut by_address: Vec<usize> = (0..blocks.len()).collect();
    by_address.sort_by_key(|&block| blocks[block].address);
    // Adds the bytes of a range to the cells that it lies in.
    let mut add = |start: u64, len: u64, to: fn(&mut (u64, u64)) -> &mut u64| {
        let behind = by_address.partition_point(|&block| blocks[block].address <= start);
        let Some(&block) = behind.checked_sub(1).and_then(|before| by_address.get(before)) else { return };
        let (base, cell) = (blocks[block].address, blocks[block].bytes.div_ceil(cells as u64).max(1));
        let end = (start + len).min(base + blocks[block].bytes);
        let mut at = start;
        while at < end {
            let index = ((at - base) / cell) as usize;
            let upto = end.min(base + (index as u64 + 1) * cell);
            *to(&mut sums[block][index]) += upto - at;
            at = upto;
        }
    };
    pool.spans_in_use().into_iter().for_each(|(start, len)| add(start as u64, len as u64, |cell| &mut cell.1));
    let (began, mut passed) = (Instant::now(), 0u64);
    extents(pool, &mut |start, len| {
        add(start as u64, len as u64, |cell| &mut cell.0);
        passed += 1;
        !passed.is_multiple_of(4096) || began.elapsed() < TIME
    });
    let shown = |(block, sums): (&BlockInfo, Vec<(u64, u64)>)| {
        let cell = block.bytes.div_ceil(cells as u64).max(1);
        let percent = |bytes: u64| (bytes * 100).div_ceil(cell).min(100) as u8;
        let cells = sums.into_iter().map(|(live, in_spans)| {
            let live = percent(live);
            (live, percent(in_spans).saturating_sub(live))
        });
        BlockMap { pool: block.pool.clone(), address: block.address, cells: cells.collect() }
    };
    blocks.iter().zip(sums).map(shown).collect()
}

/// Where an object stands in the query's order, least first. Turning it twice gives it back.
fn place(query: &ObjectQuery, (key, address): (u64, u64)) -> (u64, u64) {
    (
        if query.descending { !key } else { key },
        if query.descending && query.sort == ObjectKey::Address { !address } else { address },
    )
}

/// The live object of this pool whose data are at `address`, with at most `limit` bytes of its data from `offset`, and as
/// many of its metadata.
pub(crate) fn dump(pool: &Pool, address: u64, offset: u64, limit: usize) -> Option<ObjectDump> {
    let mut dumped = None;
    // Kept until the walk, which may hold locks, is over: letting go of it may destroy the object.
    let mut pinned = None;
    walk(pool, &mut |at, found| {
        let Found::Object(head, shape) = &found else { return true };
        if (at + HEAD + shape.meta_len as usize) as u64 != address {
            return true;
        }
        let info = describe(pool, at, &found);
        pinned = PinnedObject::of(head);
        if pinned.is_some() || !head.is_user() {
            dumped = copy(head, offset, limit).map(|(meta, data)| ObjectDump { info, meta, data, offset });
        }
        false
    });
    drop(pinned);
    dumped
}

/// The beginning of the metadata, and data from `offset`; none when the object ended meanwhile.
///
/// The head is that of a piece that a walk keeps mapped, and of a user object only when it is pinned.
fn copy(head: &Head, offset: u64, limit: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let tag = head.tag();
    let sections = sections_of(head).ok()?;
    let bytes = |(at, len): (*mut u8, usize), offset: usize| {
        let len = len.saturating_sub(offset).min(limit);
        let mut bytes = vec![0; len];
        if len > 0 {
            // SAFETY: within the section, which is mapped: in a piece that the walk keeps, or in memory that a pin keeps. The
            // program may write there meanwhile; see `memory::copy`.
            unsafe { memory::copy(at.wrapping_add(offset), bytes.as_mut_ptr(), len) };
        }
        bytes
    };
    let meta = bytes(sections.meta, 0);
    let data = bytes(sections.data, usize::try_from(offset).ok()?);
    std::sync::atomic::fence(Ordering::Acquire);
    (head.is_sound() && head.tag() == tag).then_some((meta, data))
}
