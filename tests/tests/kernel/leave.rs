//! Leaving, coming back, forgetting.

use std::time::Duration;

use anyhow::ensure;
use e2e::wait::{self, expect};

#[test]
fn who_leaves_gives_the_address_back_and_may_return_without_a_token() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("leave")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    a.create_lab(&["--hostname", "a"])?;
    let ip = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
    let peer = b.whole_status()?["peer_id"].as_str().unwrap_or_default().to_owned();
    ensure!(a.overlay_ok(&["lookup", &ip])?.contains(&peer), "a does not know b's address");
    b.overlay_ok(&["leave", "lab"])?;
    wait::until_ok("the TAP's end", Duration::from_secs(10), || {
        expect(!b.has_device("ov-lab")?, || "the TAP is still there".into())
    })?;
    wait::until_ok("the lease's end", Duration::from_secs(10), || {
        let found = a.overlay(&["lookup", &ip])?;
        expect(!found.stdout.contains(&peer), || format!("{ip} is still b's: {found:?}"))
    })?;
    b.start_ready(&["join", "lab"])?;
    b.ping_once("a.lab.internal")
}

#[test]
fn who_forgets_needs_a_new_token() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("forget")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    a.create_lab(&["--hostname", "a"])?;
    b.join_lab(&a, &["--hostname", "b"])?;
    b.overlay_ok(&["leave", "lab", "--forget"])?;
    b.kill();
    let refused = b.overlay(&["join", "lab"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("overlay invite lab"), "{refused:?}");
    b.join_lab(&a, &["--hostname", "b"])?;
    b.ping_once("a.lab.internal")
}

#[test]
fn the_creator_forgets_only_when_it_says_destroy() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("destroy")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let first = a.create_lab(&["--hostname", "a"])?;
    let id = a.status()?["id"].clone();
    let refused = a.overlay(&["leave", "lab", "--forget"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("--destroy"), "{refused:?}");
    ensure!(a.status()?["ip"] == first.ip()?.to_string(), "a refused command changed something");
    a.overlay_ok(&["leave", "lab", "--forget", "--destroy"])?;
    a.kill();
    a.create_lab(&["--hostname", "a"])?;
    ensure!(a.status()?["id"] != id, "what was destroyed came back");
    Ok(())
}
