//! A busy job whose pages are looked at: objects come and go, faces are read from neighbours, hooks answer.
//!
//! `pages SECONDS OBJECTS FILE`: rank 0 keeps so many small objects besides, and writes where its pages are into the file, in
//! one line. The job ends after that time, when somebody takes the file away, or when somebody posts to `/hooks/end` of rank 0.

use super::support::*;
use lunasa::status::{HookOptions, HookPage, HookReply};
use lunasa::{Config, Ldo, Lunasa, RemoteHandle, TypeId};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Objects of each rank that live for a while, at most.
const KEPT: usize = 200;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seconds = arguments.first().map_or(Ok(30), |text| text.parse())?;
    let objects: usize = arguments.get(1).map_or(Ok(0), |text| text.parse())?;
    let file = arguments.get(2).ok_or("a file for the address of the pages is missing")?;
    let lunasa = Lunasa::start(world, Config::new().set("lunasa.tcmalloc.min_system_alloc", "4 MiB")?)?;
    let (end, step) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    hooks(&lunasa, &end, &step)?;

    let mut small = Vec::new();
    if world.rank() == 0 {
        for i in 0..objects {
            small.push(lunasa.object().type_id("small").data(16 + i % 256)?);
        }
        std::fs::write(file, format!("{}\n", lunasa.url()))?;
    }
    let mut face = lunasa.object().type_id("face").meta(16).zeroed().data_of::<f64>(4096)?;
    face.data_mut::<f64>()?.iter_mut().zip(0u32..).for_each(|(cell, i)| *cell = f64::from(i).sin());
    let handles = exchange(world, &face.handle()?);
    let (mut kept, mut lazy): (Vec<Ldo>, Vec<Ldo>) = Default::default();
    let began = Instant::now();
    loop {
        let at = step.fetch_add(1, Ordering::Relaxed);
        // Ranks differ, and the last stands out.
        let sizes = if world.rank() + 1 == world.size() { 1 << 18 } else { 1 << 12 };
        for i in 0..8 {
            let bytes = 64 + (at * 7919 + i * 104_729) as usize % sizes;
            kept.push(
                lunasa.object().type_id(["particles", "cells <b>&", "halo"][i as usize % 3]).meta(8).data(bytes)?,
            );
        }
        if kept.len() > KEPT {
            kept.drain(..kept.len() / 2);
        }
        lazy.push(lunasa.object().lazy().type_id("checkpoint").data(1 << 16)?);
        lazy.truncate(20);
        for handle in &handles {
            lunasa.fetch(handle)?;
        }
        lunasa.poll_hooks();
        let mut over = end.load(Ordering::Relaxed)
            || began.elapsed() > Duration::from_secs(seconds)
            || (world.rank() == 0 && !std::path::Path::new(file).exists());
        world.process_at_rank(0).broadcast_into(&mut over);
        if over {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    drop((kept, lazy, small));
    meet(world, &lunasa);
    drop(face);
    until_nothing_is_alive(&lunasa);
    finish(lunasa)?;
    done(world, "pages")
}

fn hooks(lunasa: &Lunasa, end: &Arc<AtomicBool>, step: &Arc<AtomicU64>) -> Outcome {
    let (end, step) = (end.clone(), step.clone());
    let options = HookOptions::new().post().about("Ends the job when it is posted to.");
    lunasa.hooks().register_with("end", options, move |request| {
        end.fetch_or(request.method == "POST", Ordering::Relaxed);
        HookReply::html(r#"<form method="post"><button>End the job</button></form>"#)
    })?;
    let by_program = HookOptions::new().by_program().about("Where the program is.");
    lunasa.hooks().register_with("step", by_program, move |_| {
        let step = step.load(Ordering::Relaxed);
        HookPage::new()
            .facts([("Step", step.to_string()), ("Markup", "<b>is escaped</b>".to_owned())])
            .table("Faces", ["face", "cells"], [["east", "4096"], ["west", "4096"]])
            .reply()
    })?;
    lunasa.register_dump(TypeId::named("particles"), |object| {
        HookPage::new()
            .facts([("Bytes summed", object.data.iter().map(|&byte| u64::from(byte)).sum::<u64>().to_string())])
            .reply()
    });
    Ok(())
}

/// Every rank's handle, in the order of ranks.
fn exchange(world: &SimpleCommunicator, own: &RemoteHandle) -> Vec<RemoteHandle> {
    let mut all = vec![*own; world.size() as usize];
    world.all_gather_into(own, &mut all[..]);
    all
}
