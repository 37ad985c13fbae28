//! Tests of several parts together.

mod crash;
pub(crate) mod fake;
mod gate;
mod lab;
mod nodes;
mod outside;
mod promises;
mod real;
pub(crate) mod seen;
mod store;
mod streams;
mod twins;

use std::path::PathBuf;

/// An empty directory of this test run.
fn scratch(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    // Beside the test program, so that `cargo clean` takes it away.
    let path = program.with_file_name(format!("dht-driver-tests/{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}
