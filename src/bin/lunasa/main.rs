//! The command line of Lunasa.
mod demo;
fn main() {
    demo::run()
}
