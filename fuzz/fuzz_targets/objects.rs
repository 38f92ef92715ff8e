//! A play of steps with objects, read from the fuzzer's bytes.
#![no_main]

#[path = "../../tests/stress/driven.rs"]
mod driven;
#[path = "../../tests/stress/player.rs"]
mod player;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lunasa::Lunasa;

static LUNASA: LazyLock<Lunasa> = LazyLock::new(driven::local);

fuzz_target!(|bytes: &[u8]| driven::play(&LUNASA, bytes));
