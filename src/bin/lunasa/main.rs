//! The command line of Lunasa.
fn main() {}
