#![allow(clippy::unwrap_used)]
//! What was recorded is what is read, and what is not a trace is an error.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::format::{CHUNK_HEAD, START};
use super::*;
use crate::{Config, Lunasa};

fn recording(name: &Path) -> Lunasa {
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
    Lunasa::local(config.set("lunasa.trace.record", name.to_string_lossy().as_ref()).unwrap()).unwrap()
}

/// Counts what it is asked for.
#[derive(Default)]
struct Counting {
    live: AtomicUsize,
    allocations: AtomicUsize,
    sizes: Mutex<BTreeMap<(usize, bool), usize>>,
    refuses_after: Option<usize>,
}

struct Token(usize);

impl Player for Counting {
    type Held = Token;

    fn allocate(&self, bytes: usize, lazy: bool) -> Result<Token> {
        if self.allocations.fetch_add(1, Ordering::SeqCst) >= self.refuses_after.unwrap_or(usize::MAX) {
            return Err(Error::Memory("no more".into()));
        }
        self.live.fetch_add(bytes + 1, Ordering::SeqCst);
        *self.sizes.lock().unwrap().entry((bytes, lazy)).or_default() += 1;
        Ok(Token(bytes))
    }

    fn release(&self, held: Token) {
        self.live.fetch_sub(held.0 + 1, Ordering::SeqCst);
    }
}

/// Records two threads, of which the second drops what the first made, and one that stays until the end of the recording.
fn some_trace(directory: &Path) -> Vec<u8> {
    let lunasa = recording(&directory.join("some-%r"));
    let kept = lunasa.object().lazy().data(77).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..1500).for_each(|i| sender.send(lunasa.object().meta(8).data(i).unwrap()).unwrap()));
        scope.spawn(move || (0..1500).for_each(|_| drop(receiver.recv().unwrap())));
    });
    assert_eq!(lunasa.finish().unwrap().objects(), 1);
    drop(kept);
    std::fs::read(directory.join("some-0")).unwrap()
}

#[test]
fn what_was_recorded_is_read_and_replayed_and_nothing_stays_alive() {
    let directory = tempfile::tempdir().unwrap();
    let trace = Trace::parse(&some_trace(directory.path())).unwrap();
    assert_eq!((trace.rank(), trace.threads(), trace.objects(), trace.is_whole()), (0, 3, 1501, true));
    assert_eq!(trace.events().len(), 1501 + 1500);
    assert!(trace.events().is_sorted_by_key(|event| event.time_ns));
    let player = Counting::default();
    trace.script().play(&player).unwrap();
    assert_eq!((player.live.load(Ordering::SeqCst), player.allocations.load(Ordering::SeqCst)), (0, 1501));
    let expected: BTreeMap<_, _> = (0..1500).map(|i| ((i + 8, false), 1)).chain([((77, true), 1)]).collect();
    // 77 is also a size of the eager ones, in the other pool.
    assert_eq!(*player.sizes.lock().unwrap(), expected);
}

#[test]
fn the_peak_is_where_most_is_alive() {
    let directory = tempfile::tempdir().unwrap();
    let lunasa = recording(&directory.path().join("t"));
    let objects: Vec<_> = (0..10).map(|_| lunasa.object().data(1000).unwrap()).collect();
    drop(objects);
    let one = lunasa.object().capacity(4000).data(10).unwrap();
    drop(one);
    lunasa.finish().unwrap();
    let trace = Trace::read(&directory.path().join("t.0")).unwrap();
    assert_eq!(trace.peak(), (10, 10_000));
    let player = Counting::default();
    let held = trace.play_to_peak(&player).unwrap();
    assert_eq!((held.len(), player.live.load(Ordering::SeqCst)), (10, 10_010));
}

#[test]
fn threads_that_had_ended_have_ended_in_the_replay() {
    let directory = tempfile::tempdir().unwrap();
    let lunasa = recording(&directory.path().join("t"));
    for _ in 0..50 {
        let work = || (0..20).for_each(|_| drop(lunasa.object().data(10).unwrap()));
        std::thread::scope(|scope| {
            scope.spawn(work).join().unwrap();
        });
    }
    lunasa.finish().unwrap();
    /// How often another thread played than the one before.
    #[derive(Default)]
    struct Threads(Mutex<(Option<std::thread::ThreadId>, usize)>);
    impl Player for Threads {
        type Held = ();
        fn allocate(&self, _: usize, _: bool) -> Result<()> {
            let (last, changes) = &mut *self.0.lock().unwrap();
            let own = Some(std::thread::current().id());
            if *last != own {
                (*last, *changes) = (own, *changes + 1);
            }
            Ok(())
        }
        fn release(&self, (): ()) {}
    }
    let player = Threads::default();
    Trace::read(&directory.path().join("t.0")).unwrap().script().play(&player).unwrap();
    assert_eq!(player.0.into_inner().unwrap().1, 50, "threads that came one after another overlapped");
}

