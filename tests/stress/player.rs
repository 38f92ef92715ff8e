//! One thread's part in a play of random steps with objects, held against what their contents must be. What is random comes
//! from a generator (`tests/stress`) or from a fuzzer's bytes (`fuzz/`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lunasa::{Error, HandleFault, Ldo, Lunasa, RemoteHandle};

/// A number below the one given; `None` when the play is over.
pub type Choose<'a> = &'a mut dyn FnMut(usize) -> Option<usize>;

/// What an object must hold, whoever holds it.
#[derive(Debug)]
struct Contents {
    stamp: u64,
    meta: usize,
    data: usize,
    /// A handle was given out: not changed any more, so that whoever fetches knows what to get.
    named: AtomicBool,
}

/// A reference, and what its object must hold.
#[derive(Debug)]
pub struct Held {
    object: Ldo,
    contents: Arc<Contents>,
}

/// A handle of an object that may be gone, and what it held.
#[derive(Debug, Clone)]
pub struct Named {
    handle: RemoteHandle,
    contents: Arc<Contents>,
}

/// What threads give to one another.
#[derive(Debug)]
pub enum Given {
    Object(Held),
    Handle(Named),
}

/// One thread's part.
pub struct Player<'a> {
    lunasa: &'a Lunasa,
    held: Vec<Held>,
    named: VecDeque<Named>,
    /// At most this many references are held.
    most: usize,
}

/// Places of a section that are written and looked at: its ends, and one on each page. An overlap of two objects covers one.
fn places(len: usize) -> impl Iterator<Item = usize> {
    const END: usize = 48;
    let ends = (0..len.min(END)).chain(len.saturating_sub(END).max(END.min(len))..len);
    ends.chain((4096..len.saturating_sub(END)).step_by(4096))
}

