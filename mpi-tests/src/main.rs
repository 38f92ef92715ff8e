//! Programs that test Lunasa on several ranks.
fn main() {}
