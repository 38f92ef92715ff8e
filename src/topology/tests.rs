//! Tests of the topology: this machine, machines told to hwloc, and machines made up.

#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::process::Command;

/// Set for a copy of this test program that looks at a machine told by `HWLOC_SYNTHETIC`.
const TOLD: &str = "LUNASA_TEST_TOLD_MACHINE";

fn list(text: &str) -> CpuList {
    text.parse().unwrap()
}

fn node(id: u32, without_cpus: bool) -> (u32, NodeMemory, bool) {
    (id, NodeMemory::default(), without_cpus)
}

#[test]
fn this_machine_agrees_with_the_kernel() {
    let topology = Topology::discover().unwrap();
    assert!(!topology.nodes().is_empty() && !topology.cpus().is_empty());
    for node in topology.nodes() {
        let kernel = fs::read_to_string(format!("/sys/devices/system/node/node{}/cpulist", node.id)).unwrap();
        assert_eq!(node.cpus, list(&kernel), "node {}", node.id);
        assert!(node.memory_bytes > 0 && node.free_bytes <= node.memory_bytes);
        assert_eq!(topology.cpus_of(node.id), Some(&node.cpus));
    }
    let local = topology.local_node().unwrap();
    assert!(!topology.cpus_of(local).unwrap().intersection(topology.cpus()).is_empty());
    assert_eq!(topology.cpus_of(9999), None);
    assert!(affinity().unwrap().iter().all(|cpu| topology.cpus().contains(cpu)));
}

#[test]
fn a_told_machine_of_several_nodes_is_read() {
    if std::env::var_os(TOLD).is_some() {
        let topology = Topology::discover().unwrap();
        let nodes: Vec<String> = topology.nodes().iter().map(|n| format!("{}:{}", n.id, n.cpus)).collect();
        println!("told={} cpus={} bound={}", nodes.join(";"), topology.cpus(), topology.is_bound());
        return;
    }
    let look = |machine: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "topology::tests::a_told_machine_of_several_nodes_is_read", "--nocapture"])
            .env(TOLD, "1")
            .env("HWLOC_SYNTHETIC", machine)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split("told=").nth(1).unwrap_or_else(|| panic!("{output:?}")).lines().next().unwrap().to_owned()
    };
    assert_eq!(look("node:4 core:2 pu:2"), "0:0-3;1:4-7;2:8-11;3:12-15 cpus=0-15 bound=false");
    assert_eq!(look("node:1 core:3 pu:1"), "0:0-2 cpus=0-2 bound=false");
    // Two packages with two kinds of memory each: the cpus belong to the first kind.
    assert_eq!(look("pack:2 [numa] [numa] pu:2"), "0:0-1;1:;2:2-3;3: cpus=0-3 bound=false");
}

#[test]
fn a_node_without_cpus_is_never_local_and_owns_no_cpu() {
    // As hwloc tells it: a node that has only memory hangs at the root, so it is named for every cpu.
    let near = [(0, vec![0, 1, 2]), (1, vec![0, 1, 2])];
    let nodes = [node(0, true), node(1, false), node(2, true)];
    let topology = Topology::assemble(&near, &nodes, &list("0-1"), list("0-1"), Some(1));
    assert_eq!(topology.local_node(), Some(1));
    assert_eq!(topology.cpus_of(1), Some(&list("0-1")));
    assert!(topology.cpus_of(0).unwrap().is_empty() && topology.cpus_of(2).unwrap().is_empty());
    // Also where the kernel is not asked: the node that fewer cpus share is theirs.
    let near = [(0, vec![0, 1]), (1, vec![0, 2])];
    let nodes = [node(0, false), node(1, false), node(2, false)];
    let topology = Topology::assemble(&near, &nodes, &list("0-1"), list("0-1"), None);
    let owned: Vec<String> = topology.nodes().iter().map(|node| node.cpus.to_string()).collect();
    assert_eq!(owned, ["", "0", "1"]);
}

