//! From start to stop.

use super::*;
use lunasa::status::HookReply;
use std::sync::mpsc::channel;
use std::time::Instant;

#[test]
fn stop_closes_the_port_and_lets_go_of_the_source() {
    let endpoint = Endpoint::start(options(Access::Open), Hooks::new()).unwrap();
    let (source, address) = (Fake::with_objects(1), at(&endpoint));
    endpoint.set_source(source.clone());
    assert_eq!(ask(address, "GET", "/", &[("Host", &address.to_string())]).status, 200);
    endpoint.stop();
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(Arc::strong_count(&source), 1);
}

#[test]
fn dropping_it_stops_it() {
    let endpoint = endpoint(&Hooks::new());
    let address = at(&endpoint);
    drop(endpoint);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn connections_that_hang_on_do_not_delay_the_stop() {
    let endpoint = endpoint(&Hooks::new());
    let address = at(&endpoint);
    let _silent = TcpStream::connect(address).unwrap();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut kept = TcpStream::connect(address).unwrap();
    kept.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    kept.read_exact(&mut [0; 12]).unwrap();
    let began = Instant::now();
    endpoint.stop();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn an_answer_under_way_is_finished_before_the_stop() {
    let hooks = Hooks::new();
    let (entered, has_entered) = channel();
    hooks
        .register("slow", move |_| {
            entered.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            HookReply::text("done")
        })
        .unwrap();
    let endpoint = endpoint(&hooks);
    let address = at(&endpoint);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let bearer = format!("Bearer {TOKEN}");
            ask(address, "GET", "/hooks/slow", &[("Host", &address.to_string()), ("Authorization", &bearer)])
        });
        has_entered.recv().unwrap();
        endpoint.stop();
        assert_eq!(asking.join().unwrap().body, "done");
    });
}

#[test]
fn a_hook_that_never_returns_does_not_hold_the_stop_for_ever() {
    let hooks = Hooks::new();
    let (entered, has_entered) = channel();
    hooks
        .register("stuck", move |_| {
            entered.send(()).unwrap();
            loop {
                std::thread::park();
            }
        })
        .unwrap();
    let endpoint = endpoint(&hooks);
    let source = Fake::with_objects(1);
    endpoint.set_source(source.clone());
    let mut asking = TcpStream::connect(at(&endpoint)).unwrap();
    let host = at(&endpoint);
    let request = format!("GET /hooks/stuck HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    asking.write_all(request.as_bytes()).unwrap();
    has_entered.recv().unwrap();
    let began = Instant::now();
    endpoint.stop();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// A source whose last owner may be a request.
struct Owning(Mutex<Option<Endpoint>>);

impl Source for Owning {
    fn snapshot(&self) -> Snapshot {
        // The endpoint is dropped here, on its own thread.
        drop(self.0.lock().unwrap().take());
        Fake::with_objects(1).snapshot()
    }
    fn peers(&self) -> Vec<PeerInfo> {
        Vec::new()
    }
    fn sample(&self) -> Sample {
        Sample::default()
    }
    fn talked_to(&self) -> Vec<PeerTraffic> {
        Vec::new()
    }
    fn objects(&self, _: &ObjectQuery) -> ObjectPage {
        ObjectPage::default()
    }
    fn object(&self, _: &str, _: u64, _: u64, _: usize) -> Option<ObjectDump> {
        None
    }
    fn block_maps(&self, _: usize) -> Vec<BlockMap> {
        Vec::new()
    }
    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn an_endpoint_that_is_dropped_on_its_own_thread_ends_without_a_deadlock() {
    let endpoint = Endpoint::start(options(Access::Open), Hooks::new()).unwrap();
    let address = at(&endpoint);
    let source = Arc::new(Owning(Mutex::new(None)));
    endpoint.set_source(source.clone());
    *source.0.lock().unwrap() = Some(endpoint);
    assert_eq!(ask(address, "GET", "/", &[("Host", &address.to_string())]).status, 200);
    let began = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "the port stayed open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_forked_child_leaves_the_endpoint_running() {
    let endpoint = endpoint(&Hooks::new());
    // SAFETY: the child only drops the endpoint, which does nothing there but compare process ids and forget its parts,
    // and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: `endpoint` is valid and not used again in the child, which ends here without unwinding.
        unsafe {
            drop(std::ptr::read(&endpoint));
            libc::_exit(0)
        }
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result, `child` our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(get(&endpoint, "/").status, 200);
}
