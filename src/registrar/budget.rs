//! The pin budget: what the ranks of a host may keep registered together, in a ledger that they share.
//!
//! The ledger is one line of shared memory for the budget and one for each rank, which only that rank writes. Half of the
//! budget is kept for the ranks in equal parts, each of which can have its part at any time; the other half is for whoever
//! comes first. Pinned memory cannot be taken back, so what one rank has of the common half the others must do without;
//! were all of it lent out, one rank could starve the others. What a rank had that ended without giving it back (it was
//! killed) is found out when it matters, by its process being gone.

use std::fs;
use std::mem::size_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::config::PinBudget;
use crate::error::{Error, Result};
use crate::memory::{OfHost, PeerMapping, Shared, memory_to_have};
use crate::sizes::bytes;
use crate::snapshot::PinInfo;

/// How often a rank tries again when another one took from the budget at the same moment.
const ATTEMPTS: usize = 100;
/// In place of the budget's bytes: there is none.
const UNLIMITED: u64 = u64::MAX;

/// A line of the ledger: first the budget, then each rank's.
#[repr(C, align(64))]
struct Line {
    /// The budget, or what the rank has of it.
    bytes: AtomicU64,
    /// The rank's process; 0 before it has opened the ledger.
    pid: AtomicU32,
}

/// How the ranks of a host find the ledger that the first of them made.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LedgerAt {
    ranks: u32,
    pid: u32,
    fd: i32,
}

/// The pin budget of a host, as one of its ranks sees it.
#[derive(Debug)]
pub(crate) struct Budget {
    ledger: OfHost,
    ranks: u32,
    /// This rank's place among those of its host.
    place: u32,
    /// What the configuration says.
    setting: PinBudget,
    /// What this rank asked for. Locked while it takes and gives back.
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    asked: u64,
    refusals: u64,
    refused: u64,
}

fn ledger_name(run: u64) -> String {
    format!("lunasa-{run:016x}-pinned")
}

fn ledger_len(ranks: u32) -> usize {
    size_of::<Line>() * (1 + ranks as usize)
}

impl Budget {
    /// Makes the ledger of this host, for its first rank and the others.
    pub(crate) fn create(run: u64, ranks: u32, setting: PinBudget) -> Result<Self> {
        let ledger = OfHost::Own(Shared::create(&ledger_name(run), ledger_len(ranks))?);
        let budget = Self { ledger, ranks, place: 0, setting, counts: Mutex::default() };
        budget.line(0).bytes.store(setting.of(memory_to_have().0).unwrap_or(UNLIMITED), Ordering::SeqCst);
        Ok(budget.signed())
    }

    /// What the others of this host need to open it.
    pub(crate) fn whereabouts(&self) -> LedgerAt {
        LedgerAt { ranks: self.ranks, pid: std::process::id(), fd: self.ledger.fd() }
    }

    /// Opens the ledger that the first rank of this host made.
    pub(crate) fn open(run: u64, place: u32, at: LedgerAt, setting: PinBudget) -> Result<Self> {
        if place >= at.ranks {
            return Err(Error::Launch(format!(
                "place {place} on a host of {} ranks; this is a fault of Lunasa",
                at.ranks
            )));
        }
        let ledger = OfHost::Peer(PeerMapping::open(at.pid, at.fd, &ledger_name(run), ledger_len(at.ranks), true)?);
        Ok(Self { ledger, ranks: at.ranks, place, setting, counts: Mutex::default() }.signed())
    }

    /// With this process in the ledger.
    fn signed(self) -> Self {
        self.mine().pid.store(std::process::id(), Ordering::SeqCst);
        self
    }

    fn line(&self, line: u32) -> &Line {
        debug_assert!(line <= self.ranks);
        // SAFETY: the ledger is mapped for 1 + ranks lines as long as `self` lives, page-aligned; every field is atomic,
        // and any bits are a valid value.
        unsafe { &*self.ledger.base().as_ptr().cast::<Line>().add(line as usize) }
    }

    fn mine(&self) -> &Line {
        self.line(1 + self.place)
    }

    /// The budget in bytes, when there is one.
    fn limit(&self) -> Option<u64> {
        Some(self.line(0).bytes.load(Ordering::SeqCst)).filter(|limit| *limit != UNLIMITED)
    }

    /// What of it is kept for each rank.
    fn kept(&self, limit: u64) -> u64 {
        limit / 2 / u64::from(self.ranks)
    }

    fn others(&self) -> impl Iterator<Item = &Line> {
        (0..self.ranks).filter(|place| *place != self.place).map(|place| self.line(1 + place))
    }

