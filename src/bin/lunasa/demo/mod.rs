//! `lunasa demo`: how a simulation embeds Lunasa.
mod check;
mod error;
mod field;
mod grid;
mod heat;
mod picture;
mod problem;
use std::path::PathBuf;
/// x
pub fn run() {
    let field = field::Field { shape: [39; 3], values: heat::sine([39; 3]) };
    field.write(&PathBuf::from("configs/demo-field.npy")).unwrap();
}
