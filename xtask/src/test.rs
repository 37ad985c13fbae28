//! `cargo xtask test`: everything that must hold, and one line that says whether it does.

use std::process::ExitCode;

use anyhow::Context;

use crate::outcome::Outcome;
use crate::say::say;
use crate::{cargo, tools};

/// How much is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All.
    All,
    /// What needs neither root nor `/dev/net/tun`.
    Quick,
}

/// Runs all stages even if one fails, so that one run shows everything that is wrong.
///
/// # Errors
/// A tool is missing.
pub(crate) fn run(extent: Extent) -> anyhow::Result<ExitCode> {
    if extent == Extent::All {
        tools::ensure_installed(tools::TESTS)?;
    }
    let mut all = Outcome::default();
    for (what, args, env) in [
        ("format", &["fmt", "--all", "--check"][..], &[][..]),
        ("lints", &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]),
        ("documentation", &["doc", "--locked", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")]),
        ("program", &["build", "--locked", "--release", "--package", "node"], &[]),
        ("tests", &["test", "--locked", "--workspace", "--exclude", "e2e", "--no-fail-fast"], &[]),
        // Each life counts as a test; optimised, since there are thousands.
        (
            "lives of registers",
            &["run", "--locked", "--release", "--package", "sim", "--bin", "registers", "--", "--seeds", "2000"],
            &[],
        ),
    ] {
        all.add(cargo::run(what, args, env)?);
    }
    match extent {
        Extent::All => all.add(kernel()?),
        Extent::Quick => say("== kernel tests: left out, as asked"),
    }
    if all.ignored > 0 {
        say(&format!("{} ignored", all.ignored));
    }
    say(&all.to_string());
    Ok(if all.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Three at a time: they wait more than they compute, but a busy machine makes clients give up.
fn kernel() -> anyhow::Result<Outcome> {
    let args = ["test", "--locked", "--package", "e2e", "--no-fail-fast", "--", "--test-threads=3"];
    let program = cargo::target_dir().join("release/overlay");
    let program = program.to_str().context("the target directory's path is text")?;
    cargo::run("kernel tests", &args, &[("RUST_BACKTRACE", "0"), ("OVERLAY_BIN", program)])
}
