//! `cargo xtask demos`: programs that know nothing of the overlay, over the overlay.

use std::process::ExitCode;

use anyhow::Context;

use crate::say::say;
use crate::{cargo, tools};

/// Installs the programs, and runs the tests that the ordinary command leaves out for their weight. They say what they see.
///
/// # Errors
/// Something cannot be installed or built.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    tools::ensure_installed(tools::TESTS)?;
    tools::ensure_installed_only(tools::DEMOS)?;
    cargo::build_program()?;
    let program = e2e::overlay_binary()?;
    let program = program.to_str().context("the program's path is text")?;
    let args = [
        "test",
        "--locked",
        "--package",
        "e2e",
        "--test",
        "kernel",
        "--",
        "unmodified_programs",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let outcome = cargo::run("unmodified programs", &args, &[("RUST_BACKTRACE", "0"), ("OVERLAY_BIN", program)])?;
    say(&outcome.to_string());
    Ok(if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
