//! Plain MPI messages, for comparison. They need the other rank's part, which it plays on order.
//!
//! Between orders it waits without eating its core, as a rank that computes elsewhere leaves MPI alone. An order is
//! acknowledged before the clock starts, so that how long it waits for one is not measured.

use std::time::Duration;

use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

use crate::Outcome;
use crate::measure::timed;

const ORDER: i32 = 1;
const DATA: i32 = 2;

const END: u64 = 0;
const ANSWER: u64 = 1;
const ACKNOWLEDGE: u64 = 2;
const RETURN: u64 = 3;

const NOTHING: &[u8] = &[];

/// Rank 0's side.
#[derive(Clone, Copy)]
pub struct Messages<'a>(pub &'a SimpleCommunicator);

impl Messages<'_> {
    fn order(&self, what: u64, times: u32, bytes: usize) {
        let other = self.0.process_at_rank(1);
        other.send_with_tag(&[what, u64::from(times), bytes as u64][..], ORDER);
        other.receive_into_with_tag(&mut [0u8; 0][..], ORDER);
    }

    /// A request without data, and the data in return: what a get must do.
    pub fn get(&self, times: u32, into: &mut [u8]) -> Outcome<Duration> {
        self.order(ANSWER, times, into.len());
        let other = self.0.process_at_rank(1);
        timed(times, || {
            other.send_with_tag(NOTHING, DATA);
            other.receive_into_with_tag(into, DATA);
            Ok(())
        })
    }

    /// The data, and a message without data in return: what a put must do.
    pub fn put(&self, times: u32, from: &[u8]) -> Outcome<Duration> {
        self.order(ACKNOWLEDGE, times, from.len());
        let other = self.0.process_at_rank(1);
        timed(times, || {
            other.send_with_tag(from, DATA);
            other.receive_into_with_tag(&mut [0u8; 0][..], DATA);
            Ok(())
        })
    }

    /// Half of sending the data there and back: one send and its receive.
    pub fn one_way(&self, times: u32, buffer: &mut [u8]) -> Outcome<Duration> {
        self.order(RETURN, times, buffer.len());
        let other = self.0.process_at_rank(1);
        let there_and_back = timed(times, || {
            other.send_with_tag(buffer, DATA);
            other.receive_into_with_tag(buffer, DATA);
            Ok(())
        })?;
        Ok(there_and_back / 2)
    }

    /// Lets the other rank go.
    pub fn end(&self) {
        self.order(END, 0, 0);
    }
}

/// Rank 1's side: does what it is ordered, with `memory`, until the end.
pub fn follow(world: &SimpleCommunicator, memory: &mut [u8]) -> Outcome {
    let first = world.process_at_rank(0);
    // What is sent there and back leaves `memory` as it is.
    let mut received = vec![0u8; memory.len()];
    loop {
        let message = loop {
            match first.immediate_matched_probe_with_tag(ORDER) {
                Some((message, _)) => break message,
                None => std::thread::sleep(Duration::from_micros(100)),
            }
        };
        let mut order = [0u64; 3];
        message.matched_receive_into(&mut order[..]);
        let [what, times, bytes] = order;
        let data = memory.get_mut(..bytes as usize).ok_or("an order for more than there is")?;
        first.send_with_tag(NOTHING, ORDER);
        if what == END {
            return Ok(());
        }
        for _ in 0..times {
            match what {
                ANSWER => {
                    first.receive_into_with_tag(&mut [0u8; 0][..], DATA);
                    first.send_with_tag(data, DATA);
                }
                ACKNOWLEDGE => {
                    first.receive_into_with_tag(data, DATA);
                    first.send_with_tag(NOTHING, DATA);
                }
                RETURN => {
                    first.receive_into_with_tag(&mut received[..data.len()], DATA);
                    first.send_with_tag(data, DATA);
                }
                other => return Err(format!("no order {other}").into()),
            }
        }
    }
}
