//! Size classes: every size up to 32 MiB is rounded up to one of [`COUNT`] piece sizes, by at most an eighth (or 63 bytes).

use super::super::ALIGN;

/// Bytes of one page, the unit in which blocks are divided. Not the system's page.
pub(super) const PAGE: usize = 8192;
/// Largest size that has a class; above it a piece is a span of whatever length.
pub(crate) const LARGEST: usize = 32 << 20;
/// Above this size a span holds one piece.
const SHARED: usize = 64 * 1024;
/// Above this size (256 KiB and the headers, rounded up) pieces in thread caches are counted, so that they do not become too
/// many.
pub(super) const LARGE: usize = 288 * 1024;
/// Steps between one power of two and the next.
const STEPS: usize = 8;
/// Up to here classes are 64 bytes apart.
const LINEAR: usize = ALIGN * STEPS * 2;
const LINEAR_CLASSES: usize = LINEAR / ALIGN;
/// Number of classes.
pub(super) const COUNT: usize = LINEAR_CLASSES + STEPS * (LARGEST / LINEAR).ilog2() as usize;
const _: () = assert!(COUNT < u8::MAX as usize);
/// Most pieces of one span.
pub(super) const MOST_PIECES: usize = SHARED / ALIGN;

/// The class of a size from 1 to [`LARGEST`].
#[inline(always)]
pub(super) const fn class_of(size: usize) -> usize {
    if size <= LINEAR {
        return size.wrapping_sub(1) / ALIGN;
    }
    // 2^power < size <= 2^(power + 1), cut into eight steps; the steps' number continues the power's.
    let last = size - 1;
    let power = last.ilog2() as usize;
    let step = last >> (power - STEPS.ilog2() as usize);
    (LINEAR_CLASSES - STEPS) + (power - LINEAR.ilog2() as usize) * STEPS + step
}

/// Bytes of a piece of this class.
pub(super) const fn size_of_class(class: usize) -> usize {
    if class < LINEAR_CLASSES {
        return (class + 1) * ALIGN;
    }
    let (power, step) = ((class - LINEAR_CLASSES) / STEPS, (class - LINEAR_CLASSES) % STEPS);
    let base = LINEAR << power;
    base + (step + 1) * (base / STEPS)
}

/// [`size_of_class`], for where it must be quick.
pub(super) static SIZES: [usize; COUNT] = {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        sizes[class] = size_of_class(class);
        class += 1;
    }
    sizes
};

/// Whether spans of this class hold one piece each.
pub(super) const fn is_single(class: usize) -> bool {
    size_of_class(class) > SHARED
}

/// Pages of a span of this class: one piece, or enough for eight (or 64 KiB) with at most a sixteenth left over.
pub(super) const fn pages_of_class(class: usize) -> usize {
    let size = size_of_class(class);
    if is_single(class) {
        return size.div_ceil(PAGE);
    }
    let least = if size * 8 > SHARED { size * 8 } else { SHARED };
    let mut pages = least.div_ceil(PAGE);
    while (pages * PAGE) % size > pages * PAGE / 16 {
        pages += 1;
    }
    pages
}

/// Classes of sizes up to [`LARGE`].
pub(super) const SMALL_CLASSES: usize = class_of(LARGE) + 1;

/// The class of a size in one byte; no class at all above [`LARGEST`].
#[inline(always)]
pub(crate) const fn class_byte(size: usize) -> u8 {
    if size <= LARGEST { class_of(size) as u8 } else { u8::MAX }
}

/// Bytes that move at a time between a thread's cache and the central list, but from [`LEAST_BATCH`] to [`MOST_BATCH`] pieces.
const BATCH: usize = 128 * 1024;
const LEAST_BATCH: usize = 4;
const MOST_BATCH: usize = 64;
/// Above this size pieces move one by one.
const ONE_BY_ONE: usize = 2 << 20;

/// How many pieces move at a time between a thread's cache and the central list.
pub(super) const fn batch_of_class(class: usize) -> usize {
    let size = size_of_class(class);
    if size > ONE_BY_ONE {
        return 1;
    }
    let fit = BATCH / size;
    if fit < LEAST_BATCH {
        LEAST_BATCH
    } else if fit > MOST_BATCH {
        MOST_BATCH
    } else {
        fit
    }
}

/// Bytes of pieces of one class that a thread's cache may hold, unless two batches are more.
const MAGAZINE: usize = 256 * 1024;
/// Most pieces of one class that it may hold.
const MOST_SLOTS: usize = 1024;

/// How many pieces of a class a thread's cache holds.
pub(super) const fn magazine_of_class(class: usize) -> usize {
    let batch = batch_of_class(class);
    if batch == 1 {
        return 1;
    }
    let fit = MAGAZINE / size_of_class(class);
    if fit < 2 * batch {
        2 * batch
    } else if fit > MOST_SLOTS {
        MOST_SLOTS
    } else {
        fit
    }
}

/// Bytes of pieces of one class that are kept loose, unless two batches are more.
const LOOSE: usize = 16 << 20;

/// How many pieces the central list keeps loose, to be handed on without looking at their spans, until the heap needs them or
/// the keeper comes by. Of pieces that are spans of their own any number: merging them at once would be undone at once.
pub(super) const fn loose_of_class(class: usize) -> usize {
    if is_single(class) {
        return usize::MAX;
    }
    let fit = LOOSE / size_of_class(class);
    let least = 2 * batch_of_class(class);
    if fit < least { least } else { fit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_no_smaller_one() {
        for size in (1..=300_000).chain((300_001..=LARGEST).step_by(997)).chain([LARGEST]) {
            let class = class_of(size);
            assert!(class < COUNT);
            assert!(size_of_class(class) >= size, "{size}");
            assert!(class == 0 || size_of_class(class - 1) < size, "{size}");
            assert!(size_of_class(class) - size < ALIGN.max(size / 8 + 1), "{size}");
        }
        assert_eq!(class_of(LARGEST), COUNT - 1);
        assert_eq!(size_of_class(COUNT - 1), LARGEST);
    }

    #[test]
    fn spans_hold_eight_pieces_and_waste_little_or_one_and_waste_nothing() {
        for class in 0..COUNT {
            let (size, bytes) = (size_of_class(class), pages_of_class(class) * PAGE);
            assert_eq!(size % ALIGN, 0);
            if is_single(class) {
                assert_eq!(bytes, size);
            } else {
                let pieces = bytes / size;
                assert!((8..=MOST_PIECES).contains(&pieces) && bytes % size <= bytes / 16, "class {class}");
            }
            assert!(batch_of_class(class) <= magazine_of_class(class));
        }
    }
}
