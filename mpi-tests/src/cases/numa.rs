//! Where memory comes to lie, for each `lunasa.numa.policy`: ranks that are bound to different nodes, blocks that go round
//! all nodes, a pool per node, and objects that name their node. On a machine with one node all is there.
//!
//! With the argument `fill` also what becomes of a node that has too little memory left: for a machine of its own.

use super::support::*;
use lunasa::snapshot::{BlockInfo, PoolInfo};
use lunasa::topology::{CpuList, Topology};
use lunasa::{Config, Error, Ldo, Lunasa};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::collections::BTreeMap;

const MIB: usize = 1 << 20;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let topology = Topology::discover()?;
    with_local_each_rank_has_its_own_node(world, &topology)?;
    with_interleave_pages_go_round(world, &topology)?;
    with_a_pool_per_node_memory_is_where_the_thread_is_or_where_it_is_named(world, &topology)?;
    if arguments.iter().any(|argument| argument == "fill") {
        a_node_that_is_full_gives_way(world, &topology)?;
    }
    if world.rank() == 0 {
        println!("nodes with memory: {:?}", topology.memory_nodes());
    }
    done(world, "numa")
}

fn config_of(policy: &str) -> Result<Config, Error> {
    config(&["self", "shm", "mpi"])?.set("lunasa.numa.policy", policy)?.set("lunasa.lazy_memory_manager", "tcmalloc")
}

/// Binds one thread, or with 0 as `thread` the calling one.
fn bind(thread: libc::pid_t, cpus: &CpuList) {
    // SAFETY: plain data, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: only changes the set; cpus beyond its end are left out.
    cpus.iter().for_each(|cpu| unsafe { libc::CPU_SET(cpu as usize, &mut set) });
    // SAFETY: the set is only read.
    let code = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &set) };
    assert_eq!(code, 0, "cannot be bound to {cpus}: {}", std::io::Error::last_os_error());
}

/// Binds all threads of this process, those of MPI too.
fn bind_all(cpus: &CpuList) -> Result<(), std::io::Error> {
    for task in std::fs::read_dir("/proc/self/task")? {
        if let Some(thread) = task?.file_name().to_str().and_then(|name| name.parse().ok()) {
            bind(thread, cpus);
        }
    }
    Ok(())
}

/// How many pages of the object's data are on each node.
fn pages(object: &Ldo) -> Result<BTreeMap<i32, usize>, Error> {
    const PAGE: usize = 4096;
    let (at, len) = object.data_ptr()?;
    let addresses: Vec<*mut u8> = (0..len / PAGE).map(|page| at.wrapping_add(page * PAGE)).collect();
    let mut status = vec![-1; addresses.len()];
    // SAFETY: both arrays have as many entries as said; without target nodes the call only asks.
    let code = unsafe {
        let none = std::ptr::null::<i32>();
        libc::syscall(libc::SYS_move_pages, 0, addresses.len(), addresses.as_ptr(), none, status.as_mut_ptr(), 0)
    };
    assert_eq!(code, 0, "move_pages: {}", std::io::Error::last_os_error());
    let mut found = BTreeMap::new();
    status.into_iter().for_each(|node| *found.entry(node).or_insert(0) += 1);
    Ok(found)
}

/// An object of 2 MiB, with all its pages on this node.
#[track_caller]
fn lies_on(object: &Ldo, node: u32) {
    let found = pages(object).expect("a sound object");
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [node as i32], "{found:?} is not node {node}");
}

fn with_local_each_rank_has_its_own_node(world: &SimpleCommunicator, topology: &Topology) -> Outcome {
    let with_cpus = |node: &&u32| topology.cpus_of(**node).is_some_and(|cpus| !cpus.is_empty());
    let nodes: Vec<u32> = topology.memory_nodes().iter().filter(with_cpus).copied().collect();
    let own = nodes[world.rank() as usize % nodes.len()];
    bind_all(topology.cpus_of(own).expect("a node of the list"))?;
    let lunasa = Lunasa::start(world, config_of("local")?)?;
    assert_eq!(lunasa.snapshot().rank.numa_node, Some(own));
    let objects = [
        lunasa.object().zeroed().data(2 * MIB)?,
        lunasa.object().lazy().zeroed().data(2 * MIB)?,
        lunasa.object().node(own).data(2 * MIB)?,
    ];
    objects.iter().for_each(|object| lies_on(object, own));
    let snapshot = lunasa.snapshot();
    assert!(snapshot.pools.iter().all(|pool| pool.node == Some(own)), "{:?}", snapshot.pools);
    for block in &snapshot.blocks {
        let on = block.nodes_found.iter().map(|(node, _)| *node).collect::<Vec<_>>();
        assert_eq!((block.node_asked, on), (Some(own), vec![own]), "{block:?}");
    }
    for other in nodes.iter().copied().filter(|node| *node != own).chain([u32::MAX]) {
        let error = lunasa.object().node(other).data(1).expect_err("only the own node has a pool").to_string();
        assert!(error.contains(&format!("is on node {own} only; set lunasa.numa.policy = \"per-node\"")), "{error}");
    }
    // Each rank fetches from the next one, whose memory is on another node.
    let handles = everybodys(world, &lunasa, objects[0].handle()?);
    let next = (world.rank() + 1) % world.size();
    lies_on(&lunasa.fetch(&handles[next as usize])?, own);
    meet(world, &lunasa);
    drop(objects);
    finish(lunasa)?;
    Ok(bind_all(topology.cpus())?)
}

