//! The pin budget of a host: its ranks never have more of it together, one of them cannot starve the others, and what is
//! given back is free for them.

use super::support::*;
use lunasa::snapshot::PinInfo;
use lunasa::{Config, Error, Ldo, Lunasa};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

/// What the ranks of a host may pin.
const BUDGET: u64 = 4 << 20;
/// Bytes of one object, and what it may take of the budget: whole pages.
const OBJECT: usize = 60 << 10;
const CHARGED: u64 = 17 * 4096;

fn pins(lunasa: &Lunasa) -> PinInfo {
    lunasa.snapshot().registrations.pins
}

/// Registers objects until one is refused, or there are so many.
fn take(lunasa: &Lunasa, most: usize) -> Result<(Vec<Ldo>, Option<Error>), Error> {
    let mut taken = Vec::new();
    while taken.len() < most {
        let object = lunasa.object().lazy().data(OBJECT)?;
        match object.handle() {
            Ok(_) => taken.push(object),
            Err(error @ Error::Registration(_)) => return Ok((taken, Some(error))),
            Err(error) => return Err(error),
        }
    }
    Ok((taken, None))
}

/// With the host registrar that locks, or with what the arguments set (`KEY=VALUE`).
pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let config =
        config(ROUTES[0])?.set("lunasa.eager_memory_manager", "malloc")?.set("lunasa.pin_budget", BUDGET as i64)?;
    let config = match arguments {
        [] => config.set("lunasa.registrar", "host")?.set("lunasa.host.lock", true)?,
        settings => settings.iter().try_fold(config, |config, setting| set(config, setting))?,
    };
    let lunasa = Lunasa::start(world, config)?;
    let host = lunasa.host(lunasa.rank()).to_owned();
    let here: Vec<u32> = (0..lunasa.ranks()).filter(|rank| lunasa.host(*rank) == host).collect();
    let (ranks, greedy) = (here.len() as u64, here.last() == Some(&lunasa.rank()));
    let at_start = pins(&lunasa);
    let kept = BUDGET / 2 / ranks;
    assert_eq!((at_start.budget, at_start.kept, u64::from(at_start.ranks)), (Some(BUDGET), Some(kept), ranks));
    let in_time = |lunasa: &Lunasa| {
        meet(world, lunasa);
        let now = pins(lunasa);
        assert!(now.used + now.used_by_others <= BUDGET, "{now}");
        meet(world, lunasa);
        now
    };
    in_time(&lunasa);

    // The last rank of the host takes what it can get: all but what is kept for the others.
    let (had, refusal) = if greedy { take(&lunasa, usize::MAX)? } else { (vec![], None) };
    let now = in_time(&lunasa);
    if let Some(error) = refusal {
        let most = BUDGET - (ranks - 1) * kept;
        assert!(now.used <= most && now.used + CHARGED > most, "{now}");
        assert!(error.to_string().contains("lunasa.pin_budget = \"4 MiB\", which is 4 MiB on this host"), "{error}");
        assert!(now.refusals == 1 && now.refused <= CHARGED && now.asked == now.used + now.refused, "{now}");
    }

    // Each of the others gets what is kept for it, and no more.
    let (part, _) = if greedy { (vec![], None) } else { take(&lunasa, (kept / CHARGED) as usize)? };
    assert!(greedy || part.len() as u64 == kept / CHARGED, "starved: {} of {} objects", part.len(), kept / CHARGED);
    in_time(&lunasa);
    let (more, refusal) = if greedy { (vec![], None) } else { take(&lunasa, usize::MAX)? };
    assert!(greedy || refusal.is_some());
    in_time(&lunasa);
    drop((part, more));

    // What was given back is free for the first rank of the host.
    drop(had);
    in_time(&lunasa);
    let first = here.first() == Some(&lunasa.rank());
    let (had, _) = if first { take(&lunasa, usize::MAX)? } else { (vec![], None) };
    let now = in_time(&lunasa);
    assert!(!first || now.used + CHARGED > BUDGET - (ranks - 1) * kept, "{now}");
    drop(had);

    // All at once, again and again: in the end it is used up, and never exceeded.
    for round in 0..20 {
        drop(take(&lunasa, 3 + round)?);
    }
    let (had, _) = take(&lunasa, usize::MAX)?;
    in_time(&lunasa);
    let (last, _) = take(&lunasa, usize::MAX)?;
    let now = in_time(&lunasa);
    assert!(now.used + now.used_by_others + ranks * CHARGED > BUDGET, "{now}");
    drop((had, last));
    if world.rank() == 0 {
        println!("pin budget: {}", pins(&lunasa));
    }
    finish(lunasa)?;
    done(world, "pins")
}

fn set(config: Config, setting: &str) -> Result<Config, Error> {
    let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
    config.set(key, value)
}
