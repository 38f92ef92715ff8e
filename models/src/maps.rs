//! The map from addresses to blocks.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicPtr;
use loom::thread;

use crate::map::Map;

type Small = Map<UnsafeCell<u32>, 2, 2>;

fn map() -> Arc<Small> {
    Arc::new(Map(std::array::from_fn(|_| AtomicPtr::default())))
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
        let leaf = root.load(loom::sync::atomic::Ordering::Acquire);
        if !leaf.is_null() {
            // SAFETY: made by the map, and nobody looks any more.
            drop(unsafe { Box::from_raw(leaf) });
        }
    }
}

#[test]
fn threads_that_need_the_same_leaf_make_one_and_lose_no_entry() {
    loom::model(|| {
        let map = map();
        let other = map.clone();
        let thread = thread::spawn(move || {
            other.set(0, block(7));
            assert_eq!(found(&other, 0), Some(7), "one's own entry");
        });
        map.set(1, block(8));
        assert_eq!(found(&map, 1), Some(8), "one's own entry");
        assert!(thread.join().is_ok());
        assert_eq!((found(&map, 0), found(&map, 1)), (Some(7), Some(8)));
        free(&map, [0, 1]);
    });
}

#[test]
fn an_entry_that_is_found_is_found_whole() {
    loom::model(|| {
        let map = map();
        let other = map.clone();
        let reader = thread::spawn(move || {
            for index in [2, 3] {
                assert!(found(&other, index).is_none_or(|number| number == index as u32));
            }
        });
        map.set(2, block(2));
        map.set(3, block(3));
        assert!(reader.join().is_ok());
        assert_eq!(found(&map, 0), None);
        assert_eq!(found(&map, 4), None, "beyond the end");
        free(&map, [2, 3]);
    });
}