#[test]
fn a_replay_that_is_refused_ends_and_gives_everything_back() {
    let directory = tempfile::tempdir().unwrap();
    let trace = Trace::parse(&some_trace(directory.path())).unwrap();
    for refuses_after in [0, 1, 700] {
        let player = Counting { refuses_after: Some(refuses_after), ..Counting::default() };
        assert!(matches!(trace.script().play(&player), Err(Error::Memory(_))));
        assert_eq!(player.live.load(Ordering::SeqCst), 0);
        assert!(trace.play_to_peak(&player).is_err());
        assert_eq!(player.live.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_trace_that_ends_early_gives_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = some_trace(directory.path());
    let whole = Trace::parse(&bytes).unwrap();
    let mut lengths = Vec::new();
    for len in (START..bytes.len()).step_by(7) {
        let cut = Trace::parse(&bytes[..len]).unwrap();
        assert!(!cut.is_whole() && cut.objects() <= whole.objects());
        cut.script().play(&Counting::default()).unwrap();
        lengths.push(cut.events().len());
    }
    assert!(lengths.is_sorted() && lengths.last().is_some_and(|&most| most > 1000), "{lengths:?}");
    for len in 0..START {
        assert!(Trace::parse(&bytes[..len]).unwrap_err().to_string().contains("bytes; a trace has at least 16"));
    }
}

#[test]
fn a_run_that_was_killed_leaves_a_readable_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let lunasa = recording(&directory.path().join("t"));
    (0..20_000).for_each(|i| drop(lunasa.object().data(i % 1000).unwrap()));
    // As the file is before finish, and so after a kill.
    let trace = Trace::read(&directory.path().join("t.0")).unwrap();
    assert!(!trace.is_whole() && trace.objects() > 15_000, "{}", trace.objects());
    lunasa.finish().unwrap();
    assert_eq!(Trace::read(&directory.path().join("t.0")).unwrap().objects(), 20_000);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let good = |events: &[u8]| {
        let mut bytes = format::start_of(3);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((events.len() as u32).to_le_bytes());
        bytes.extend(events);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        bytes
    };
    let says = |bytes: &[u8], what: &str| {
        let said = Trace::parse(bytes).unwrap_err().to_string();
        assert!(said.contains(what), "{said}, not {what}");
    };
    // Allocate object 1 of 100 bytes; drop it; an event is time << 2 | lazy << 1 | drop, serial, size.
    let (made, dropped) = ([4, 2, 100], [1, 2]);
    assert_eq!(Trace::parse(&good(&[made.as_slice(), &dropped].concat())).unwrap().peak(), (1, 36));
    says(&good(&[4, 2, 63]), "byte 26: an allocation of 63 bytes; it must be 64 (headers)");
    says(&good(&[4, 2]), "byte 26: an allocation's size ends in the middle");
    says(&good(&[0x80; 11]), "byte 24: an event's time is longer than 64 bits");
    says(&good(&[4, 2, 100, 4, 0, 100]), "byte 27: object 1 is allocated twice");
    says(&good(&[made.as_slice(), &dropped, &[1, 0]].concat()), "byte 29: object 1 is dropped twice");
    says(&good(&dropped), "byte 24: object 1 is dropped, but never allocated");
    says(&good(&[]), "byte 16: a chunk of 0 bytes");
    says(b"LUNATRC2________", "byte 0: it does not begin with \"LUNATRC1\"");
    let mut other = good(&made);
    other[12] = 32;
    says(&other, "byte 12: objects have headers of 32 bytes, not of 64");
    let mut longer = good(&made);
    longer.push(0);
    says(&longer, "byte 27: the mark of the end is followed by something");
    let mut long = good(&made);
    long[22] = 1;
    says(&long, "byte 16: a chunk of 65539 bytes; it must be 1 to 8192");
    assert!(Trace::read(Path::new("/nowhere/t")).unwrap_err().to_string().contains("/nowhere/t: No such file"));
}

#[test]
fn a_trace_cannot_be_recorded_where_there_is_no_place_or_somebody_else_writes() {
    let directory = tempfile::tempdir().unwrap();
    let first = recording(&directory.path().join("t"));
    let start = |name: &Path| {
        let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap();
        Lunasa::local(config.set("lunasa.trace.record", name.to_string_lossy().as_ref()).unwrap())
    };
    assert!(
        matches!(start(&directory.path().join("t")), Err(Error::Trace(why)) if why.contains("cannot be had alone"))
    );
    assert!(
        matches!(start(Path::new("/nowhere/t")), Err(Error::Trace(why)) if why.contains("/nowhere/t.0 cannot be made"))
    );
    first.finish().unwrap();
    start(&directory.path().join("t")).unwrap().finish().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn garbled_traces_are_an_error_or_a_trace_that_plays(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()
    ) {
        static SOME: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let directory = tempfile::tempdir().unwrap();
            some_trace(directory.path())
        });
        let mut bytes = SOME.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(START + CHUNK_HEAD + cut.index(bytes.len()));
        match Trace::parse(&bytes) {
            Err(error) => prop_assert!(error.to_string().contains("byte "), "{error}"),
            Ok(trace) => {
                let player = Counting::default();
                trace.script().play(&player).unwrap();
                prop_assert_eq!(player.live.load(Ordering::SeqCst), 0);
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut some = format::start_of(0);
        some.extend(&bytes);
        let _ = (Trace::parse(&bytes), Trace::parse(&some));
    }
}
