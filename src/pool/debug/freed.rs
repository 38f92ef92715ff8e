//! Freed memory that holds a pattern, and the look for what was written into it since.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CallSite, Past};
use crate::memory;
use crate::snapshot::LateWrite;

/// What freed memory is filled with: as a float it is huge, as a pointer invalid.
pub(super) const POISON: u8 = 0xd7;
/// Pieces begin at multiples of this. Zeros in the first word there are the manager's, for "no object begins here".
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
    pub pool: Arc<str>,
    pub address: usize,
    pub past: Past,
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
        let len = (to - at).min(WINDOW);
        let bytes = &mut window[..len];
        // SAFETY: the caller's promise.
        unsafe { memory::copy(std::ptr::with_exposed_provenance(at), bytes.as_mut_ptr(), len) };
        if *bytes != FILLED[..len] {
            for offset in (0..len).filter(|&offset| is_changed(bytes[offset], at + offset)) {
                first.get_or_insert(at + offset);
                last = at + offset;
                // SAFETY: as above.
                unsafe { mend(at + offset) };
            }
        }
        let shown = first.map_or(len, |first| first.saturating_sub(at).min(len));
        found.extend(bytes[shown..].iter().take(SHOWN - found.len()));
        at += len;
    }
    let first = first?;
    found.truncate(last - first + 1);
    Some(LateWrite {
        pool: had.pool.to_string(),
        serial: had.past.serial,
        type_id: had.past.type_id,
        type_name: had.past.type_name.map(str::to_owned),
        meta_bytes: had.past.meta_len.into(),
        data_bytes: had.past.data_len,
        allocated_at: had.site.map(ToString::to_string),
        address: first as u64,
        offset: (first - had.address) as u64,
        bytes: (last - first + 1) as u64,
        found: found.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    })
}

/// Whether a byte is neither the pattern's nor of a first word, which may hold zeros.
fn is_changed(byte: u8, address: usize) -> bool {
    byte != POISON && !(byte == 0 && address % ALIGN < WORD)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LEN: usize = 20_000;

    /// A freed piece of [`LEN`] bytes, and what is noted of it.
    fn freed() -> (Vec<u8>, usize, Freed) {
        let mut memory = vec![0; LEN + ALIGN];
        let address = memory.as_mut_ptr().expose_provenance().next_multiple_of(ALIGN);
        // SAFETY: within the memory, with room for LEN bytes behind it.
        unsafe { fill(address, LEN) };
        let past = Past { serial: 9, type_id: 1, type_name: None, meta_len: 0, data_len: LEN as u64 };
        let mut freed = Freed::default();
        freed.note(LEN, Had { pool: "eager".into(), address, past, site: None });
        (memory, address, freed)
    }

    fn write(address: usize, bytes: &[u8]) {
        let at = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the callers' memory.
        bytes.iter().enumerate().for_each(|(place, &byte)| unsafe { at.add(place).write(byte) });
    }

    fn claimed(freed: &mut Freed, from: usize, to: usize) -> Vec<LateWrite> {
        let mut found = Vec::new();
        // SAFETY: the memory of `freed` is there as long as the test is.
        unsafe { freed.claim(from, to, &mut found) };
        found
    }

    #[test]
    fn a_write_is_found_with_its_offset_length_and_bytes_and_once() {
        // In the first word, across windows, at the end, and long.
        for (offset, len) in [(0, 4), (8, 1), (4093, 9), (64, 7), (LEN - 1, 1), (100, 15_000)] {
            let (memory, address, mut freed) = freed();
            write(address + offset, &vec![3; len]);
            let mut found = Vec::new();
            // SAFETY: the memory is there.
            unsafe { freed.check(0, usize::MAX, &mut found) };
            assert_eq!((found.len(), found[0].offset, found[0].bytes), (1, offset as u64, len as u64));
            assert_eq!(found[0].found, vec!["03"; len.min(SHOWN)].join(" "));
            assert_eq!((found[0].serial, found[0].address), (9, (address + offset) as u64));
            assert_eq!(claimed(&mut freed, address, address + LEN), [], "found twice");
            drop(memory);
        }
    }

    #[test]
    fn what_is_used_again_in_part_is_still_looked_at_in_the_rest() {
        let (memory, address, mut freed) = freed();
        let [from, to] = [6400, 12_800].map(|offset| address + offset);
        assert_eq!(claimed(&mut freed, from, to), []);
        // The new owner may write what it likes; the rest is nobody's.
        write(from, &[1; 6400]);
        write(from - 1, &[2]);
        write(to, &[0; 9]);
        let offsets = |found: Vec<LateWrite>| found.iter().map(|late| (late.offset, late.bytes)).collect::<Vec<_>>();
        assert_eq!(offsets(claimed(&mut freed, address, from)), [(6399, 1)]);
        // Of nine zeros the first eight are as the manager's mark.
        assert_eq!(offsets(claimed(&mut freed, to, address + LEN)), [(12_808, 1)]);
        assert_eq!(claimed(&mut freed, 0, usize::MAX), [], "something is still noted");
        drop(memory);
    }

    #[test]
    fn the_managers_marks_are_no_late_writes() {
        let (memory, address, mut freed) = freed();
        (0..LEN - 64).step_by(64).for_each(|offset| write(address + offset, &[0; 8]));
        assert_eq!(claimed(&mut freed, address, address + LEN), []);
        drop(memory);
    }
}
