//! The beds that jobs run on: what each needs of this machine, and how it comes up. A bed that a machine cannot give is
//! skipped loudly, and never in CI.

use super::{built, lab};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Enough hosts for every test, so that the lab comes up once.
const HOSTS: usize = 3;
/// Nodes of the Slurm lab.
const NODES: usize = 2;

/// Where a job runs, and which MPI starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bed {
    /// This host, Open MPI.
    OpenMpi,
    /// This host, MPICH.
    Mpich,
    /// So many hosts of `mpi-tests/lab/netns-lab` (at most 3), Open MPI.
    Hosts(usize),
    /// So many nodes of `mpi-tests/lab/slurm-lab` (at most 2), Open MPI.
    Slurm(usize),
    /// The virtual machine of `mpi-tests/lab/rdma-vm`, with either MPI; its jobs are those of a [`super::Machine`].
    Machine,
}

impl std::fmt::Display for Bed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OpenMpi => write!(f, "open_mpi"),
            Self::Mpich => write!(f, "mpich"),
            Self::Hosts(n) => write!(f, "hosts={n}"),
            Self::Slurm(n) => write!(f, "slurm={n}"),
            Self::Machine => write!(f, "machine"),
        }
    }
}

impl Bed {
    /// Why this machine, or this build, cannot run jobs on the bed; `None` when it can.
    fn obstacle(self) -> Option<String> {
        static FOUND: Mutex<BTreeMap<Bed, Option<String>>> = Mutex::new(BTreeMap::new());
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        found.entry(self).or_insert_with(|| self.look_for_obstacle()).clone()
    }

    fn look_for_obstacle(self) -> Option<String> {
        let library = output(Command::new(built("lunasa-mpi-tests")).arg("--library"));
        let library = library.unwrap_or_else(|message| panic!("cannot ask lunasa-mpi-tests for its MPI: {message}"));
        match (self, library.contains("Open MPI")) {
            (Self::Machine, _) => output(Command::new(lab("rdma-vm")).arg("check")).err(),
            (Self::Mpich, true) => Some("this build is with Open MPI; MPICC=mpicc.mpich chooses MPICH".into()),
            (Self::Mpich, false) => output(Command::new("mpiexec.hydra").arg("--version")).err(),
            (_, false) => Some("this build is not with Open MPI; MPICC=mpicc.openmpi chooses it".into()),
            (Self::OpenMpi, true) => output(Command::new(lab("mpirun")).arg("--version")).err(),
            (Self::Hosts(_), true) => output(Command::new(lab("netns-lab")).arg("check")).err(),
            (Self::Slurm(_), true) => output(Command::new(lab("slurm-lab")).arg("check")).err(),
        }
    }

    /// Brings the bed up, once per process. It stays up for the next: `down` of netns-lab and `stop` of slurm-lab end it.
    pub(super) fn prepare(self) {
        static HOSTS_UP: OnceLock<()> = OnceLock::new();
        static SLURM_UP: OnceLock<()> = OnceLock::new();
        let (once, script, verb, size, wanted) = match self {
            Self::OpenMpi | Self::Mpich | Self::Machine => return,
            Self::Hosts(wanted) => (&HOSTS_UP, "netns-lab", "up", HOSTS, wanted),
            Self::Slurm(wanted) => (&SLURM_UP, "slurm-lab", "start", NODES, wanted),
        };
        assert!(wanted <= size, "{self}: the lab of the tests has {size}");
        once.get_or_init(|| {
            let up = output(Command::new(lab(script)).args([verb, &size.to_string()]));
            up.unwrap_or_else(|message| panic!("{script} does not come up: {message}"));
        });
    }
}

/// Whether this machine and build can run jobs on `bed`. If not, the calling test is skipped, loudly: said on the
/// terminal, and as a line of the file that `LUNASA_TEST_SKIPS` names.
///
/// # Panics
/// When they cannot and `CI=true`: there, nothing may be skipped.
pub fn can_run(bed: Bed) -> bool {
    let Some(reason) = bed.obstacle() else { return true };
    skip(&bed.to_string(), &reason);
    false
}

/// Says loudly, as [`can_run`] does, that the calling test is skipped for want of `what`.
///
/// # Panics
/// When `CI=true`.
pub fn skip(what: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what} cannot be skipped in CI: {reason}");
    let line = format!("SKIPPED: {what}: {}\n", reason.trim().replace('\n', " "));
    // Written past the test harness, which would swallow the words of a test that passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("LUNASA_TEST_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("cannot note a skip in {}: {error}", path.display()));
    }
}

/// The standard output of a command that succeeds; else all it said.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
    if output.status.success() { Ok(stdout) } else { Err(format!("{stdout} {stderr}").trim().to_owned()) }
}
