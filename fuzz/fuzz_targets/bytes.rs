//! What reads bytes of others: handles, messages, configuration.
#![no_main]

#[path = "../../tests/stress/driven.rs"]
mod driven;
#[path = "../../tests/stress/player.rs"]
mod player;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lunasa::Lunasa;

static LUNASA: LazyLock<Lunasa> = LazyLock::new(driven::local);

fuzz_target!(|bytes: &[u8]| driven::read(&LUNASA, bytes));
