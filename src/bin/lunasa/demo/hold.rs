//! Keeps the job, and so its pages, up until somebody ends it.

use std::time::Duration;

use lunasa::Lunasa;
use mpi::topology::SimpleCommunicator;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::{Error, Result};
use crate::comm;

/// How often the ranks agree whether to go on.
const PERIOD: Duration = Duration::from_millis(100);

/// Returns when any rank has had Ctrl-C (SIGINT) or SIGTERM. Collective.
///
/// `mpirun` passes its signal to every rank, a batch system or `kill` may signal one: either way all go on to a clean end.
pub fn until_signal(world: &SimpleCommunicator, lunasa: &Lunasa) -> Result<()> {
    let fail = |e: std::io::Error| Error::Hold(e.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        loop {
            let ended = one_came(&mut interrupt, &mut terminate).await;
            // All ranks wait for about the same time, so none waits long in here.
            comm::meet(world, lunasa);
            if comm::sum(world, u64::from(ended)) > 0 {
                return Ok(());
            }
        }
    })
}

/// Whether one of them came within a period.
async fn one_came(interrupt: &mut Signal, terminate: &mut Signal) -> bool {
    tokio::select! {
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
        () = tokio::time::sleep(PERIOD) => false,
    }
}
