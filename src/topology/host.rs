//! Which host this is, and which processes of it can reach each other's `/proc/PID/fd`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::error::{Error, Result};

/// The host a process runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name, as `hostname` says it.
    pub name: String,
    /// A hash of the boot id, the PID namespace and the name. Two processes (of one build of Lunasa) with the same key
    /// see each other under the same PIDs; with different keys a PID of one means nothing to the other.
    pub key: u64,
}

impl Host {
    /// Asks the system.
    ///
    /// # Errors
    /// [`Error::Launch`] when `/proc` does not tell the boot id or the PID namespace.
    pub fn discover() -> Result<Self> {
        let trouble = |path: &str, error: std::io::Error| {
            Error::Launch(format!("cannot read {path}, which tells hosts apart: {error}; is /proc mounted?"))
        };
        let (name, boot, namespace) =
            ("/proc/sys/kernel/hostname", "/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid");
        let boot = fs::read_to_string(boot).map_err(|e| trouble(boot, e))?;
        let namespace = fs::read_link(namespace).map_err(|e| trouble(namespace, e))?;
        let name = fs::read_to_string(name).map_err(|e| trouble(name, e))?.trim().to_owned();
        // `DefaultHasher::new` has fixed keys, so the hash is the same in every process.
        let mut hasher = DefaultHasher::new();
        (boot.trim(), namespace.as_os_str().as_encoded_bytes(), &name).hash(&mut hasher);
        Ok(Self { name, key: hasher.finish() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    /// Set for a copy of this test program that only prints its key.
    const PRINT: &str = "LUNASA_TEST_PRINT_HOST_KEY";

    #[test]
    fn processes_share_the_key_only_within_a_pid_namespace_and_name() {
        let here = Host::discover().unwrap();
        if std::env::var_os(PRINT).is_some() {
            println!("key={:x}", here.key);
            return;
        }
        assert!(!here.name.is_empty());
        let own = std::env::current_exe().unwrap();
        let test = "topology::host::tests::processes_share_the_key_only_within_a_pid_namespace_and_name";
        let key_of = |command: &mut Command| {
            let output = command.arg("--exact").arg(test).arg("--nocapture").env(PRINT, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let key = text.split("key=").nth(1).map(|rest| rest.split_whitespace().next().unwrap().to_owned());
            key.and_then(|hex| u64::from_str_radix(&hex, 16).ok())
        };
        assert_eq!(key_of(&mut Command::new(&own)), Some(here.key));
        // Only where this user may make namespaces; elsewhere `unshare` prints no key.
        let apart = key_of(Command::new("unshare").args(["--pid", "--fork", "--mount-proc"]).arg(&own));
        assert_ne!(apart, Some(here.key));
    }
}
