//! Objects: made, cloned, pinned by peers, dropped, and their memory used again.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering, fence};

use crate::life::Life;
use crate::together;

/// A piece of memory: the life of the object in it, and the tag of that object as plain memory, which loom holds against
/// racing accesses.
struct Piece {
    life: Life,
    body: UnsafeCell<u64>,
}

impl Piece {
    fn vacant() -> Self {
        Self { life: Life::default(), body: UnsafeCell::new(0) }
    }

    /// With an object of tag 1, which has one reference.
    fn unshared() -> Self {
        let piece = Self::vacant();
        piece.make(1);
        piece
    }

    /// As `unshared`, with two references.
    fn twice() -> Self {
        let piece = Self::unshared();
        piece.life.add_reference();
        piece
    }

    /// As `unshared`, and a handle was given out.
    fn shared() -> Self {
        let piece = Self::unshared();
        piece.life.share();
        piece
    }

    /// Makes an object, in memory that nobody else has.
    fn make(&self, tag: u64) {
        self.life.begin(tag, false);
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
        let last = self.life.is_its_holders_alone() || self.life.drop_reference();
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

    fn must_be_gone(&self) {
        // SAFETY: loom reports it if anybody writes meanwhile.
        self.body.with(|body| assert_eq!(unsafe { *body }, 0, "never destroyed"));
        assert!(!self.serve(1));
    }
}

/// The roles.
fn drops(piece: &Piece) {
    piece.drop_reference(1);
}

fn serves(piece: &Piece) {
    piece.serve(1);
}

fn shares_and_drops(piece: &Piece) {
    piece.life.share();
    piece.drop_reference(1);
}

#[test]
fn the_last_of_several_references_destroys_once() {
    let clones_and_drops = |piece: &Piece| {
        piece.life.add_reference();
        piece.drop_reference(1);
        piece.drop_reference(1);
    };
    together(None, Piece::twice, &[drops, clones_and_drops], Piece::must_be_gone);
}

#[test]
fn the_only_reference_may_write() {
    let writes = |piece: &Piece| {
        if piece.life.references() == 1 {
            // SAFETY: loom reports it if anybody else is here.
            piece.body.with_mut(|body| unsafe { *body = 1 });
        }
        piece.drop_reference(1);
    };
    together(None, Piece::twice, &[drops, writes], Piece::must_be_gone);
}

#[test]
fn an_object_without_a_handle_is_dropped_without_regard_to_peers() {
    let serves = |piece: &Piece| assert!(!piece.serve(1), "pinned, and no handle was given out");
    let drops = |piece: &Piece| assert!(piece.drop_reference(1));
    together(None, Piece::unshared, &[drops, serves, serves], Piece::must_be_gone);
}

#[test]
fn an_object_outlives_its_last_reference_while_it_is_served() {
    together(None, Piece::shared, &[drops, serves], Piece::must_be_gone);
    together(Some(2), Piece::shared, &[drops, serves, serves], Piece::must_be_gone);
}

#[test]
fn a_handle_given_out_by_one_of_two_holders_counts_for_the_other() {
    together(None, Piece::twice, &[drops, shares_and_drops], Piece::must_be_gone);
    together(Some(2), Piece::twice, &[drops, shares_and_drops, serves], Piece::must_be_gone);
}

#[test]
fn threads_that_give_out_handles_together_leave_the_object_shared() {
    let shares = |piece: &Piece| {
        piece.life.share();
        assert!(piece.serve(1), "a handle was given out and the object lives");
    };
    let after = |piece: &Piece| assert!(piece.drop_reference(1));
    together(None, Piece::unshared, &[shares, shares], after);
}

#[test]
fn a_late_handle_never_reaches_the_next_object_in_the_memory() {
    let drops_and_makes = |piece: &Piece| {
        if piece.drop_reference(1) {
            piece.make(2);
            piece.life.share();
            piece.drop_reference(2);
        }
    };
    together(Some(3), Piece::shared, &[drops_and_makes, serves], Piece::must_be_gone);
}

#[test]
fn a_check_word_that_is_seen_shows_the_rest() {
    let makes = |piece: &Piece| piece.make(1);
    let walks = |piece: &Piece| {
        if piece.life.check() == !1 {
            assert_eq!((piece.life.tag(), piece.life.references()), (1, 1));
            piece.look(1);
        }
    };
    together(None, Piece::vacant, &[makes, walks], drops);
}

#[test]
fn a_copy_that_was_overtaken_by_the_next_object_is_noticed() {
    type Copied = (Life, AtomicU64);
    fn make(object: &Copied, tag: u64) {
        object.0.begin(tag, false);
        object.0.publish(!tag);
        object.1.store(tag, Ordering::Relaxed);
    }
    let first = || {
        let object = Copied::default();
        make(&object, 1);
        object
    };
    let drops_and_makes = |object: &Copied| {
        assert!(object.0.is_its_holders_alone() || object.0.drop_reference());
        object.0.end();
        make(object, 2);
    };
    // As a peer of the same host copies: it can pin nothing.
    let copies = |(life, contents): &Copied| {
        if life.is(1) {
            let got = contents.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            assert!(!life.is(1) || got == 1, "contents of another object passed for this one's");
        }
    };
    together(Some(3), first, &[drops_and_makes, copies], |object| assert!(object.0.is(2)));
}
