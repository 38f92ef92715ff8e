//! The limits that mapping and touching memory can hit: their values, and whether a block clearly does not fit.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::sizes::bytes;

/// What limits this process's memory now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// What the host can still give without swapping (MemAvailable), in bytes.
    available: Option<u64>,
    /// The tightest of this process's cgroups.
    cgroup: Option<Cgroup>,
    /// The soft limits on address space (RLIMIT_AS) and on the size of a file (RLIMIT_FSIZE), which a memfd is.
    address_space: Option<u64>,
    file_size: Option<u64>,
}

/// A cgroup with a memory limit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cgroup {
    /// The file that holds the limit.
    file: String,
    limit: u64,
    used: u64,
    /// What of `used` is cached files, which the kernel gives up first.
    cached: u64,
}

impl Cgroup {
    fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.used.saturating_sub(self.cached))
    }
}

impl Limits {
    /// Reads them.
    pub(super) fn read() -> Self {
        Self::read_under(Path::new("/"))
    }

    /// Reads them from a `/proc` and `/sys` under `root`; the resource limits are the process's own.
    fn read_under(root: &Path) -> Self {
        let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        Self {
            available: kib_after(&meminfo, "MemAvailable:"),
            cgroup: tightest_cgroup(root),
            address_space: resource_limits(libc::RLIMIT_AS).0,
            file_size: resource_limits(libc::RLIMIT_FSIZE).0,
        }
    }

    /// Why touching `len` bytes of ordinary memory would clearly go wrong, and what to do; `None` when it may work.
    /// To be asked before touching: over a cgroup's limit the kernel kills instead of returning an error.
    pub(super) fn refusal(&self, len: u64) -> Option<String> {
        if let Some(cgroup) = self.cgroup.as_ref().filter(|cgroup| cgroup.remaining() < len) {
            return Some(format!(
                "the cgroup has {} left; ask for less, or give the job more memory (Slurm: --mem or --mem-per-cpu; \
                 a container: --memory; else {})",
                bytes(cgroup.remaining()),
                cgroup.file
            ));
        }
        let available = self.available.filter(|available| *available < len)?;
        Some(format!("the host has {} available; ask for less, or use fewer ranks per host", bytes(available)))
    }

    /// Why a memfd of `len` bytes must not even be given its length: over RLIMIT_FSIZE the kernel sends SIGXFSZ.
    pub(super) fn file_refusal(&self, len: u64) -> Option<String> {
        let limit = self.file_size.filter(|limit| *limit < len)?;
        Some(format!("RLIMIT_FSIZE is {}, and it counts for memfd; raise it with `ulimit -f unlimited`", bytes(limit)))
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cgroup {
            Some(c) => write!(
                f,
                "cgroup limit {} ({}), in use {}, of it cached files {}",
                bytes(c.limit),
                c.file,
                bytes(c.used),
                bytes(c.cached)
            )?,
            None => write!(f, "no cgroup limit")?,
        }
        match self.available {
            Some(available) => write!(f, "; MemAvailable {}", bytes(available))?,
            None => write!(f, "; MemAvailable unknown")?,
        }
        match self.address_space {
            Some(limit) => write!(f, "; RLIMIT_AS {} (raise it with `ulimit -v unlimited`)", bytes(limit)),
            None => write!(f, "; RLIMIT_AS unlimited"),
        }
    }
}

/// The cgroup, of this process's and those above it, that leaves least.
fn tightest_cgroup(root: &Path) -> Option<Cgroup> {
    limited_cgroups(root).into_iter().min_by_key(Cgroup::remaining)
}

/// Bytes of memory that the processes of this host (or of this container, or job) can have: all there is, or the least
/// limit of a cgroup; with the file that says so.
pub(crate) fn memory_to_have() -> (u64, String) {
    memory_under(Path::new("/"))
}

fn memory_under(root: &Path) -> (u64, String) {
    let file = root.join("proc/meminfo");
    let all = fs::read_to_string(&file).ok().and_then(|text| kib_after(&text, "MemTotal:")).unwrap_or(u64::MAX);
    let least = limited_cgroups(root).into_iter().min_by_key(|cgroup| cgroup.limit).filter(|cgroup| cgroup.limit < all);
    least.map_or_else(|| (all, "/proc/meminfo".to_owned()), |cgroup| (cgroup.limit, cgroup.file))
}

/// A limit of the process's cgroup: the file that holds it, its bytes, and how many of them are left.
pub(crate) fn cgroup_limit() -> Option<(String, u64, u64)> {
    tightest_cgroup(Path::new("/")).map(|cgroup| (cgroup.file.clone(), cgroup.limit, cgroup.remaining()))
}

/// Why touching `len` bytes more would clearly go wrong, and what to do.
pub(crate) fn memory_refusal(len: u64) -> Option<String> {
    let limits = Limits::read();
    limits.file_refusal(len).or_else(|| limits.refusal(len))
}

