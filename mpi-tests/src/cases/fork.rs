//! A rank forks: the child finds Lunasa closed and what it drops does nothing; the parent goes on unharmed.

use super::support::*;
use lunasa::{Error, Ldo, Lunasa, RemoteHandle, Request};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in &choices(arguments) {
        let lunasa = start(world, routes)?;
        let samples: Vec<Sample> = (0..3).map(|n| Sample::of(seed, lunasa.rank() as usize, n)).collect();
        let user = lunasa.object().user(samples[2].data.clone())?;
        let objects = [samples[0].object(&lunasa)?, samples[1].lazy_object(&lunasa)?, user];
        let mut handles = Vec::new();
        for object in &objects {
            handles.push(everybodys(world, &lunasa, object.handle()?));
        }
        let fetched = lunasa.fetch(&handles[0][0])?;
        let next = (lunasa.rank() as usize + 1) % lunasa.ranks() as usize;
        let request = lunasa.start_fetch(&handles[0][next])?;
        let before = books(&lunasa);

        // SAFETY: the child allocates, which glibc allows after a fork, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            child_finds_it_closed(lunasa, objects, fetched, request, &handles[0]);
        }
        assert_eq!(exit_code(child), 0, "the step at which the child failed");

        assert_eq!(books(&lunasa), before);
        Sample::of(seed, next, 0).check(&request.wait()?)?;
        Sample::of(seed, 0, 0).check(&fetched)?;
        samples[0].check(&objects[0])?;
        samples[1].check(&objects[1])?;
        same(objects[2].data()?, &samples[2].data);
        assert!(objects.iter().all(Ldo::is_unique), "a child counted references: {objects:?}");
        meet(world, &lunasa);
        for peer in peers(&lunasa) {
            Sample::of(seed, peer, 0).check(&lunasa.fetch(&handles[0][peer])?)?;
            Sample::of(seed, peer, 1).check(&lunasa.fetch(&handles[1][peer])?)?;
            same(lunasa.fetch(&handles[2][peer])?.data()?, &Sample::of(seed, peer, 2).data);
        }
        meet(world, &lunasa);
        world.barrier();
        drop((objects, fetched));
        finish(lunasa)?;
    }
    done(world, "fork")
}

/// Live objects and their bytes by pool, and registrations.
fn books(lunasa: &Lunasa) -> (Vec<(u64, u64)>, u64) {
    let snapshot = lunasa.snapshot();
    let pools = snapshot.pools.iter().map(|pool| (pool.live_objects, pool.allocated_bytes)).collect();
    (pools, snapshot.registrations.regions)
}

fn exit_code(child: libc::pid_t) -> i32 {
    assert!(child > 0, "fork failed");
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

fn closed<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Closed(_)))
}

/// The child's life. It ends with 0, or with the number of the step that went wrong.
fn child_finds_it_closed(
    lunasa: Lunasa,
    mut objects: [Ldo; 3],
    fetched: Ldo,
    request: Request,
    handles: &[RemoteHandle],
) -> ! {
    // A child that hangs is the same fault as one that crashes.
    // SAFETY: no handler is set: the signal ends the child.
    unsafe { libc::alarm(10) };
    let mut steps = vec![
        closed(lunasa.object().data(100)),
        closed(lunasa.object().lazy().data(100)),
        closed(lunasa.object().user(vec![1u8; 10])),
        closed(objects[0].handle()),
        closed(objects[1].deep_copy()),
        closed(objects[0].data_mut::<u8>().map(drop)),
        closed(objects[1].resize(0, 1)),
        closed(objects[0].set_type_id(5)),
    ];
    for handle in handles {
        steps.push(closed(lunasa.get_bytes(handle, 0, &mut [])));
        steps.push(closed(lunasa.put_bytes(&[], handle, 0)));
        steps.push(closed(lunasa.fetch(handle)));
        steps.push(closed(lunasa.view(handle)));
    }
    steps.push(!lunasa.progress());
    // It may have been over before the fork; if not, nobody will move it on here.
    steps.push(matches!(request.wait(), Ok(_) | Err(Error::Closed(_))));
    // What there is can be read, cloned and dropped.
    steps.push(objects.iter().all(|object| object.data::<u8>().is_ok()));
    let clones: Vec<Ldo> = objects.to_vec();
    drop((clones, objects, fetched));
    steps.push(closed(lunasa.finish()));
    let wrong = steps.iter().position(|&right| !right).map_or(0, |step| step as i32 + 1);
    // SAFETY: ends the process at once, which is always allowed.
    unsafe { libc::_exit(wrong) }
}
