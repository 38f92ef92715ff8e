//! What a fuzzer drives by its bytes: `fuzz/` with bytes that it finds, `tests/stress` with its corpus and random ones.

use lunasa::{Config, Lunasa, RemoteHandle, fuzzing};

use crate::player::Player;

/// Blocks that come and go often.
pub fn local() -> Lunasa {
    let set = |config: Config, (key, value): (&str, &str)| config.set(key, value).expect("a key and its value");
    let settings = [
        ("lunasa.tcmalloc.min_system_alloc", "2 MiB"),
        ("lunasa.tcmalloc.max_system_alloc", "16 MiB"),
        ("lunasa.tcmalloc.reserve_ahead", "1 MiB"),
        ("lunasa.tcmalloc.release_after", "2 ms"),
        ("lunasa.memory.huge_pages", "off"),
    ];
    let config = Config::new().ignore_environment().set("lunasa.status.enabled", false).expect("a key and its value");
    Lunasa::local(settings.into_iter().fold(config, set)).expect("starts")
}

/// Steps with objects, as the bytes say, until they end; then everything is checked.
pub fn play(lunasa: &Lunasa, bytes: &[u8]) {
    let mut rest = bytes.iter();
    let mut choose = |below: usize| {
        let mut number = usize::from(*rest.next()?);
        let mut reach = 256;
        while reach < below {
            number = number << 8 | usize::from(*rest.next()?);
            reach <<= 8;
        }
        Some(number % below)
    };
    let mut player = Player::new(lunasa, Vec::new(), 100);
    while player.step(&mut choose, &mut Some).is_some() {}
    let held = player.end();
    held.iter().for_each(|held| held.must_be_right());
    drop(held);
    lunasa.check().expect("sound");
}

/// Reads the bytes as everything that comes from others: each is right or an error.
pub fn read(lunasa: &Lunasa, bytes: &[u8]) {
    let _ = RemoteHandle::from_bytes(bytes);
    fuzzing::read_messages(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (key, value) = text.split_once('=').unwrap_or(("lunasa.mpi.piece", text));
        let value =
            toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|table| table.get("v").cloned());
        let _ = Config::new().ignore_environment().set(key, value.unwrap_or_else(|| text.into()));
    }
    // A handle of ours, in which the first bytes change a few (place and change by turns), sealed as an enemy would.
    let object = lunasa.object().zeroed().data(1000).expect("allocates");
    let mut forged = object.handle().expect("registers").to_bytes();
    let changes = bytes.chunks_exact(2).take(3);
    changes.for_each(|change| forged[usize::from(change[0]) % RemoteHandle::SIZE] ^= change[1]);
    let forged = fuzzing::sealed(forged);
    if forged.data_len() < 1 << 20 && forged.meta_len() < 1 << 20 {
        let _ = lunasa.fetch(&forged);
        let _ = lunasa.view(&forged);
    }
    assert!(object.data::<u8>().expect("sound").iter().all(|&byte| byte == 0), "a fetch wrote");
}
