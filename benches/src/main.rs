//! Side-by-side benchmarks of Lunasa.
fn main() {}
