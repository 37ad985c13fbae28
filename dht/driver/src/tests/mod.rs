//! Tests of several parts together.

mod crash;
pub(crate) mod fake;
mod gate;
mod nodes;
mod real;
mod store;

use std::path::PathBuf;

/// An empty directory of this test run.
fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("dht-driver-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}
