//! Size classes: every size up to 256 KiB is rounded up to one of [`COUNT`] piece sizes, by at most an eighth (or 63 bytes).

use super::super::ALIGN;

/// Bytes of one page, the unit in which blocks are divided. Not the system's page.
pub(crate) const PAGE: usize = 8192;
/// Largest size that has a class; above it a piece is a span of its own.
pub(crate) const LARGEST: usize = 256 * 1024;
/// Steps between one power of two and the next.
const STEPS: usize = 8;
/// Up to here classes are 64 bytes apart.
const LINEAR: usize = ALIGN * STEPS * 2;
const LINEAR_CLASSES: usize = LINEAR / ALIGN;
/// Number of classes.
pub(crate) const COUNT: usize = LINEAR_CLASSES + STEPS * (LARGEST / LINEAR).ilog2() as usize;

/// The class of a size from 1 to [`LARGEST`].
pub(crate) const fn class_of(size: usize) -> usize {
    if size <= LINEAR {
        return size.saturating_sub(1) / ALIGN;
    }
    // 2^power < size <= 2^(power + 1), cut into eight steps.
    let power = (size - 1).ilog2() as usize;
    let step = (size - 1 - (1 << power)) >> (power - STEPS.ilog2() as usize);
    LINEAR_CLASSES + (power - LINEAR.ilog2() as usize) * STEPS + step
}

/// Bytes of a piece of this class.
pub(crate) const fn size_of_class(class: usize) -> usize {
    if class < LINEAR_CLASSES {
        return (class + 1) * ALIGN;
    }
    let (power, step) = ((class - LINEAR_CLASSES) / STEPS, (class - LINEAR_CLASSES) % STEPS);
    let base = LINEAR << power;
    base + (step + 1) * (base / STEPS)
}

/// Pages of a span that is cut into pieces of this class: enough for eight pieces (or 64 KiB), with at most a
/// sixteenth left over.
pub(crate) const fn pages_of_class(class: usize) -> usize {
    let size = size_of_class(class);
    let least = if size * 8 > 64 * 1024 { size * 8 } else { 64 * 1024 };
    let mut pages = least.div_ceil(PAGE);
    while (pages * PAGE) % size > pages * PAGE / 16 {
        pages += 1;
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_no_smaller_one() {
        for size in 1..=LARGEST {
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
    fn spans_hold_eight_pieces_and_waste_little() {
        for class in 0..COUNT {
            let (size, bytes) = (size_of_class(class), pages_of_class(class) * PAGE);
            assert_eq!(size % ALIGN, 0);
            assert!(bytes / size >= 8 && bytes % size <= bytes / 16, "class {class}");
        }
    }
}
