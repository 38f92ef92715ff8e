//! Models of the structures that Lunasa's threads share without a lock, or by a protocol of their own. The structures are
//! the library's own source files, compiled here with loom's atomics and locks in the place of std's; loom then runs each
//! test in every order of steps, and with every value that a weakly ordered load may give.
#![cfg(test)]

mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use loom::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, Mutex, RwLock};
}

#[path = "../../src/object/life.rs"]
mod life;
#[path = "../../src/manager/tcmalloc/map.rs"]
mod map;
#[path = "../../src/registrar/slot.rs"]
mod slot;
#[path = "../../src/manager/tcmalloc/wake.rs"]
mod wake;

mod lives;
mod maps;
mod slots;
mod wakes;

/// Runs the roles beside one another, each on a thread of its own, and then `after`; all on a fresh value each time.
///
/// They are started in every order: of a thread that loads a word and then changes it, loom forgets those who loaded it
/// before, and leaves out ways in which they meet. At most `switches` times a thread is interrupted, if that is given.
fn together<T: 'static>(switches: Option<usize>, make: fn() -> T, roles: &[fn(&T)], after: fn(&T)) {
    for order in orders(roles) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = switches;
        model.check(move || {
            let shared = loom::sync::Arc::new(make());
            let threads: Vec<_> = (order.iter())
                .map(|&role| {
                    let shared = shared.clone();
                    loom::thread::spawn(move || role(&shared))
                })
                .collect();
            threads.into_iter().for_each(|thread| assert!(thread.join().is_ok()));
            after(&shared);
        });
    }
}

fn orders<T: Copy>(of: &[T]) -> Vec<Vec<T>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let firsts = 0..of.len();
    let with_first = |first: usize| {
        let rest = [&of[..first], &of[first + 1..]].concat();
        orders(&rest).into_iter().map(move |order| [&[of[first]], &order[..]].concat())
    };
    firsts.flat_map(with_first).collect()
}
