//! What else is done with objects often: cloned, and named to the network.

use std::hint::black_box;
use std::sync::Arc;

use lunasa::Section;

use super::contenders::Eager;
use crate::Outcome;
use crate::measure::{Contender, compare, timed};
use crate::report::Row;

/// What the segments of an object's data may cost, in ns.
const SEGMENTS_GOAL: f64 = 5.0;

/// The rows.
pub fn rows() -> Outcome<Vec<Row>> {
    let lunasa = Eager::new()?;
    let object = lunasa.instance().object().data(256)?;
    let shared = Arc::new([0u8; 256]);
    let times = compare(&mut [
        Contender::new("lunasa", |times| {
            timed(times, || {
                drop(black_box(object.clone()));
                Ok(())
            })
        }),
        Contender::new("Arc", |times| {
            timed(times, || {
                drop(black_box(shared.clone()));
                Ok(())
            })
        }),
        Contender::new("segments", |times| {
            timed(times, || {
                // What a scatter/gather entry is made of.
                for segment in black_box(&object).segments(Section::Data)?.iter() {
                    black_box((segment.address(), segment.len(), segment.keys().local));
                }
                Ok(())
            })
        }),
        Contender::new("handle", |times| {
            timed(times, || {
                black_box(black_box(&object).handle()?);
                Ok(())
            })
        }),
    ])?;
    let [clone, arc, segments, handle] = times[..] else { return Err("four things were measured".into()) };
    drop(object);
    lunasa.finish()?;
    Ok(vec![
        Row::new("clone and its drop", "ns", clone).peer("Arc", arc),
        Row::new("segments of the data", "ns", segments).peer("goal", SEGMENTS_GOAL),
        Row::new("handle", "ns", handle),
    ])
}
