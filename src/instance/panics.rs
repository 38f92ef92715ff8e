//! A panic on a rank ends the job. Without this it would unwind into `MPI_Finalize` and leave all ranks waiting there.

use std::io::Write;
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{comm, memory, status};

/// Time for the launcher to pass on what was said: some drop what they have not read when a job is aborted (MPICH's Hydra
/// lost the panic's message one time in four).
const FOR_THE_LAUNCHER: Duration = Duration::from_millis(100);

/// Instances that want it.
static WATCHED: AtomicU32 = AtomicU32::new(0);
static RANK: AtomicU32 = AtomicU32::new(0);

/// As long as one lives, a panic ends the job.
#[derive(Debug)]
pub(super) struct Guard(());

impl Guard {
    pub(super) fn new(rank: u32) -> Self {
        static INSTALL: Once = Once::new();
        RANK.store(rank, Ordering::Relaxed);
        WATCHED.fetch_add(1, Ordering::SeqCst);
        INSTALL.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                previous(panic);
                let ours = WATCHED.load(Ordering::SeqCst) > 0;
                if ours && !status::panics_are_contained() && !memory::in_forked_child() {
                    let rank = RANK.load(Ordering::Relaxed);
                    let words = format!("lunasa: rank {rank} panicked; ending the job (lunasa.abort_on_panic)\n");
                    // Nothing is left to do when even this cannot be written.
                    let _ = std::io::stderr().lock().write_all(words.as_bytes());
                    std::thread::sleep(FOR_THE_LAUNCHER);
                    comm::abort_job(101);
                }
            }));
        });
        Self(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        WATCHED.fetch_sub(1, Ordering::SeqCst);
    }
}
