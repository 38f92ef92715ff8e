//! The map from addresses to blocks.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicPtr, Ordering};

use crate::map::Map;
use crate::together;

type Small = Map<UnsafeCell<u32>, 2, 2>;

fn map() -> Small {
    Map(std::array::from_fn(|_| AtomicPtr::default()))
}

fn block(number: u32) -> *const UnsafeCell<u32> {
    Box::into_raw(Box::new(UnsafeCell::new(number)))
}

/// The number of the block that is found at an index.
fn found(map: &Small, index: usize) -> Option<u32> {
    // SAFETY: blocks of these models are not freed before their map.
    let block = unsafe { map.get(index).as_ref() }?;
    // SAFETY: loom reports it if the block's maker may still be writing.
    Some(block.with(|number| unsafe { *number }))
}

/// Frees what the model made.
fn free(map: &Small, indices: impl IntoIterator<Item = usize>) {
    for index in indices {
        // SAFETY: made by `block`, entered once, and nobody looks any more.
        drop(unsafe { Box::from_raw(map.get(index).cast_mut()) });
    }
    for root in &map.0 {
        let leaf = root.load(Ordering::Acquire);
        if !leaf.is_null() {
            // SAFETY: made by the map, and nobody looks any more.
            drop(unsafe { Box::from_raw(leaf) });
        }
    }
}

#[test]
fn threads_that_need_the_same_leaf_make_one_and_lose_no_entry() {
    fn sets(map: &Small, index: usize) {
        map.set(index, block(index as u32 + 7));
        assert_eq!(found(map, index), Some(index as u32 + 7), "one's own entry");
    }
    let after = |map: &Small| {
        assert_eq!((found(map, 0), found(map, 1)), (Some(7), Some(8)));
        free(map, [0, 1]);
    };
    together(None, map, &[|map| sets(map, 0), |map| sets(map, 1)], after);
}

#[test]
fn an_entry_that_is_found_is_found_whole() {
    let reads = |map: &Small| {
        for index in [2, 3] {
            assert!(found(map, index).is_none_or(|number| number == index as u32));
        }
    };
    let sets = |map: &Small| [2, 3].into_iter().for_each(|index| map.set(index, block(index as u32)));
    let after = |map: &Small| {
        assert_eq!(found(map, 0), None);
        assert_eq!(found(map, 4), None, "beyond the end");
        free(map, [2, 3]);
    };
    together(None, map, &[sets, reads], after);
}
