//! Jobs that the launcher split into N jobs of one rank, because it and the program's MPI do not speak the same protocol.

use crate::error::{Error, Result};

/// Variables by which launchers tell a process how many there are of it.
const SIZES: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun"),
    ("PMI_SIZE", "a PMI launcher (MPICH's mpiexec, srun --mpi=pmi2)"),
    ("MPI_LOCALNRANKS", "MPICH's mpiexec"),
    ("SLURM_STEP_NUM_TASKS", "srun"),
];

/// Refuses a world of one rank where the launcher started several.
pub(crate) fn check(world: u32, library: &str) -> Result<()> {
    check_with(world, library, |name| std::env::var(name).ok())
}

fn check_with(world: u32, library: &str, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    if world != 1 {
        return Ok(());
    }
    for (name, launcher) in SIZES {
        let tasks = variable(name).and_then(|value| value.trim().parse::<u32>().ok()).unwrap_or(1);
        if tasks > 1 {
            return Err(Error::Launch(format!(
                "{launcher} started {tasks} tasks ({name}={tasks}), but MPI_COMM_WORLD has 1 rank: each task is a job of its \
                 own. This program was built with {library}. Start it with that library's own mpirun, or under Slurm with \
                 `srun --mpi=pmix` (Open MPI) or `srun --mpi=pmi2` (MPICH); `srun --mpi=list` shows what there is"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(world: u32, set: &'static str, to: &'static str) -> Result<()> {
        check_with(world, "Open MPI v4", move |name| (name == set).then(|| to.to_owned()))
    }

    #[test]
    fn a_job_split_by_its_launcher_is_recognised() {
        let error = with(1, "SLURM_STEP_NUM_TASKS", "4").unwrap_err().to_string();
        assert!(error.starts_with("launch: srun started 4 tasks (SLURM_STEP_NUM_TASKS=4), but"), "{error}");
        assert!(error.contains("built with Open MPI v4"), "{error}");
        assert!(with(1, "PMI_SIZE", "2").is_err());
    }

    #[test]
    fn honest_jobs_pass() {
        assert!(with(4, "SLURM_STEP_NUM_TASKS", "4").is_ok());
        assert!(with(1, "SLURM_STEP_NUM_TASKS", "1").is_ok());
        assert!(with(1, "PMI_SIZE", "garbage").is_ok());
        assert!(with(1, "SLURM_NTASKS", "4").is_ok(), "a batch script that starts one process by itself");
    }
}
