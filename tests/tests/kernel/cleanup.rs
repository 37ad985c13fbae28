//! What `overlay` leaves behind: nothing.

use std::time::Duration;

use anyhow::ensure;
use e2e::wait::{self, expect};

#[test]
fn an_interrupt_leaves_no_trace() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("ctrlc")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let before = a.traces()?;
    a.create_lab(&["--hostname", "a"])?;
    let during = a.traces()?;
    ensure!(during.contains("ov-lab") && during != before, "it left no trace while it ran: {during}");
    let dns = a.status()?["dns"].as_str().unwrap_or_default().to_owned();
    ensure!(a.resolv_conf()?.contains(&dns), "resolv.conf does not name {dns}: {}", a.resolv_conf()?);
    let ended = a.interrupt()?;
    ensure!(ended.code == Some(0), "an interrupt is no failure: {ended:?}");
    let after = a.traces()?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

#[test]
fn what_a_killed_daemon_left_the_next_one_removes() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("kill")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let before = a.traces()?;
    let first = a.create_lab(&["--hostname", "a"])?;
    a.kill();
    wait::until_ok("the TAP's end", Duration::from_secs(5), || {
        expect(!a.has_device("ov-lab")?, || "the TAP outlives the process".into())
    })?;
    let second = a.start_ready(&["create", "lab"])?;
    ensure!(first == second, "{first:?}, then {second:?}");
    a.interrupt()?;
    let after = a.traces()?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

#[test]
fn a_failed_join_leaves_no_trace() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("failed")? else { return Ok(()) };
    let a = lab.public("a")?;
    let before = a.traces()?;
    let ended = a.overlay(&["join", "lab", "--invite", "ov1nonsense"])?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(a.traces()? == before, "{}", a.traces()?);
    Ok(())
}