fn byte(stamp: u64, place: usize) -> u8 {
    ((stamp ^ place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Contents {
    fn new(meta: usize, data: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let stamp = NEXT.fetch_add(1, Ordering::Relaxed) << 20;
        Self { stamp, meta, data, named: AtomicBool::new(false) }
    }

    /// Writes it into an object of which there is one reference.
    fn write(self, mut object: Ldo) -> Held {
        let data = object.data_mut::<u8>().expect("the only reference");
        places(data.len()).for_each(|place| data[place] = byte(self.stamp, place));
        let meta = object.meta_mut::<u8>().expect("the only reference");
        places(meta.len()).for_each(|place| meta[place] = byte(!self.stamp, place));
        Held { object, contents: Arc::new(self) }
    }

    fn must_be_in(&self, object: &Ldo) {
        assert_eq!((object.meta_len(), object.data_len()), (self.meta, self.data), "{object:?}");
        let (meta, data) = (object.meta::<u8>().expect("sound"), object.data::<u8>().expect("sound"));
        let wrong = places(data.len()).find(|&place| data[place] != byte(self.stamp, place));
        let wrong = wrong.or(places(meta.len()).find(|&place| meta[place] != byte(!self.stamp, place)));
        assert_eq!(wrong, None, "a byte changed in {object:?}");
    }
}

impl Held {
    /// The address that tells objects apart.
    pub fn address(&self) -> usize {
        self.object.data_ptr().expect("sound").0.addr()
    }

    pub fn must_be_right(&self) {
        self.contents.must_be_in(&self.object);
    }

    /// Names the object.
    fn name(&self) -> Named {
        self.contents.named.store(true, Ordering::Relaxed);
        Named { handle: self.object.handle().expect("registers"), contents: self.contents.clone() }
    }
}

/// A size of any order of magnitude up to a bit more than 32 MiB, small ones far more often.
fn size(choose: Choose<'_>) -> Option<usize> {
    let bits = match choose(200)? {
        0 => 26,
        1..10 => 21,
        10..60 => 16,
        _ => 12,
    };
    let bits = choose(bits)?;
    choose((1 << bits) + 1)
}

impl<'a> Player<'a> {
    pub fn new(lunasa: &'a Lunasa, held: Vec<Held>, most: usize) -> Self {
        Self { lunasa, held, named: VecDeque::new(), most }
    }

    /// Takes what another thread gave.
    pub fn take(&mut self, given: Given) {
        match given {
            Given::Object(held) => self.held.push(held),
            Given::Handle(named) => self.remember(named),
        }
    }

    /// What it holds at the end.
    pub fn end(self) -> Vec<Held> {
        self.held
    }

    fn remember(&mut self, named: Named) {
        self.named.push_back(named);
        if self.named.len() > 16 {
            self.named.pop_front();
        }
    }

    /// Does one thing. What it gives away goes to `give`, which may give it back; `None` when the play is over.
    pub fn step(&mut self, choose: Choose<'_>, give: &mut dyn FnMut(Given) -> Option<Given>) -> Option<()> {
        let what = choose(64)?;
        if self.held.is_empty() || (self.held.len() < self.most && what < 28) {
            return self.make(what, choose);
        }
        let index = choose(self.held.len())?;
        match what {
            0..42 => {
                let held = self.held.swap_remove(index);
                held.must_be_right();
            }
            42..46 => {
                let held = &self.held[index];
                self.held.push(Held { object: held.object.clone(), contents: held.contents.clone() });
            }
            46..49 => {
                let held = &self.held[index];
                let copy = held.object.deep_copy().expect("allocates");
                held.contents.must_be_in(&copy);
                let contents = Contents::new(held.contents.meta, held.contents.data);
                self.held.push(contents.write(copy));
            }
            49..53 => {
                let held = self.held.swap_remove(index);
                let held = resize(held, choose)?;
                self.held.push(held);
            }
            53..58 => {
                let given = give(Given::Object(self.held.swap_remove(index)));
                given.into_iter().for_each(|given| self.take(given));
            }
            58 | 59 => {
                let named = self.held[index].name();
                if let Some(given) = give(Given::Handle(named)) {
                    self.take(given);
                }
            }
            60 => {
                let named = self.held[index].name();
                let got = self.lunasa.fetch(&named.handle).expect("the object lives");
                named.contents.must_be_in(&got);
            }
            61 | 62 => self.fetch_what_may_be_gone(),
            _ => self.look(choose)?,
        }
        Some(())
    }

    fn make(&mut self, what: usize, choose: Choose<'_>) -> Option<()> {
        let (meta, data) = if what.is_multiple_of(4) { (choose(300)?, size(choose)?) } else { (0, size(choose)?) };
        let builder = self.lunasa.object().type_id(what as u32).meta(meta);
        let builder = if what.is_multiple_of(3) { builder.lazy() } else { builder };
        let object = match what {
            1 => builder.user(vec![0u8; data.clamp(1, 5000)]),
            2 => builder.capacity(meta + data + 1000).data(data),
            _ => builder.data(data),
        };
        let object = object.expect("allocates");
        self.held.push(Contents::new(meta, object.data_len()).write(object));
        Some(())
    }

    fn fetch_what_may_be_gone(&mut self) {
        let Some(named) = self.named.pop_front() else { return };
        match self.lunasa.fetch(&named.handle) {
            Ok(got) => named.contents.must_be_in(&got),
            Err(Error::Handle(HandleFault::Stale(_))) => {}
            Err(other) => panic!("{other}"),
        }
    }

    /// What goes over all objects, or over none.
    fn look(&self, choose: Choose<'_>) -> Option<()> {
        match choose(40)? {
            0 => {
                let objects = self.lunasa.objects(["eager", "lazy"][choose(2)?], 300);
                let damaged = objects.iter().find(|object| object.kind == "damaged");
                assert!(damaged.is_none(), "{damaged:?}");
            }
            1 => {
                let _ = self.lunasa.snapshot();
            }
            2 => self.lunasa.reserve(choose(4 << 20)?).expect("grows"),
            _ => {}
        }
        Some(())
    }
}

/// Changes the sizes if that may be.
fn resize(held: Held, choose: Choose<'_>) -> Option<Held> {
    let Held { mut object, contents } = held;
    if !object.is_unique() || contents.named.load(Ordering::Relaxed) {
        return Some(Held { object, contents });
    }
    let room = object.capacity();
    let meta = contents.meta.min(room);
    let (data, beyond) = (choose(room - meta + 1)?, choose(8)? == 0);
    if beyond {
        assert!(object.resize(meta, room + 1).is_err(), "beyond the capacity");
        contents.must_be_in(&object);
        return Some(Held { object, contents });
    }
    if object.resize(meta, data).is_err() {
        assert!(object.is_user(), "within the capacity");
        return Some(Held { object, contents });
    }
    let kept = &object.data::<u8>().expect("sound")[..data.min(contents.data)];
    // What had been written, as far as it is there.
    assert!(places(contents.data).filter(|&at| at < kept.len()).all(|at| kept[at] == byte(contents.stamp, at)));
    Some(Contents::new(meta, data).write(object))
}
