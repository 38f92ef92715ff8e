//! A job: a program on some ranks of a bed, with a limit of time, and what came of it.
//!
//! Every process of a job carries a marker in its environment, wherever a launcher or daemon started it, so that the end
//! of a job, or of its time, is the end of all its processes. Variables `LUNASA_*` of the caller are not passed on.

mod bed;
mod machine;
mod outcome;
mod sweep;

pub use bed::{Bed, can_run, skip};
pub use machine::Machine;
pub use outcome::Outcome;

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sweep::Marker;

/// How long a job may take unless [`Job::timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a launcher that was told to end, or the processes it leaves behind, may still take.
const GRACE: Duration = Duration::from_secs(3);

/// The top of the checkout; jobs start there.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// A binary of this workspace, from the same build as the running test (`target/release/NAME` for a release test).
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test");
    test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps").join(name)
}

/// A script or program of `mpi-tests/lab`.
fn lab(name: &str) -> PathBuf {
    root().join("mpi-tests/lab").join(name)
}

/// A program to be run on some ranks. The program is `lunasa-mpi-tests` of the same build, unless
/// [`Job::program`] names another.
///
/// ```no_run
/// use lunasa_mpi_tests::launch::Job;
/// let outcome = Job::open_mpi(4).args(["hello"]).run().expect_ok();
/// assert!(outcome.stdout.contains("ok hello ranks=4"));
/// ```
#[derive(Debug, Clone)]
pub struct Job {
    bed: Bed,
    launcher: Vec<OsString>,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    timeout: Duration,
}

impl Job {
    fn new(bed: Bed, launcher: impl IntoIterator<Item = OsString>) -> Self {
        let program = built("lunasa-mpi-tests");
        Self { bed, launcher: launcher.into_iter().collect(), program, args: vec![], env: vec![], timeout: TIMEOUT }
    }

    /// A job of `ranks` ranks on `bed`.
    pub fn on(bed: Bed, ranks: usize) -> Self {
        let ranks = ranks.to_string();
        let words: Vec<OsString> = match bed {
            Bed::OpenMpi => vec![lab("mpirun").into(), "-n".into(), ranks.into()],
            Bed::Mpich => vec!["mpiexec.hydra".into(), "-n".into(), ranks.into()],
            Bed::Hosts(hosts) => {
                vec![lab("netns-lab").into(), "mpirun".into(), hosts.to_string().into(), "-n".into(), ranks.into()]
            }
            Bed::Machine => {
                let words = ["run", "--", "mpirun.openmpi", "--oversubscribe", "-n"].map(OsString::from).into_iter();
                std::iter::once(lab("rdma-vm").into()).chain(words).chain([ranks.into()]).collect()
            }
            Bed::Slurm(nodes) => vec![
                lab("slurm-lab").into(),
                "run".into(),
                "srun".into(),
                "--mpi=pmix".into(),
                format!("--nodes={nodes}").into(),
                format!("--ntasks={ranks}").into(),
            ],
        };
        Self::new(bed, words)
    }

    /// On this host, started by Open MPI's `mpirun`.
    pub fn open_mpi(ranks: usize) -> Self {
        Self::on(Bed::OpenMpi, ranks)
    }

    /// On this host, started by MPICH's `mpiexec.hydra`; the program must have been built with MPICH.
    pub fn mpich(ranks: usize) -> Self {
        Self::on(Bed::Mpich, ranks)
    }

    /// One process on this host, without any launcher.
    pub fn alone() -> Self {
        Self::new(Bed::OpenMpi, [])
    }

    /// Spread over the first `hosts` hosts of `netns-lab`, by Open MPI.
    pub fn hosts(hosts: usize, ranks: usize) -> Self {
        Self::on(Bed::Hosts(hosts), ranks)
    }

    /// On `nodes` nodes of `slurm-lab`, by `srun --mpi=pmix`.
    pub fn slurm(nodes: usize, ranks: usize) -> Self {
        Self::on(Bed::Slurm(nodes), ranks)
    }

    /// The batch script `script`, as it is, submitted to `slurm-lab` for `nodes` nodes from the top of the checkout; the
    /// job ends when it does, with its status. [`Job::args`] are the script's.
    pub fn sbatch(script: impl AsRef<Path>, nodes: usize) -> Self {
        let words = ["run", "sbatch", "--wait"].map(OsString::from).into_iter();
        let launcher = std::iter::once(lab("slurm-lab").into()).chain(words).chain([format!("--nodes={nodes}").into()]);
        Self::new(Bed::Slurm(nodes), launcher).program(script)
    }

    /// Runs `program` instead, with the same ranks.
    pub fn program(mut self, program: impl AsRef<Path>) -> Self {
        self.program = program.as_ref().to_path_buf();
        self
    }

    /// Adds arguments for the program.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable in the environment of every rank.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// How long the job may take before all its processes are killed; 60 s if not said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs the job to its end, or to the end of its time; when this returns, none of its processes is left.
    ///
    /// # Panics
    /// When the bed does not come up or the launcher cannot be started.
    pub fn run(self) -> Outcome {
        self.bed.prepare();
        let marker = Marker::new();
        let (mut command, line) = self.command(&marker);
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let (status, timed_out) = match wait(&mut child, self.timeout) {
            Some(status) => (status, false),
            None => (end(&mut child), true),
        };
        let elapsed = started.elapsed();
        let stragglers = marker.sweep(if timed_out { Duration::ZERO } else { GRACE });
        let [stdout, stderr] =
            [stdout, stderr].map(|reader| reader.join().expect("the reader of a job's output does not panic"));
        Outcome { command: line, status, stdout, stderr, elapsed, timed_out, stragglers }
    }

    /// The command, and how to show it.
    fn command(&self, marker: &Marker) -> (Command, String) {
        let mut words: Vec<&OsStr> = self.launcher.iter().map(OsString::as_os_str).collect();
        if let Bed::Hosts(_) = self.bed {
            // Open MPI takes only its own variables to another host unasked.
            words.extend(self.env.iter().flat_map(|(key, _)| [OsStr::new("-x"), key]));
        }
        words.push(self.program.as_os_str());
        words.extend(self.args.iter().map(OsString::as_os_str));
        let mut line: Vec<String> = self.env.iter().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect();
        line.extend(words.iter().map(|word| word.display().to_string()));

        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(root());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"LUNASA_")) {
            command.env_remove(key);
        }
        let own = self.env.iter().map(|(key, value)| (key.as_os_str(), value.as_os_str()));
        command.envs(own).env(Marker::VARIABLE, marker.value());
        (command, line.join(" "))
    }
}

/// Reads a stream to its end on a thread of its own, so that no full pipe stops the job.
fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for `child`, at most for `limit`; `None` when it is still running then.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a launcher: politely first, so that it can take its ranks and files with it.
fn end(child: &mut Child) -> ExitStatus {
    sweep::signal(child.id(), rustix::process::Signal::TERM);
    wait(child, GRACE).unwrap_or_else(|| {
        sweep::signal(child.id(), rustix::process::Signal::KILL);
        child.wait().expect("a child can be waited for")
    })
}