/// The cgroups with a limit, of this process's and those above it.
fn limited_cgroups(root: &Path) -> Vec<Cgroup> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        match controllers {
            "" => Some(("sys/fs/cgroup", path, ["memory.max", "memory.current", ""])),
            list if list.split(',').any(|name| name == "memory") => {
                Some(("sys/fs/cgroup/memory", path, ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"]))
            }
            _ => None,
        }
    });
    groups.flat_map(|(mount, path, names)| above(root, mount, path, names)).collect()
}

/// The limited cgroups from `path` up to the mount. In a container `path` may be one that only the host sees; the mount
/// itself is then this process's.
fn above(root: &Path, mount: &str, path: &str, [limit, usage, prefix]: [&str; 3]) -> Vec<Cgroup> {
    let path = Path::new(path.trim_start_matches('/'));
    let read = |dir: &Path| {
        let number = |name: &str| fs::read_to_string(root.join(dir).join(name)).ok()?.trim().parse::<u64>().ok();
        // Version 1 writes "no limit" as a number near the greatest; version 2 as the word max.
        let value = number(limit).filter(|value| *value < 1 << 60)?;
        let stat = fs::read_to_string(root.join(dir).join("memory.stat")).unwrap_or_default();
        let field = |name: &str| {
            let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
            lines
                .find(|(key, _)| key.strip_prefix(prefix) == Some(name))
                .and_then(|(_, v)| v.trim().parse::<u64>().ok())
        };
        let cached = field("active_file").unwrap_or(0) + field("inactive_file").unwrap_or(0);
        let file = Path::new("/").join(dir).join(limit).display().to_string();
        Some(Cgroup { file, limit: value, used: number(usage)?, cached })
    };
    path.ancestors().filter_map(|dir| read(&Path::new(mount).join(dir))).collect()
}

/// The soft and the hard limit on `resource`; `None` for one that is not there.
pub(super) fn resource_limits(resource: libc::__rlimit_resource_t) -> (Option<u64>, Option<u64>) {
    let mut limits = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limits` is writable; on failure it stays as it is.
    unsafe { libc::getrlimit(resource, &mut limits) };
    let finite = |value| Some(value).filter(|value| *value != libc::RLIM_INFINITY);
    (finite(limits.rlim_cur), finite(limits.rlim_max))
}

/// The value of the line of `text` that starts with `key` and counts in kB, in bytes.
pub(super) fn kib_after(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A `/proc` and `/sys` of the given files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_of_the_cgroups_above_counts_and_cached_files_do_not() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/job/step\n"),
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    1024 kB\n"),
            ("sys/fs/cgroup/job/memory.max", "1000000\n"),
            ("sys/fs/cgroup/job/memory.current", "700000\n"),
            ("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 100000\nactive_file 50000\n"),
            ("sys/fs/cgroup/job/step/memory.max", "max\n"),
            ("sys/fs/cgroup/job/step/memory.current", "5\n"),
        ]);
        let limits = Limits::read_under(root.path());
        assert_eq!(limits.refusal(450_000), None);
        let refusal = limits.refusal(450_001).unwrap();
        assert!(refusal.contains("439.5 KiB left") && refusal.contains("--mem"), "{refusal}");
        let text = limits.to_string();
        assert!(text.contains("(/sys/fs/cgroup/job/memory.max)") && text.contains("MemAvailable 1 MiB"), "{text}");
    }

    #[test]
    fn version_1_is_read_also_where_only_the_mount_is_seen() {
        let root = tree(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "active_file 4000\ntotal_active_file 1000\n"),
        ]);
        let limits = Limits::read_under(root.path());
        assert_eq!(limits.cgroup.as_ref().unwrap().remaining(), 1096);
        fs::write(root.path().join("sys/fs/cgroup/memory/memory.limit_in_bytes"), "9223372036854771712").unwrap();
        assert_eq!(Limits::read_under(root.path()).cgroup, None);
    }

    #[test]
    fn the_memory_to_have_is_the_least_limit_on_the_way_up() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/job/step\n"),
            ("proc/meminfo", "MemTotal: 1000 kB\n"),
            ("sys/fs/cgroup/job/memory.max", "1000000\n"),
            ("sys/fs/cgroup/job/memory.current", "0\n"),
            ("sys/fs/cgroup/job/step/memory.max", "max\n"),
        ]);
        assert_eq!(memory_under(root.path()), (1_000_000, "/sys/fs/cgroup/job/memory.max".to_owned()));
        fs::write(root.path().join("sys/fs/cgroup/job/memory.max"), "1100000").unwrap();
        assert_eq!(memory_under(root.path()), (1_024_000, "/proc/meminfo".to_owned()));
    }

    #[test]
    fn the_host_refuses_what_it_has_not() {
        let root = tree(&[("proc/meminfo", "MemAvailable: 10 kB\n")]);
        let limits = Limits::read_under(root.path());
        assert_eq!(limits.refusal(10_240), None);
        assert!(limits.refusal(10_241).unwrap().contains("the host has 10 KiB available"));
        assert_eq!(Limits::read_under(tree(&[]).path()).refusal(u64::MAX), None, "nothing known, nothing refused");
    }
}