#[test]
fn local_is_where_most_cpus_are_or_where_an_unbound_process_runs() {
    let near: Vec<(u32, Vec<u32>)> = (0..8).map(|cpu| (cpu, vec![cpu / 4])).collect();
    let nodes = [node(0, false), node(1, false)];
    let local =
        |allowed: &str, current| Topology::assemble(&near, &nodes, &list("0-7"), list(allowed), current).local_node();
    assert_eq!(local("3-6", Some(3)), Some(1));
    assert_eq!(local("2-5", Some(5)), Some(1), "as many on both: where it runs");
    assert_eq!(local("2-5", None), Some(0));
    assert_eq!(local("0-7", Some(6)), Some(1));
    assert_eq!(local("0-7", None), Some(0));
    assert!(Topology::assemble(&near, &nodes, &list("0-7"), list("0-6"), None).is_bound());
    assert!(!Topology::assemble(&near, &nodes, &list("0-7"), list("0-7"), None).is_bound());
    let in_cgroup = Topology::assemble(&near[2..7], &nodes, &list("0-7"), list("2-6"), Some(2));
    assert_eq!((in_cgroup.is_bound(), in_cgroup.local_node()), (true, Some(1)), "also where hwloc sees no others");
}

#[test]
fn memory_is_taken_from_the_nearest_node_that_has_some() {
    let with = |id: u32, total: u64| (id, NodeMemory { total, ..NodeMemory::default() }, false);
    let made =
        |nodes: &[(u32, NodeMemory, bool)]| Topology::assemble(&[(0, vec![1])], nodes, &list("0"), list("0"), None);
    let topology = made(&[with(0, 1), with(1, 0), with(2, 1)]);
    assert_eq!((topology.memory_nodes(), topology.local_node()), (vec![0, 2], Some(1)));
    assert_eq!((topology.memory_near(2), topology.memory_near(3)), (Some(2), None));
    assert_eq!(made(&[with(0, 0), with(1, 0)]).memory_nodes(), [0, 1], "where nothing is known of any");
    assert_eq!(nearest(1, &[0, 2], &|_| vec![(0, 21), (1, 10), (2, 12)]), Some(2));
    assert_eq!(nearest(1, &[0, 2], &|_| vec![(0, 21), (1, 10), (2, 21)]), Some(0));
    assert_eq!(nearest(1, &[0, 2], &|_| vec![]), Some(0), "where no distance is told");
    let own = Topology::discover().unwrap().nodes()[0].id;
    assert_eq!(distances(own).iter().find(|(id, _)| *id == own), Some(&(own, 10)), "the kernel's distance to itself");
}

#[test]
fn node_memory_is_read_in_bytes() {
    let text = "Node 1 MemTotal:  100 kB\nNode 1 MemFree:   40 kB\nNode 1 Active:  7 kB\n\
                Node 1 Active(file):  3 kB\nNode 1 Inactive(file):  2 kB\n";
    let memory = NodeMemory { total: 102_400, free: 40_960, available: 46_080 };
    assert_eq!(NodeMemory::parse(text), memory);
    assert_eq!(NodeMemory::parse(""), NodeMemory::default());
}

proptest! {
    #[test]
    fn every_cpu_belongs_to_one_node_that_hwloc_named(
        near in proptest::collection::vec(proptest::collection::btree_set(0u32..5, 1..5), 1..24),
        without in proptest::collection::vec(any::<bool>(), 5),
        allowed in proptest::collection::btree_set(0u32..24, 1..24),
        current in 0u32..24,
    ) {
        let near: Vec<(u32, Vec<u32>)> =
            near.into_iter().enumerate().map(|(cpu, ids)| (cpu as u32, ids.into_iter().collect())).collect();
        let nodes: Vec<_> = (0..5).map(|id| node(id, without[id as usize])).collect();
        let topology = Topology::assemble(&near, &nodes, &list("0-23"), allowed.into_iter().collect(), Some(current));
        for (cpu, ids) in &near {
            let owners: Vec<u32> = topology.nodes().iter().filter(|n| n.cpus.contains(*cpu)).map(|n| n.id).collect();
            let possible = ids.iter().any(|id| !without[*id as usize]);
            prop_assert_eq!(owners.len(), usize::from(possible));
            prop_assert!(owners.iter().all(|id| ids.contains(id) && !without[*id as usize]));
        }
        let local = topology.local_node();
        let cpus = local.map(|id| topology.cpus_of(id).unwrap());
        prop_assert!(cpus.is_none_or(|cpus| !cpus.is_empty()));
        prop_assert_eq!(local.is_none(), topology.nodes().iter().all(|n| n.cpus.is_empty()));
    }
}