    /// Whether so much fits for this rank, beside what the others have and what is kept for them.
    fn fits(&self, limit: u64, with: u64) -> bool {
        let kept = self.kept(limit);
        let beside = |line: &Line| line.bytes.load(Ordering::SeqCst).max(kept);
        let fits = |others: u64| with.checked_add(others).is_some_and(|all| all <= limit);
        with <= kept
            || fits(self.others().map(beside).fold(0, u64::saturating_add))
            // Looking for processes costs more, and is seldom of use.
            || fits(self.others().filter(|line| lives(line.pid.load(Ordering::SeqCst))).map(beside).fold(0, u64::saturating_add))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many bytes from the budget.
    ///
    /// # Errors
    /// [`Error::Registration`] when they do not fit, with all that there is to know.
    pub(crate) fn take(&self, count: u64) -> Result<()> {
        let mut counts = self.counts();
        counts.asked += count;
        let mine = &self.mine().bytes;
        let had = mine.load(Ordering::SeqCst);
        let with = had.saturating_add(count);
        let Some(limit) = self.limit() else {
            mine.store(with, Ordering::SeqCst);
            return Ok(());
        };
        for _ in 0..ATTEMPTS {
            if !self.fits(limit, with) {
                break;
            }
            // Written before the others are looked at again: of two that take at once, at least one sees the other.
            mine.store(with, Ordering::SeqCst);
            if self.fits(limit, with) {
                return Ok(());
            }
            mine.store(had, Ordering::SeqCst);
            std::thread::yield_now();
        }
        Err(self.refusal(&mut counts, limit, count))
    }

    /// Refuses at once what would not fit, before it is worth the trouble of mapping it. Takes nothing.
    ///
    /// # Errors
    /// As for [`Budget::take`].
    pub(crate) fn check(&self, count: u64) -> Result<()> {
        let mut counts = self.counts();
        match self.limit() {
            Some(limit) if !self.fits(limit, self.mine().bytes.load(Ordering::SeqCst).saturating_add(count)) => {
                counts.asked += count;
                Err(self.refusal(&mut counts, limit, count))
            }
            _ => Ok(()),
        }
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, count: u64) {
        let _one_at_a_time = self.counts();
        let mine = &self.mine().bytes;
        mine.store(mine.load(Ordering::SeqCst).saturating_sub(count), Ordering::SeqCst);
    }

    fn refusal(&self, counts: &mut Counts, limit: u64, count: u64) -> Error {
        counts.refusals += 1;
        counts.refused += count;
        let own = bytes(self.mine().bytes.load(Ordering::SeqCst));
        let others = match self.ranks - 1 {
            0 => String::new(),
            others => format!(
                ", the other {others} have {}, and {} are kept for each of them",
                bytes(self.used_by_others()),
                bytes(self.kept(limit))
            ),
        };
        Error::Registration(format!(
            "{} more do not fit the pin budget, lunasa.pin_budget = \"{}\", which is {} on this host, where this rank has \
             {own}{others}; raise lunasa.pin_budget (\"90%\", a size, or \"none\"), use fewer ranks per host, or register less",
            bytes(count),
            self.setting,
            bytes(limit)
        ))
    }

    fn used_by_others(&self) -> u64 {
        self.others().map(|line| line.bytes.load(Ordering::SeqCst)).sum()
    }

    /// What can be shown of it.
    pub(crate) fn info(&self) -> PinInfo {
        let counts = self.counts();
        let limit = self.limit();
        PinInfo {
            charged: true,
            budget: limit,
            kept: limit.map(|limit| self.kept(limit)),
            ranks: self.ranks,
            used: self.mine().bytes.load(Ordering::SeqCst),
            used_by_others: self.used_by_others(),
            asked: counts.asked,
            refusals: counts.refusals,
            refused: counts.refused,
        }
    }

    /// What this rank could still take, if there is a budget.
    pub(crate) fn left(&self) -> Option<(u64, u64)> {
        let limit = self.limit()?;
        let (own, kept) = (self.mine().bytes.load(Ordering::SeqCst), self.kept(limit));
        let others = self.others().map(|line| line.bytes.load(Ordering::SeqCst).max(kept)).fold(0, u64::saturating_add);
        Some((limit, limit.saturating_sub(others).max(kept).saturating_sub(own)))
    }
}

/// Whether a process is there and has not ended; one that has not signed yet is on its way.
fn lives(pid: u32) -> bool {
    if pid == 0 {
        return true;
    }
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // Behind the name, which may hold anything, stands the state: a zombie's memory is gone.
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    const MIB: u64 = 1 << 20;

    /// The ranks of a host with a budget of so many MiB, as they see it.
    fn host(ranks: u32, mib: u64) -> Vec<Budget> {
        let (run, setting) = (rand::random(), PinBudget::Bytes(mib * MIB));
        let first = Budget::create(run, ranks, setting).unwrap();
        let at = first.whereabouts();
        let others = (1..ranks).map(|place| Budget::open(run, place, at, setting).unwrap());
        let others: Vec<Budget> = others.collect();
        [first].into_iter().chain(others).collect()
    }

    fn sum(ranks: &[Budget]) -> u64 {
        ranks.iter().map(|rank| rank.info().used).sum::<u64>() / MIB
    }

    #[test]
    fn a_rank_alone_has_all_of_it_and_what_it_gives_back_it_can_have_again() {
        let [alone] = &host(1, 64)[..] else { unreachable!() };
        alone.take(64 * MIB).unwrap();
        let error = alone.take(1).unwrap_err().to_string();
        assert!(
            error.contains("1 B more do not fit the pin budget, lunasa.pin_budget = \"64 MiB\", which is 64 MiB"),
            "{error}"
        );
        assert!(error.contains("this rank has 64 MiB; raise"), "{error}");
        alone.give_back(MIB);
        assert!(alone.check(MIB + 1).is_err() && alone.check(MIB).is_ok());
        alone.take(MIB).unwrap();
        let info = alone.info();
        assert_eq!((info.used, info.refusals, info.refused), (64 * MIB, 2, MIB + 2));
        assert_eq!(info.asked, 64 * MIB + 1 + MIB + 1 + MIB);
    }

    #[test]
    fn a_greedy_rank_gets_the_common_half_and_leaves_the_others_their_parts() {
        let ranks = host(4, 64);
        // 8 MiB are kept for each, 32 are common.
        while ranks[2].take(MIB).is_ok() {}
        assert_eq!(ranks[2].info().used, 40 * MIB);
        assert_eq!(ranks[2].left(), Some((64 * MIB, 0)));
        for other in [0, 1, 3] {
            ranks[other].take(8 * MIB).unwrap();
            let error = ranks[other].take(1).unwrap_err().to_string();
            assert!(
                error.contains("this rank has 8 MiB, the other 3 have ") && error.contains("8 MiB are kept"),
                "{error}"
            );
        }
        assert_eq!(sum(&ranks), 64);
        ranks[2].give_back(10 * MIB);
        assert_eq!(ranks[0].left(), Some((64 * MIB, 10 * MIB)));
        ranks[0].take(10 * MIB).unwrap();
        assert!(ranks[1].take(1).is_err());
    }

    #[test]
    fn ranks_that_take_at_once_never_exceed_it_and_use_it_up() {
        let ranks = host(4, 64);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for rank in &ranks {
                scope.spawn(|| {
                    for round in 0..3000 {
                        if rank.take(MIB).is_ok() && round % 3 == 0 {
                            rank.give_back(MIB);
                        }
                        let granted = ranks.iter().map(|rank| rank.mine().bytes.load(Ordering::SeqCst)).sum();
                        most.fetch_max(granted, Ordering::SeqCst);
                    }
                    while rank.take(MIB).is_ok() {}
                });
            }
        });
        assert_eq!(sum(&ranks), 64, "at the end all of it is taken");
        // Each may have noted at most what it then took back.
        assert!(most.into_inner() <= (64 + 4) * MIB);
    }

    #[test]
    fn of_two_that_take_the_last_of_it_at_once_one_gets_it_at_most() {
        let ranks = host(2, 4);
        // What is left is the common half.
        ranks.iter().for_each(|rank| rank.take(MIB).unwrap());
        let (holders, turns) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for rank in &ranks {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if rank.take(2 * MIB).is_ok() {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "both have it");
                            turns.fetch_add(1, Ordering::SeqCst);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            rank.give_back(2 * MIB);
                        }
                    }
                });
            }
        });
        assert!(turns.into_inner() > 1000 && sum(&ranks) == 2);
    }

    #[test]
    fn what_a_dead_rank_had_is_free() {
        let ranks = host(2, 64);
        ranks[1].take(40 * MIB).unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        ranks[1].mine().pid.store(child.id(), Ordering::SeqCst);
        ranks[0].take(24 * MIB).unwrap();
        assert!(ranks[0].take(MIB).is_err(), "it lives");
        child.kill().unwrap();
        // It stays a zombie until it is waited for.
        std::thread::sleep(std::time::Duration::from_millis(200));
        ranks[0].take(MIB).unwrap();
        child.wait().unwrap();
        ranks[0].take(39 * MIB).unwrap();
        assert!(ranks[0].take(1).is_err());
    }

    #[test]
    fn without_a_budget_nothing_is_refused_and_all_is_counted() {
        let budget = Budget::create(rand::random(), 3, PinBudget::None).unwrap();
        budget.take(1 << 60).unwrap();
        assert_eq!((budget.info().used, budget.info().budget, budget.left()), (1 << 60, None, None));
    }

    #[test]
    fn by_default_it_is_a_part_of_the_memory_to_have() {
        let budget = Budget::create(rand::random(), 1, PinBudget::Percent(75)).unwrap();
        let memory = memory_to_have().0;
        assert_eq!(budget.info().budget, Some((u128::from(memory) * 75 / 100) as u64));
        assert!(budget.take(memory).unwrap_err().to_string().contains("lunasa.pin_budget = \"75%\", which is "));
    }

    #[test]
    fn a_ledger_of_another_run_is_refused() {
        let budget = Budget::create(7, 2, PinBudget::None).unwrap();
        assert!(Budget::open(8, 1, budget.whereabouts(), PinBudget::None).is_err());
        assert!(Budget::open(7, 2, budget.whereabouts(), PinBudget::None).is_err(), "a rank too many");
    }
}
