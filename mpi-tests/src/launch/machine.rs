//! Several jobs in one boot of the virtual machine, since booting takes longer than most of them.

use super::{Bed, Job, Outcome, built, lab, root};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Jobs for the virtual machine, one after another. Each is a line of shell, in which
///
/// - `ranks N CASE ARGS..` runs a case of `lunasa-mpi-tests` on N ranks, with the MPI of this build;
/// - `doctor N ARGS..` runs `lunasa doctor` on N ranks, on 0 without a launcher, and says how it ended: `doctor ended with 1`;
/// - `tester KIB CMD..` runs what follows as a user without privileges, with RLIMIT_MEMLOCK so many KiB.
#[derive(Debug, Clone)]
pub struct Machine {
    options: Vec<String>,
    jobs: Vec<String>,
}

/// What the lines of the jobs may use. Open MPI would find no way over rxe, and must be told to use shared memory.
const WORDS: &str = r#"
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader OMPI_MCA_mpi_yield_when_idle=1
as_tester="setpriv --reuid tester --regid tester --init-groups --bounding-set=-all --inh-caps=-all"
ranks() { local n=$1; shift; $launcher -n "$n" /tmp/cases "$@"; }
doctor() {
  local n=$1 status=0; shift
  if [ "$n" = 0 ]; then /tmp/lunasa doctor "$@"; else $launcher -n "$n" /tmp/lunasa doctor "$@"; fi || status=$?
  echo "doctor ended with $status"
}
tester() { local kib=$1; shift; (ulimit -l "$kib"; HOME=/home/tester exec $as_tester bash -c '"$@"' bash "$@"); }
job() {
  local start=$EPOCHREALTIME status=0
  timeout -k 3 120 bash -c "$2" </dev/null >"$results/$1.out" 2>"$results/$1.err" || status=$?
  echo "$status $start $EPOCHREALTIME" >"$results/$1.end"
}
export launcher as_tester
export -f ranks doctor tester
install -m 755 "$program" /tmp/cases && install -m 755 "$lunasa" /tmp/lunasa || exit 1
"#;

impl Machine {
    /// With these options of `rdma-vm run`.
    pub fn new<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        Self { options: options.into_iter().map(str::to_owned).collect(), jobs: vec![] }
    }

    /// Adds a job.
    pub fn job(mut self, line: impl Into<String>) -> Self {
        self.jobs.push(line.into());
        self
    }

    /// Boots, runs every job, and tells what came of each, by its line.
    ///
    /// # Panics
    /// When the machine does not boot, or ends before its jobs have.
    pub fn run(self) -> BTreeMap<String, Outcome> {
        let program = built("lunasa-mpi-tests");
        let results = root().join(format!("target/test/machine-{}", std::process::id()));
        std::fs::create_dir_all(&results).unwrap_or_else(|error| panic!("{}: {error}", results.display()));
        let library = Command::new(&program).arg("--library").output().expect("lunasa-mpi-tests can be run");
        let open_mpi = String::from_utf8_lossy(&library.stdout).contains("Open MPI");
        let launcher = if open_mpi { "mpirun.openmpi --oversubscribe" } else { "mpiexec.hydra" };
        let numbered = self.jobs.iter().enumerate();
        let jobs: String = numbered.map(|(number, line)| format!("job {number} {}\n", quoted(line))).collect();
        let [at, lunasa, to] = [&program, &built("lunasa"), &results].map(|path| quoted(&path.display().to_string()));
        let script = format!("launcher='{launcher}' program={at} lunasa={lunasa} results={to}\n{WORDS}{jobs}exit 0\n");

        let mut words = vec![lab("rdma-vm").display().to_string(), "run".to_owned()];
        if let Some(folder) = program.parent().filter(|folder| !folder.starts_with(root())) {
            words.extend(["--share-ro".to_owned(), folder.display().to_string()]);
        }
        words.extend(self.options);
        words.push("--".to_owned());
        let boot = Job::new(Bed::Machine, words.into_iter().map(Into::into)).program("/bin/bash").args(["-c", &script]);
        let booted = boot.timeout(Duration::from_secs(600)).run().expect_ok();
        let found = self.jobs.into_iter().enumerate().map(|(number, line)| {
            let read = |kind| std::fs::read(results.join(format!("{number}.{kind}"))).unwrap_or_default();
            let text = |kind| String::from_utf8_lossy(&read(kind)).into_owned();
            let numbers: Vec<f64> = text("end").split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let &[status, start, end] = &numbers[..] else { panic!("no end of {line}:\n{}", booted.report()) };
            let outcome = Outcome {
                command: line.clone(),
                // As the shell has it: 124 and 137 are the end of the job's time.
                status: ExitStatus::from_raw((status as i32) << 8),
                stdout: text("out"),
                stderr: text("err"),
                elapsed: Duration::from_secs_f64(end - start),
                timed_out: [124.0, 137.0].contains(&status),
                stragglers: 0,
            };
            (line, outcome)
        });
        let found = found.collect();
        // What is left there is only in the way.
        let _ = std::fs::remove_dir_all(&results);
        found
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
