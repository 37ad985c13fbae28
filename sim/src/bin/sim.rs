//! Runs random lives.
fn main() {}
