//! The collective start: agree, exchange, directory. Every rank comes through, or every rank gets the same error.

mod directory;
mod launch;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::comm::Comm;
use crate::config::{Config, PinBudget, Resolved};
use crate::error::{Error, Result};
use crate::registrar::Budget;
use crate::topology::Host;

pub(crate) use directory::{Directory, Entry};
pub(crate) use launch::check as check_launch;

/// Agrees on the outcome of a step that every rank took: all get their value, or all get the error of the lowest rank
/// that has one. Collective.
pub(crate) fn agree<T>(comm: &Comm, host: &str, mine: Result<T>) -> Result<T> {
    let failed = if mine.is_err() { comm.rank() } else { comm.size() };
    let first = comm.all_min(u64::from(failed))? as u32;
    if first == comm.size() {
        return mine;
    }
    let text = match &mine {
        Err(error) if comm.rank() == first => format!("{host}\0{error}"),
        _ => String::new(),
    };
    let text = String::from_utf8_lossy(&comm.broadcast(first, text.into_bytes())?).into_owned();
    let (host, reason) = text.split_once('\0').unwrap_or_default();
    Err(Error::Start { rank: first, host: host.to_owned(), reason: reason.to_owned() })
}

/// Rank 0 reads the configuration, all get it; a rank whose program set something else than rank 0's is named. Collective.
pub(crate) fn agree_on_config(comm: &Comm, host: &str, config: &Config) -> Result<Resolved> {
    let resolved = agree(comm, host, if comm.rank() == 0 { config.resolve().map(Some) } else { Ok(None) })?;
    let theirs = (resolved, config.overrides().clone());
    let broken =
        |error: serde_json::Error| Error::Config(format!("cannot be exchanged: {error}; this is a fault of Lunasa"));
    // Nothing that can fail on one rank alone stands between two collective calls: the text is made before either.
    let text = if comm.rank() == 0 { serde_json::to_vec(&theirs).map_err(broken) } else { Ok(Vec::new()) };
    let text = comm.broadcast(0, agree(comm, host, text)?)?;
    let read: Result<(Option<Resolved>, std::collections::BTreeMap<String, toml::Value>)> =
        serde_json::from_slice(&text).map_err(broken);
    let mine = read.and_then(|(resolved, theirs)| {
        let mine = config.overrides();
        let keys: std::collections::BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        for key in keys {
            if mine.get(key) != theirs.get(key) {
                let show = |value: Option<&toml::Value>| value.map_or("nothing".to_owned(), toml::Value::to_string);
                let (mine, theirs) = (show(mine.get(key)), show(theirs.get(key)));
                return Err(Error::Config(format!(
                    "the program set {key} to {mine} here and to {theirs} on rank 0; set the same on every rank"
                )));
            }
        }
        resolved.ok_or_else(|| Error::Config("rank 0 sent none; this is a fault of Lunasa".to_owned()))
    });
    agree(comm, host, mine)
}

/// The ranks that a rank meets at the start besides all of them: those of its host, and the first ones of all hosts.
pub(crate) struct Neighbours {
    here: Comm,
    /// The first ranks of all hosts; on the others' all of the others, which is of no use.
    leaders: Comm,
}

impl Neighbours {
    /// The ranks find who is on their host. Collective.
    pub(crate) fn find(comm: &Comm, host: &Host) -> Result<Self> {
        // A colour has 31 bits; two splits by different halves of the key tell hosts apart for certain enough.
        let half = comm.split(host.key as u32)?;
        let here = half.split((host.key >> 31) as u32)?;
        half.free()?;
        let leaders = comm.split(u32::from(here.rank() != 0))?;
        Ok(Self { here, leaders })
    }

    /// Collective, and the last use of it.
    pub(crate) fn free(&self) -> Result<()> {
        self.leaders.free()?;
        self.here.free()
    }

    /// The first rank of each host makes something, and tells the others of its host where it is, which open it. Collective.
    fn share<T, At: FromBytes + IntoBytes + Immutable>(
        &self,
        comm: &Comm,
        host: &str,
        make: impl FnOnce() -> Result<T>,
        whereabouts: impl FnOnce(&T) -> At,
        open: impl FnOnce(At) -> Result<T>,
    ) -> Result<T> {
        let made = agree(comm, host, if self.here.rank() == 0 { make().map(Some) } else { Ok(None) })?;
        let at = made.as_ref().map_or_else(Vec::new, |made| whereabouts(made).as_bytes().to_vec());
        let at = self.here.broadcast(0, at)?;
        let unfit = |_| {
            Error::Launch("the whereabouts of shared memory do not fit; do all ranks run the same program?".to_owned())
        };
        let shared = match made {
            Some(made) => Ok(made),
            None => At::read_from_bytes(&at).map_err(unfit).and_then(open),
        };
        agree(comm, host, shared)
    }
}

/// The first rank of each host makes the ledger of its pin budget, which the others open. Collective.
pub(crate) fn share_budget(
    comm: &Comm,
    neighbours: &Neighbours,
    host: &str,
    run: u64,
    setting: PinBudget,
) -> Result<Budget> {
    let (place, ranks) = (neighbours.here.rank(), neighbours.here.size());
    let make = || Budget::create(run, ranks, setting);
    neighbours.share(comm, host, make, Budget::whereabouts, |at| Budget::open(run, place, at, setting))
}

/// The ranks tell each other of themselves. Collective.
pub(crate) fn exchange(comm: &Comm, neighbours: &Neighbours, host: &Host, run: u64, mine: Entry) -> Result<Directory> {
    let Neighbours { here, leaders } = neighbours;
    let leads = here.rank() == 0;
    let entries = here.gather(mine.as_bytes())?;
    let part =
        agree(comm, &host.name, if leads { directory::host_part(host.key, &host.name, &entries) } else { Ok(vec![]) })?;
    let (all, starts) = if leads { leaders.all_gather(&part)? } else { (vec![], vec![]) };
    let make = || {
        let parts: Vec<&[u8]> = starts.windows(2).map(|ends| &all[ends[0]..ends[1]]).collect();
        Directory::create(run, comm.rank(), comm.size(), &parts)
    };
    let open = |at| Directory::open(run, comm.rank(), at);
    neighbours.share(comm, &host.name, make, Directory::whereabouts, open)
}

/// The directory of a process by itself.
pub(crate) fn alone(host: &Host, run: u64, mine: Entry) -> Result<Directory> {
    let part = directory::host_part(host.key, &host.name, mine.as_bytes())?;
    Directory::create(run, 0, 1, &[&part])
}
