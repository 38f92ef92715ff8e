//! The cpu that the calling thread runs on, asked for now and then only.

use std::cell::Cell;

/// So many answers are given from memory before the system is asked again.
pub(crate) const ASK_AFTER: u32 = 64;

/// The last answer, and how often it may still be given: two words, as one that is written in halves is slow to read.
struct Last {
    cpu: Cell<u32>,
    left: Cell<u32>,
}

thread_local! {
    static LAST: Last = const { Last { cpu: Cell::new(0), left: Cell::new(0) } };
}

/// The cpu that the calling thread runs on, or ran on no more than [`ASK_AFTER`] calls ago.
#[inline]
pub(crate) fn current_cpu() -> u32 {
    LAST.with(|last| match last.left.get() {
        0 => ask(last),
        left => {
            last.left.set(left - 1);
            last.cpu.get()
        }
    })
}

#[cold]
#[inline(never)]
fn ask(last: &Last) -> u32 {
    // SAFETY: takes nothing and only returns a number.
    let cpu = u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
    last.cpu.set(cpu);
    last.left.set(ASK_AFTER);
    cpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_moved_is_noticed_soon() {
        let topology = crate::topology::Topology::discover();
        for cpu in topology.iter().flat_map(|topology| topology.cpus().iter()) {
            let mask = crate::topology::CpuList::from_iter([cpu]).to_mask();
            // SAFETY: the mask has as many bytes as said; the call only reads it. It binds this test's own thread.
            let code =
                unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(mask.as_slice()), mask.as_ptr().cast()) };
            assert_eq!(code, 0);
            (0..ASK_AFTER).for_each(|_| _ = current_cpu());
            assert_eq!(current_cpu(), cpu);
        }
    }
}
