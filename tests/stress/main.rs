//! Objects under stress: threads that come and go take random steps with them, hand them to one another, and hold them
//! against what they must contain; then every structure is checked.
//!
//! `LUNASA_SEED` repeats a play (as far as threads let it be repeated), `LUNASA_STRESS=10` makes it ten times as long.

mod driven;
mod player;

use std::collections::BTreeSet;
use std::sync::mpsc;

use lunasa::Lunasa;
use player::{Given, Held, Player};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const THREADS: usize = 4;
/// Of each thread in a round.
const STEPS: u64 = 20_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// What makes the random numbers; in the output of a test that fails.
fn seed() -> u64 {
    let seed = number("LUNASA_SEED").unwrap_or_else(rand::random);
    println!("LUNASA_SEED={seed}");
    seed
}

fn live(lunasa: &Lunasa) -> u64 {
    lunasa.snapshot().pools.iter().map(|pool| pool.live_objects).sum()
}

/// One thread's part of a round; what it holds at the end.
fn play(
    mut player: Player<'_>,
    mut random: SmallRng,
    steps: u64,
    others: Vec<mpsc::SyncSender<Given>>,
    inbox: mpsc::Receiver<Given>,
) -> Vec<Held> {
    let mut whom = random.clone();
    let mut choose = |below: usize| Some(random.random_range(0..below));
    let mut give = |given| match others[whom.random_range(0..others.len())].try_send(given) {
        Ok(()) => None,
        Err(mpsc::TrySendError::Full(given) | mpsc::TrySendError::Disconnected(given)) => Some(given),
    };
    for _ in 0..steps {
        player.step(&mut choose, &mut give).expect("a generator never ends");
        inbox.try_iter().take(2).for_each(|given| player.take(given));
    }
    drop(others);
    inbox.into_iter().for_each(|given| player.take(given));
    player.end()
}

/// The fuzzers' corpus, and random bytes besides.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let seed = seed();
    let mut random = SmallRng::seed_from_u64(seed);
    let corpus = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(corpus).expect("a corpus").map(|file| file.expect("a file").path());
    let mut inputs: Vec<Vec<u8>> = files.map(|file| std::fs::read(file).expect("a file")).collect();
    assert!(!inputs.is_empty());
    inputs.extend((0..1000).map(|_| {
        let len = random.random_range(0..600);
        (0..len).map(|_| random.random()).collect()
    }));
    inputs
}

#[test]
fn bytes_that_drive_objects_do_no_harm() {
    let lunasa = driven::local();
    inputs("objects").iter().for_each(|bytes| driven::play(&lunasa, bytes));
    assert_eq!(lunasa.finish().expect("ends").objects(), 0);
}

#[test]
fn bytes_from_others_are_right_or_an_error() {
    let lunasa = driven::local();
    inputs("bytes").iter().for_each(|bytes| driven::read(&lunasa, bytes));
    lunasa.check().expect("sound");
}

#[test]
fn objects_hold_what_was_written_and_every_byte_is_in_one_place() {
    let seed = seed();
    let rounds = 20 * number("LUNASA_STRESS").unwrap_or(1);
    let lunasa = driven::local();
    let mut held: Vec<Vec<Held>> = (0..THREADS).map(|_| Vec::new()).collect();
    for round in 0..rounds {
        // The fewer are held, the more blocks become empty.
        let most = [300, 3, 40, 1000][round as usize % 4];
        let (others, inboxes): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::sync_channel(100)).unzip();
        held = std::thread::scope(|scope| {
            let starts = held.into_iter().zip(inboxes).enumerate();
            let threads: Vec<_> = (starts.map(|(thread, (held, inbox))| {
                let random = SmallRng::seed_from_u64(seed ^ (round << 8) ^ thread as u64);
                let (player, others) = (Player::new(&lunasa, held, most), others.clone());
                scope.spawn(move || play(player, random, STEPS, others, inbox))
            }))
            .collect();
            drop(others);
            threads.into_iter().map(|thread| thread.join().expect("a part was played well")).collect()
        });
        lunasa.check().expect("sound");
        held.iter().flatten().for_each(Held::must_be_right);
        let distinct: BTreeSet<usize> = held.iter().flatten().map(Held::address).collect();
        assert_eq!(live(&lunasa), distinct.len() as u64, "objects alive and objects held");
    }
    drop(held);
    lunasa.check().expect("sound");
    assert_eq!(lunasa.finish().expect("ends").objects(), 0);
}
