//! Transfers as requests: many under way at once, tested, waited for, waited for with a limit, or let go.

use super::support::*;
use lunasa::{Error, HandleFault, Ldo, Lunasa, Request, Waited};
use mpi::topology::SimpleCommunicator;
use std::time::{Duration, Instant};

/// Requests of one rank to each peer at once.
const AT_ONCE: usize = 6;
const LEN: usize = 120_000;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in &choices(arguments) {
        let lunasa = start(world, routes)?;
        many_requests_end_with_their_own_objects(world, &lunasa, seed)?;
        parts_put_by_requests_arrive(world, &lunasa, seed)?;
        requests_that_are_let_go_do_no_harm(world, &lunasa, seed)?;
        what_does_not_fit_is_refused(world, &lunasa)?;
        finish(lunasa)?;
    }
    done(world, "requests")
}

/// Ends a request in one of the ways there are.
fn ended(request: Request, way: usize) -> Result<Ldo, Error> {
    let mut request = request;
    match way % 3 {
        0 => request.wait(),
        1 => {
            let start = Instant::now();
            while !request.test() {
                assert!(start.elapsed() < Duration::from_secs(20), "a request does not end");
                std::thread::yield_now();
            }
            request.wait()
        }
        _ => loop {
            match request.wait_timeout(Duration::from_micros(50))? {
                Waited::Done(object) => return Ok(object),
                Waited::Pending(again) => request = again,
            }
        },
    }
}

fn many_requests_end_with_their_own_objects(
    world: &SimpleCommunicator,
    lunasa: &Lunasa,
    seed: u64,
) -> Result<(), Error> {
    let sample = Sample::of(seed, lunasa.rank() as usize, 0);
    let object = sample.object(lunasa)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    let mut requests = Vec::new();
    for peer in peers(lunasa) {
        let handle = &handles[peer];
        for number in 0..AT_ONCE {
            let into = lunasa.object().data(handle.data_len())?;
            let from = handle.data_len() * number / AT_ONCE;
            requests.push((peer, None, lunasa.start_fetch(handle)?));
            requests.push((peer, Some(from), lunasa.start_get(handle, from.., into)?));
        }
    }
    for (way, (peer, from, request)) in requests.into_iter().enumerate().rev() {
        let (object, sample) = (ended(request, way)?, Sample::of(seed, peer, 0));
        match from {
            None => sample.check(&object)?,
            Some(from) => same(&object.data()?[..sample.data.len() - from], &sample.data[from..]),
        }
        assert!(object.is_unique(), "the request kept a reference: {object:?}");
    }
    meet(world, lunasa);
    Ok(())
}

fn parts_put_by_requests_arrive(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let (rank, ranks) = (lunasa.rank() as usize, lunasa.ranks() as usize);
    let target = lunasa.object().zeroed().data(LEN * ranks)?;
    // SAFETY: no slice of the target is taken while peers write.
    let handles = everybodys(world, lunasa, unsafe { target.handle_mut() }?);
    let mut source = lunasa.object().data(LEN)?;
    source.data_mut()?.copy_from_slice(&any_bytes(&mut numbers(seed, rank, 77), LEN));
    let mut requests = Vec::new();
    for peer in peers(lunasa) {
        for (from, to) in [(0, 10), (10, 9000), (9000, 9000), (9000, LEN)] {
            requests.push(lunasa.start_put(&source, from..to, &handles[peer], LEN * rank + from)?);
        }
    }
    for (way, request) in requests.into_iter().enumerate() {
        assert!(ended(request, way)?.ptr_eq(&source));
    }
    assert!(source.is_unique());
    meet(world, lunasa);
    for peer in 0..ranks {
        same(&target.data()?[LEN * peer..LEN * (peer + 1)], &any_bytes(&mut numbers(seed, peer, 77), LEN));
    }
    meet(world, lunasa);
    Ok(())
}

fn requests_that_are_let_go_do_no_harm(world: &SimpleCommunicator, lunasa: &Lunasa, seed: u64) -> Result<(), Error> {
    let sample = Sample::of(seed, lunasa.rank() as usize, 3);
    let object = sample.object(lunasa)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    for peer in peers(lunasa) {
        drop(lunasa.start_fetch(&handles[peer])?);
        Sample::of(seed, peer, 3).check(&lunasa.fetch(&handles[peer])?)?;
    }
    let start = Instant::now();
    // Their objects go when the transfers have ended.
    while lunasa.snapshot().pools.iter().map(|pool| pool.live_objects).sum::<u64>() > 1 {
        lunasa.progress();
        assert!(start.elapsed() < Duration::from_secs(20), "an object of a request that was let go stays");
    }
    meet(world, lunasa);
    Ok(())
}

fn what_does_not_fit_is_refused(world: &SimpleCommunicator, lunasa: &Lunasa) -> Result<(), Error> {
    let object = lunasa.object().zeroed().data(LEN)?;
    let handles = everybodys(world, lunasa, object.handle()?);
    for peer in peers(lunasa) {
        let handle = &handles[peer];
        let small = lunasa.object().data(LEN - 1)?;
        assert!(matches!(lunasa.start_get(handle, .., small), Err(Error::Object(_))));
        let shared = lunasa.object().data(LEN)?;
        let other = shared.clone();
        assert!(matches!(lunasa.start_get(handle, .., shared), Err(Error::Object(_))));
        drop(other);
        let large = lunasa.object().data(2 * LEN)?;
        let beyond = lunasa.start_get(handle, 1..LEN + 1, large).and_then(Request::wait);
        assert!(matches!(refusal(beyond), HandleFault::OutOfBounds(_)));
        assert_eq!(refusal(lunasa.start_put(&object, .., handle, 0).and_then(Request::wait)), HandleFault::ReadOnly);
        assert!(matches!(lunasa.start_put(&object, 5..LEN + 1, handle, 0), Err(Error::Object(_))));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is to be refused")]
        let backwards = lunasa.start_put(&object, 5..4, handle, 0);
        assert!(matches!(backwards, Err(Error::Object(_))));
    }
    meet(world, lunasa);
    Ok(())
}
