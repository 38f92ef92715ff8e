//! Finds and ends every process of a job, whoever started it: launchers put ranks into process groups, namespaces and
//! daemons of their own, but a variable in the environment goes with them.

use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A process that is still there so long after SIGKILL hangs in the kernel.
const UNKILLABLE: Duration = Duration::from_secs(10);

/// The mark of one job in the environment of its processes.
pub(super) struct Marker(String);

impl Marker {
    pub(super) const VARIABLE: &str = "MPI_TESTS_JOB";

    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn value(&self) -> &str {
        &self.0
    }

    /// Waits up to `grace` for the job's processes to be gone, kills those that are not, and returns how many it killed.
    pub(super) fn sweep(&self, grace: Duration) -> usize {
        let end = Instant::now() + grace;
        while !self.processes().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut killed = std::collections::BTreeSet::new();
        // A process may fork while it is being looked for: look until there are none.
        let end = Instant::now() + UNKILLABLE;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return killed.len();
            }
            assert!(Instant::now() < end, "processes {left:?} of a job cannot be killed");
            for process in left {
                signal(process, Signal::KILL);
                killed.insert(process);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The processes that carry the mark, by their ids here. Those of other users cannot be read, and are not ours.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("{}={}", Self::VARIABLE, self.0);
        let Ok(entries) = std::fs::read_dir("/proc") else { return vec![] };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        ids.filter(|id| {
            let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        })
        .collect()
    }
}

/// Sends a signal; a process that is gone meanwhile is what was wanted.
pub(super) fn signal(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
