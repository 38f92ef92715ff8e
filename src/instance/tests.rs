#![allow(clippy::unwrap_used)]
//! An instance in one process: what a fork and the end leave of it.

use super::*;
use crate::UserMemory;

fn local() -> Lunasa {
    Lunasa::local(Config::new().ignore_environment().set("lunasa.status.enabled", false).unwrap()).unwrap()
}

fn closed<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Closed(_)))
}

#[test]
fn a_forked_child_finds_it_closed_and_leaves_the_parent_alone() {
    let lunasa = local();
    let mut object = lunasa.object().zeroed().data(1000).unwrap();
    let handle = object.handle().unwrap();
    // SAFETY: the child allocates, which the C library allows after a fork, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let right = closed(lunasa.object().data(1))
            && closed(lunasa.object().user(UserMemory::from(vec![1u8])))
            && closed(object.handle())
            && closed(object.data_mut::<u8>().map(drop))
            && closed(lunasa.fetch(&handle))
            && closed(lunasa.view(&handle))
            && closed(Lunasa::local(Config::new()))
            && object.data::<u8>().is_ok_and(|data| data.len() == 1000);
        drop((object.clone(), object));
        let right = right && closed(lunasa.finish());
        // SAFETY: ends the process at once, which is always allowed.
        unsafe { libc::_exit(i32::from(!right)) }
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child found something open, or crashed");
    assert_eq!((object.references(), lunasa.snapshot().pools[0].live_objects), (1, 1));
    object.data_mut::<u8>().unwrap().fill(7);
    assert!(lunasa.fetch(&handle).unwrap().deep_eq(&object).unwrap());
}

#[test]
fn finish_reports_what_is_alive_and_leaves_its_memory() {
    let lunasa = local();
    let objects: Vec<Ldo> = (0..3).map(|_| lunasa.object().type_id(4).zeroed().data(100).unwrap()).collect();
    let report = lunasa.finish().unwrap();
    assert_eq!((report.objects(), report.bytes(), report.groups.len()), (3, 300, 1));
    for object in &objects {
        assert!(closed(object.handle()) && closed(object.segments(Section::Data)) && closed(object.register()));
        assert!(!object.is_registered() && object.data::<u8>().unwrap() == [0; 100]);
    }
}
