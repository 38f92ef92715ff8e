//! Freed memory that holds a pattern, and the look for what was written into it since.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CallSite, Life};
use crate::memory;
use crate::snapshot::LateWrite;

/// What freed memory is filled with: as a float it is huge, as a pointer invalid.
pub(super) const POISON: u8 = 0xd7;
/// Pieces begin at multiples of this. A word of zeros there is the manager's, for "no object begins here".
const ALIGN: usize = crate::manager::ALIGN;
const WORD: usize = size_of::<u64>();
/// Bytes looked at in one go.
const WINDOW: usize = 4096;
static FILLED: [u8; WINDOW] = [POISON; WINDOW];
/// How many of the bytes found are shown.
const SHOWN: usize = 16;

/// The object that freed memory was of.
#[derive(Debug)]
pub(super) struct Had {
    pub pool: &'static str,
    pub address: usize,
    pub life: Life,
    pub site: Option<CallSite>,
}

/// Ranges of freed memory that are filled, by their first address; none overlaps another.
#[derive(Debug, Default)]
pub(super) struct Freed(BTreeMap<usize, (usize, Arc<Had>)>);

/// Fills a piece that no object is in any more; its first word stays, which is zero.
///
/// # Safety
/// The `len` bytes are mapped, and nobody's.
pub(super) unsafe fn fill(address: usize, len: usize) {
    let at = std::ptr::with_exposed_provenance_mut::<u8>(address + WORD);
    // SAFETY: the caller's promise.
    unsafe { at.write_bytes(POISON, len - WORD) };
}

impl Freed {
    /// Notes a piece that was filled.
    pub(super) fn note(&mut self, len: usize, had: Had) {
        self.0.insert(had.address, (had.address + len, Arc::new(had)));
    }

    /// Takes out what lies in the range, which is about to be used again, and looks at it.
    ///
    /// # Safety
    /// All that was noted is mapped still.
    pub(super) unsafe fn claim(&mut self, from: usize, to: usize, found: &mut Vec<LateWrite>) {
        for start in self.within(from, to) {
            let Some((end, had)) = self.0.remove(&start) else { continue };
            // SAFETY: the caller's promise.
            found.extend(unsafe { look(start.max(from), end.min(to), &had) });
            if start < from {
                self.0.insert(start, (from, had.clone()));
            }
            if end > to {
                self.0.insert(to, (end, had));
            }
        }
    }

    /// Looks at what lies in the range.
    ///
    /// # Safety
    /// As for [`Freed::claim`].
    pub(super) unsafe fn check(&self, from: usize, to: usize, found: &mut Vec<LateWrite>) {
        for start in self.within(from, to) {
            if let Some((end, had)) = self.0.get(&start) {
                // SAFETY: the caller's promise.
                found.extend(unsafe { look(start, *end, had) });
            }
        }
    }

    /// First addresses of what overlaps the range.
    fn within(&self, from: usize, to: usize) -> Vec<usize> {
        let before = self.0.range(..from).next_back().filter(|(_, (end, _))| *end > from).map(|(&start, _)| start);
        before.into_iter().chain(self.0.range(from..to).map(|(&start, _)| start)).collect()
    }
}

/// Looks whether a range still holds what it was filled with, and fills it again where it does not.
///
/// # Safety
/// The range is mapped, and nobody's but late writers'.
unsafe fn look(from: usize, to: usize, had: &Had) -> Option<LateWrite> {
    let mut window = [0; WINDOW];
    let (mut first, mut last, mut found) = (None, from, Vec::<u8>::new());
    let mut at = from;
    while at < to {
        // Windows begin at multiples of their size, so that a word of the manager's lies in one.
        let len = (to - at).min(WINDOW - at % WINDOW);
        let bytes = &mut window[..len];
        // SAFETY: the caller's promise.
        unsafe { memory::copy(std::ptr::with_exposed_provenance(at), bytes.as_mut_ptr(), len) };
        if *bytes != FILLED[..len] {
            for offset in (0..len).filter(|&offset| is_changed(bytes, at, offset)) {
                first.get_or_insert(at + offset);
                last = at + offset;
                // SAFETY: as above.
                unsafe { mend(at + offset) };
            }
            let shown = first.map_or(len, |first| first.saturating_sub(at).min(len));
            found.extend(bytes[shown..].iter().take(SHOWN - found.len()));
        }
        at += len;
    }
    let first = first?;
    found.truncate(last - first + 1);
    Some(LateWrite {
        pool: had.pool.to_owned(),
        serial: had.life.serial,
        type_id: had.life.type_id,
        type_name: had.life.type_name.map(str::to_owned),
        meta_bytes: had.life.meta_len.into(),
        data_bytes: had.life.data_len,
        allocated_at: had.site.map(ToString::to_string),
        address: first as u64,
        offset: (first - had.address) as u64,
        bytes: (last - first + 1) as u64,
        found: found.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    })
}

/// Whether the byte at `offset` of these, which begin at `address`, is neither the pattern's nor of a word of the manager's.
fn is_changed(bytes: &[u8], address: usize, offset: usize) -> bool {
    let place = (address + offset) % ALIGN;
    let word = offset.saturating_sub(place);
    bytes[offset] != POISON && !(place < WORD && bytes[word..].iter().take(WORD).all(|&byte| byte == 0))
}

/// Writes a byte as it was: in a first word zero, else the pattern.
///
/// # Safety
/// The address is mapped, and nobody's but late writers'.
unsafe fn mend(address: usize) {
    let at = std::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: the caller's promise.
    unsafe { at.write_volatile(if address % ALIGN < WORD { 0 } else { POISON }) };
}
