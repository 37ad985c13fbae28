//! The program `wan-shell`: how it begins, and the two ways to end it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

/// Both ends in one namespace that is gone with the program; nothing where kernel tests are left out.
fn start() -> anyhow::Result<Option<Child>> {
    if std::env::var("OVERLAY_SKIP_KERNEL_TESTS").is_ok_and(|value| value == "1") {
        return Ok(None);
    }
    ensure!(geteuid().is_root(), "run as root, or set OVERLAY_SKIP_KERNEL_TESTS=1 to leave the kernel tests out");
    let mut program = Command::new("unshare")
        .args(["--net", env!("CARGO_BIN_EXE_wan-shell"), "one", "two", "--seed", "5"])
        .args(["--line", "delay=1ms,loss=1%/6", "--then", "1s:back:down"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("Failed to run unshare (util-linux)")?;
    let stderr = program.stderr.as_mut().context("it is piped")?;
    let mut said = Vec::new();
    for line in BufReader::new(stderr).lines() {
        said.push(line?);
        if said.last().is_some_and(|line| line == "ready") {
            return Ok(Some(program));
        }
    }
    anyhow::bail!("not ready: {said:?}")
}

/// It has ended well, with its report as one line.
fn report(mut program: Child) -> anyhow::Result<Value> {
    let mut said = String::new();
    program.stdout.take().context("it is piped")?.read_to_string(&mut said)?;
    ensure!(program.wait()?.success() && said.lines().count() == 1, "{said}");
    Ok(serde_json::from_str(&said)?)
}

#[test]
fn it_ends_with_its_standard_input_and_says_what_happened() -> anyhow::Result<()> {
    let Some(mut program) = start()? else { return Ok(()) };
    drop(program.stdin.take());
    let report = report(program)?;
    ensure!(report["seed"] == 5 && report["there"]["missed"] == 0, "{report}");
    Ok(())
}

#[test]
fn it_ends_when_it_is_told_to() -> anyhow::Result<()> {
    let Some(program) = start()? else { return Ok(()) };
    let pid = i32::try_from(program.id()).ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(pid, Signal::TERM)?;
    let stdin_stays_open = report(program)?;
    ensure!(stdin_stays_open["seed"] == 5, "{stdin_stays_open}");
    Ok(())
}
