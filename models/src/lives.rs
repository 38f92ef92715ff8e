//! Objects: made, cloned, pinned by peers, dropped, and their memory used again.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

use crate::life::Life;

/// A piece of memory: the life of the object in it, and the tag of that object as plain memory, which loom holds against
/// racing accesses.
struct Piece {
    life: Life,
    body: UnsafeCell<u64>,
}

impl Piece {
    fn new(tag: u64) -> Arc<Self> {
        let piece = Self { life: Life::default(), body: UnsafeCell::new(0) };
        piece.make(tag);
        Arc::new(piece)
    }

    /// Makes an object, in memory that nobody else has.
    fn make(&self, tag: u64) {
        self.life.begin(tag);
        self.body.with_mut(|body| {
            // SAFETY: loom reports it if anybody else is here.
            let body = unsafe { &mut *body };
            assert_eq!(*body, 0, "made where there is one");
            *body = tag;
        });
        self.life.publish(!tag);
    }

    /// What a holder of a reference, or of a pin, may do.
    fn look(&self, tag: u64) {
        // SAFETY: loom reports it if anybody writes meanwhile.
        self.body.with(|body| assert_eq!(unsafe { *body }, tag, "another object, or none"));
    }

    fn destroy(&self) {
        self.life.end();
        // SAFETY: loom reports it if anybody else is here.
        self.body.with_mut(|body| assert_ne!(std::mem::take(unsafe { &mut *body }), 0, "destroyed twice"));
    }

    /// Drops a reference; whether that destroyed the object.
    fn drop_reference(&self, tag: u64) -> bool {
        self.look(tag);
        let last = self.life.drop_reference();
        if last {
            self.destroy();
        }
        last
    }

    /// What serving a peer does, which has a handle with this tag; whether it found the object.
    fn serve(&self, tag: u64) -> bool {
        if !self.life.pin(tag) {
            return false;
        }
        let is_it = self.life.tag() == tag;
        if is_it {
            self.look(tag);
        }
        if self.life.unpin() {
            self.destroy();
        }
        is_it
    }

    fn is_gone(&self) -> bool {
        // SAFETY: loom reports it if anybody writes meanwhile.
        self.body.with(|body| unsafe { *body } == 0)
    }
}

/// Runs on a thread of its own.
fn spawn(piece: &Arc<Piece>, run: impl FnOnce(&Piece) + 'static) -> thread::JoinHandle<()> {
    let piece = piece.clone();
    thread::spawn(move || run(&piece))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| assert!(thread.join().is_ok()));
}

#[test]
fn the_last_of_several_references_destroys_once() {
    loom::model(|| {
        let piece = Piece::new(1);
        piece.life.add_reference();
        let other = spawn(&piece, |piece| {
            piece.life.add_reference();
            piece.drop_reference(1);
            piece.drop_reference(1);
        });
        piece.drop_reference(1);
        join([other]);
        assert!(piece.is_gone());
    });
}

#[test]
fn the_only_reference_may_write() {
    loom::model(|| {
        let piece = Piece::new(1);
        piece.life.add_reference();
        let other = spawn(&piece, |piece| {
            piece.drop_reference(1);
        });
        if piece.life.references() == 1 {
            // SAFETY: loom reports it if anybody else is here.
            piece.body.with_mut(|body| unsafe { *body = 1 });
        }
        join([other]);
        piece.drop_reference(1);
        assert!(piece.is_gone());
    });
}

#[test]
fn an_object_without_a_handle_is_dropped_without_regard_to_peers() {
    loom::model(|| {
        let piece = Piece::new(1);
        let peer = spawn(&piece, |piece| assert!(!piece.serve(1), "pinned, and no handle was given out"));
        assert!(piece.drop_reference(1));
        join([peer]);
    });
}

#[test]
fn an_object_outlives_its_last_reference_while_it_is_served() {
    let mut model = loom::model::Builder::new();
    // All orders would take a minute.
    model.preemption_bound = Some(3);
    model.check(|| {
        let piece = Piece::new(1);
        piece.life.share();
        let peers = [(); 2].map(|()| {
            spawn(&piece, |piece| {
                piece.serve(1);
            })
        });
        piece.drop_reference(1);
        join(peers);
        assert!(piece.is_gone());
        assert!(!piece.serve(1));
    });
}

#[test]
fn a_handle_given_out_by_one_of_two_holders_counts_for_the_other() {
    loom::model(|| {
        let piece = Piece::new(1);
        piece.life.add_reference();
        let holder = spawn(&piece, |piece| {
            piece.life.share();
            piece.drop_reference(1);
        });
        let peer = spawn(&piece, |piece| {
            piece.serve(1);
        });
        piece.drop_reference(1);
        join([holder, peer]);
        assert!(piece.is_gone());
    });
}

#[test]
fn threads_that_give_out_handles_together_leave_the_object_shared() {
    loom::model(|| {
        let piece = Piece::new(1);
        let other = spawn(&piece, |piece| piece.life.share());
        piece.life.share();
        let peer = spawn(&piece, |piece| assert!(piece.serve(1), "a handle was given out and the object lives"));
        join([other, peer]);
        assert!(piece.drop_reference(1));
    });
}

#[test]
fn a_late_handle_never_reaches_the_next_object_in_the_memory() {
    loom::model(|| {
        let piece = Piece::new(1);
        piece.life.share();
        let peer = spawn(&piece, |piece| {
            piece.serve(1);
        });
        if piece.drop_reference(1) {
            piece.make(2);
            piece.life.share();
            piece.drop_reference(2);
        }
        join([peer]);
        assert!(piece.is_gone());
    });
}

#[test]
fn a_check_word_that_is_seen_shows_the_rest() {
    loom::model(|| {
        let piece = Arc::new(Piece { life: Life::default(), body: UnsafeCell::new(0) });
        let walker = spawn(&piece, |piece| {
            if piece.life.check() == !1 {
                assert_eq!((piece.life.tag(), piece.life.references()), (1, 1));
                piece.look(1);
            }
        });
        piece.make(1);
        join([walker]);
    });
}

#[test]
fn a_copy_that_was_overtaken_by_the_next_object_is_noticed() {
    loom::model(|| {
        let object = Arc::new((Life::default(), AtomicU64::new(0)));
        let make = |tag| {
            object.0.begin(tag);
            object.0.publish(!tag);
            object.1.store(tag, Ordering::Relaxed);
        };
        make(1);
        let copied = object.clone();
        // As a peer of the same host copies: it can pin nothing.
        let peer = thread::spawn(move || {
            let (life, contents) = &*copied;
            if !life.is(1) {
                return;
            }
            let got = contents.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            assert!(!life.is(1) || got == 1, "contents of another object passed for this one's");
        });
        assert!(object.0.drop_reference());
        object.0.end();
        make(2);
        join([peer]);
    });
}
