//! What a registration costs here, measured at the start: a fixed time and one per byte.

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Registrar;
use crate::error::Result;
use crate::memory::Shared;
use crate::snapshot::RegistrationCost;

/// Bytes of the two pieces that are registered.
const PIECES: [usize; 2] = [16 << 10, 2 << 20];
/// How often each is.
const ROUNDS: usize = 7;

/// Registers and deregisters a small and a larger piece of touched memory a few times, and draws a line through the
/// medians. The memory is as that of blocks, of ordinary pages. A few milliseconds with a device.
///
/// # Errors
/// What the memory or the registrar refused.
pub(crate) fn measure(registrar: &dyn Registrar) -> Result<RegistrationCost> {
    let memory = Shared::create("lunasa-measured", PIECES[1])?;
    // SAFETY: mapped above with this length, and ours alone; the write makes each page present.
    unsafe { memory.base().as_ptr().write_bytes(1, PIECES[1]) };
    let (base, held) = (memory.base(), Cell::new(false));
    let once = |len| {
        let start = Instant::now();
        // SAFETY: mapped with at least this length, and unmapped only when no registration is left.
        let keys = unsafe { registrar.register(base, len) }?;
        // SAFETY: those of the call above.
        let ended = unsafe { registrar.deregister(base, len, black_box(keys)) };
        held.set(ended.is_err());
        ended.map(|()| start.elapsed())
    };
    let times = |len| (0..ROUNDS).map(|_| once(len)).collect::<Result<Vec<_>>>().map(median);
    let measured = times(PIECES[0]).and_then(|small| Ok(line([small, times(PIECES[1])?])));
    if held.get() {
        // The registrar may still use it.
        std::mem::forget(memory);
    }
    measured
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// The line through the two times, with neither part below zero.
fn line([small, large]: [f64; 2]) -> RegistrationCost {
    let per_byte_s = ((large - small) / (PIECES[1] - PIECES[0]) as f64).max(0.0);
    RegistrationCost { fixed_s: (small - per_byte_s * PIECES[0] as f64).max(0.0), per_byte_s }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registrar::{CallbackRegistrar, RegionKeys};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_registrar_of_known_cost_is_measured_right() {
        let registered = Arc::new(AtomicUsize::new(0));
        let (pins, unpins) = (registered.clone(), registered.clone());
        let pin = move |_, len: usize| {
            pins.fetch_add(1, Ordering::Relaxed);
            let (start, time) = (Instant::now(), Duration::from_nanos(100_000 + len as u64 / 4));
            while start.elapsed() < time {}
            Ok(RegionKeys::default())
        };
        let unpin = move |_, _, _| {
            unpins.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        };
        // SAFETY: neither touches the memory.
        let cost = measure(&unsafe { CallbackRegistrar::new("known", pin, unpin) }).unwrap();
        assert_eq!(registered.load(Ordering::Relaxed), 0);
        // 100 µs and 0.25 ns a byte; the machine may be busy.
        assert!((90e-6..190e-6).contains(&cost.fixed_s) && (0.15e-9..0.45e-9).contains(&cost.per_byte_s), "{cost:?}");
    }

    #[test]
    fn a_refusal_is_told() {
        // SAFETY: neither touches the memory.
        let registrar = unsafe { CallbackRegistrar::new("none", |_, _| Err("no".to_owned()), |_, _, _| Ok(())) };
        assert!(measure(&registrar).is_err());
    }

    #[test]
    fn neither_part_of_a_cost_is_negative() {
        assert_eq!(line([2e-6, 1e-6]), RegistrationCost { fixed_s: 2e-6, per_byte_s: 0.0 });
        let steep = line([1e-9, 1.0]);
        assert!(steep.fixed_s == 0.0 && steep.per_byte_s > 0.0);
    }
}
