//! Short messages that other routes have for peers. Each is put down where no call of MPI's may be made, and sent soon after.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::wire;
use crate::comm::{Comm, Pending};
use crate::error::Result;

#[derive(Debug, Default)]
pub(super) struct Notes {
    put: Mutex<VecDeque<(u32, Vec<u8>)>>,
    /// Held from taking a note until MPI has it, so that they leave in order.
    sending: Mutex<Vec<(Vec<u8>, Pending)>>,
    /// Of both kinds.
    count: AtomicUsize,
}

impl Notes {
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn put(&self, to: u32, note: Vec<u8>) {
        let mut put = self.put.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.fetch_add(1, Ordering::AcqRel);
        put.push_back((to, note));
    }

    /// Sends what was put down, and lets go of what is through.
    pub(super) fn send(&self, comm: &Comm) -> Result<()> {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let next = self.put.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((to, note)) = next else { break };
            // SAFETY: the buffer is on the heap and kept until the send is done.
            let send = unsafe { comm.send_start(note.as_ptr(), note.len(), to, wire::ASK) }?;
            sending.push((note, send));
        }
        let mut at = 0;
        while at < sending.len() {
            if sending[at].1.test()?.is_some() {
                drop(sending.swap_remove(at));
                self.count.fetch_sub(1, Ordering::AcqRel);
            } else {
                at += 1;
            }
        }
        Ok(())
    }
}
