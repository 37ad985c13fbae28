//! Running cargo, and counting what its tests say.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::outcome::Outcome;
use crate::say::say;

/// Runs `cargo …`, shows its output and counts tests. A failure without a failed test counts as one.
///
/// # Errors
/// Cargo cannot be started.
pub(crate) fn run(what: &str, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Outcome> {
    say(&format!("== {what}: cargo {}", args.join(" ")));
    let mut child = command(&[])
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("Failed to start cargo")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(child.stdout.take().context("stdout is piped")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        say(&line);
        outcome.add(Outcome::of_line(&line));
    }
    if !child.wait()?.success() && outcome.failed == 0 {
        say(&format!("== {what} FAILED"));
        outcome.failed = 1;
    }
    Ok(outcome)
}

/// Cargo as from a shell. What `cargo xtask` tells us of this package would make build scripts run again that watch it, and
/// all that rests on them be built anew. `before` is what starts it, if it is not we.
pub(crate) fn command(before: &[&str]) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut words = before.iter().copied().chain([cargo.as_str()]);
    let mut command = Command::new(words.next().unwrap_or("cargo"));
    command.args(words);
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(key);
        }
    }
    command
}

/// Builds `target/release/overlay`, unless `OVERLAY_BIN` names a program to be used instead.
///
/// # Errors
/// It does not build.
pub(crate) fn build_program() -> anyhow::Result<()> {
    if std::env::var_os("OVERLAY_BIN").is_some() {
        return Ok(());
    }
    let outcome = run("program", &["build", "--locked", "--release", "--package", "node"], &[])?;
    ensure!(outcome.failed == 0, "the program does not build");
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    let default = || Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")).to_owned();
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(default, PathBuf::from)
}