fn with_interleave_pages_go_round(world: &SimpleCommunicator, topology: &Topology) -> Outcome {
    let nodes = topology.memory_nodes();
    let lunasa = Lunasa::start(world, config_of("interleave")?)?;
    let objects = [lunasa.object().data(8 * MIB)?, lunasa.object().lazy().data(8 * MIB)?];
    for object in &objects {
        let found = pages(object)?;
        assert_eq!(found.keys().map(|node| *node as u32).collect::<Vec<_>>(), nodes, "{found:?}");
        let all: usize = found.values().sum();
        // Huge pages may begin and end on any of the nodes.
        assert!(found.values().all(|pages| *pages * nodes.len() * 2 >= all), "{found:?}");
    }
    for BlockInfo { node_asked, interleaved, nodes_found, note, .. } in lunasa.snapshot().blocks {
        assert_eq!((node_asked, &interleaved), (None, &nodes));
        let most = nodes_found.iter().map(|(_, pages)| *pages).max();
        assert!(nodes_found.iter().all(|(_, pages)| most <= Some(pages + 1)), "{nodes_found:?} {note:?}");
    }
    let error = lunasa.object().node(nodes[0]).data(1).expect_err("no pool of one node").to_string();
    assert!(error.contains("is on no particular node; set lunasa.numa.policy = \"per-node\""), "{error}");
    drop(objects);
    Ok(finish(lunasa)?)
}

fn with_a_pool_per_node_memory_is_where_the_thread_is_or_where_it_is_named(
    world: &SimpleCommunicator,
    topology: &Topology,
) -> Outcome {
    let nodes = topology.memory_nodes();
    let lunasa = Lunasa::start(world, config_of("per-node")?)?;
    let names: Vec<String> = lunasa.snapshot().pools.into_iter().map(|pool| pool.name).collect();
    let of = |time: &str| nodes.iter().map(|node| format!("{time}.{node}")).collect::<Vec<_>>();
    assert_eq!(names, [of("eager"), of("lazy")].concat());

    let mut objects = Vec::new();
    for &node in &nodes {
        for object in [lunasa.object().node(node), lunasa.object().node(node).lazy()] {
            let mut object = object.data(2 * MIB)?;
            object.data_mut::<u8>()?.fill(node as u8 + 1);
            lies_on(&object, node);
            objects.push((object, node));
        }
        // A thread on this node, with memory from there unasked.
        let cpus = topology.cpus_of(node).map(|cpus| cpus.intersection(topology.cpus())).unwrap_or_default();
        if !cpus.is_empty() {
            std::thread::scope(|scope| {
                let made = scope.spawn(|| {
                    bind(0, &cpus);
                    [lunasa.object().data(2 * MIB), lunasa.object().lazy().data(2 * MIB)]
                });
                made.join().expect("a panic has ended the job").into_iter().try_for_each(|object| {
                    lies_on(&object?, node);
                    Ok::<_, Error>(())
                })
            })?;
        }
    }
    let error = lunasa.object().node(4711).data(1).expect_err("no such node").to_string();
    let known: Vec<String> = nodes.iter().map(|node| node.to_string()).collect();
    assert!(error.contains("NUMA node 4711") && error.ends_with(&format!("use are: {}", known.join(", "))), "{error}");

    // Whichever pool it is in, an object is served, listed and counted.
    for (object, node) in &objects {
        let handles = everybodys(world, &lunasa, object.handle()?);
        for peer in peers(&lunasa) {
            assert!(lunasa.fetch(&handles[peer])?.data::<u8>()?.iter().all(|byte| *byte == *node as u8 + 1));
        }
        meet(world, &lunasa);
    }
    assert_eq!((lunasa.objects("eager", 99).len(), lunasa.objects("lazy", 99).len()), (nodes.len(), nodes.len()));
    lunasa.check()?;
    let last = nodes[nodes.len() - 1];
    let live = |pools: Vec<PoolInfo>| pools.into_iter().map(|pool| pool.live_objects).collect::<Vec<_>>();
    assert_eq!(live(lunasa.snapshot().pools), vec![1; 2 * nodes.len()]);
    let (kept, _) = objects.pop().expect("there is one for each node");
    objects.clear();
    let report = lunasa.finish()?;
    assert_eq!((report.objects(), &report.groups[0].pool), (1, &format!("lazy.{last}")), "{report}");
    assert!(kept.data::<u8>()?.iter().all(|byte| *byte == last as u8 + 1), "its memory stays");
    Ok(())
}

/// On rank 0, more than the last node has is asked of it: what does not fit lies elsewhere, and is told.
fn a_node_that_is_full_gives_way(world: &SimpleCommunicator, topology: &Topology) -> Outcome {
    let node = topology.nodes().last().expect("there is one");
    let lunasa = Lunasa::start(world, config_of("per-node")?.set("lunasa.tcmalloc.max_system_alloc", "64 MiB")?)?;
    if world.rank() == 0 {
        let objects = node.free_bytes as usize / (60 * MIB) + 2;
        let made: Vec<Ldo> =
            (0..objects).map(|_| lunasa.object().node(node.id).data(60 * MIB)).collect::<Result<_, _>>()?;
        let blocks = lunasa.snapshot().blocks;
        let asked: Vec<&BlockInfo> = blocks.iter().filter(|block| block.node_asked == Some(node.id)).collect();
        let told = |block: &&&BlockInfo| block.note.as_ref().is_some_and(|note| note.contains("left: preferred"));
        let away = |block: &&&BlockInfo| block.nodes_found.iter().any(|(found, _)| *found != node.id);
        assert!(asked.iter().filter(away).count() > 0, "{blocks:?}");
        for block in asked.iter().filter(away) {
            assert!(told(&block), "{block:?}");
        }
        println!("full: {} of {} blocks told", asked.iter().filter(told).count(), asked.len());
        drop(made);
    }
    meet(world, &lunasa);
    Ok(finish(lunasa)?)
}
