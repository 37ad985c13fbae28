//! Two of three replicas are lost for good: the machine with the authority key takes their place, waits until no lease of
//! theirs can be in use any more, and grants again.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Nine, view_members, wait};
use serde_json::Value;

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(300);
/// The guard of a lease of 30 s: both clocks wrong by a hundredth, and a second.
const WAIT_S: u64 = 31;

#[test]
fn a_lost_majority_is_recovered_and_a_new_member_gets_an_address() -> anyhow::Result<()> {
    let Some(mut nine) = Nine::new("recover", 4)? else { return Ok(()) };
    // The last machine comes later.
    let mut newcomer = nine.nodes.pop().context("there are machines")?;
    nine.found(&["--lease", "30s"])?;
    nine.wait_view(0, 3, LIMIT)?;
    for node in &mut nine.nodes {
        node.ready()?;
    }
    let first = nine.addresses()[0].context("no address")?;

    // Not where the key is not, and not where nothing is lost.
    let refused = nine.nodes[1].overlay(&["recover", "lab", "--yes"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("authority key"), "{refused:?}");
    let refused = nine.nodes[0].overlay(&["recover", "lab", "--yes"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("nothing to recover"), "{refused:?}");

    let void = nine.nodes[0].invite("lab", &[])?;
    for node in &mut nine.nodes[1..] {
        node.kill();
    }
    let first_node = &nine.nodes[0];
    // Without `--yes` it is only told.
    let told = first_node.overlay(&["recover", "lab"])?;
    ensure!(told.code == Some(1) && told.stdout.contains("would be given to this machine alone"), "{told:?}");
    ensure!(told.stderr.contains("--yes"), "{told:?}");
    let done: Value = serde_json::from_str(&first_node.overlay_ok(&["recover", "lab", "--yes", "--json"])?)?;
    let begun = wait::now();
    ensure!(done["done"] == true && done["shards"].as_array().is_some_and(|shards| !shards.is_empty()), "{done:#}");
    let status = first_node.status()?;
    let left = status["recovering"]["left_s"].as_u64().unwrap_or(0);
    ensure!((WAIT_S - 10..=WAIT_S + 1).contains(&left), "{status:#}");

    // Its own lease cannot be renewed meanwhile, and is not given to anybody else.
    wait::until_ok("the wait to be over", LIMIT, || {
        let status = first_node.status()?;
        wait::expect(status["recovering"].is_null(), || format!("status is {status:#}"))
    })?;
    ensure!(begun.elapsed() >= Duration::from_secs(WAIT_S - 1), "served after {:?}", begun.elapsed());
    let status = wait::until_ok("an address again", LIMIT, || {
        let status = first_node.status()?;
        wait::expect(status["state"] == "bound", || format!("status is {status:#}"))?;
        Ok(status)
    })?;
    ensure!(view_members(&status).len() == 1, "{status:#}");
    ensure!(status["ip"] == first.to_string(), "{status:#}");
    let token = status["lease"]["token"].as_str().context("no token")?;
    ensure!(token.starts_with("1."), "a token of the first incarnation: {token}");

    // An invite from before is void; a new one admits.
    newcomer.start(&["join", "lab", "--invite", &void, "--dns", "off"])?;
    wait::pause(Duration::from_secs(10));
    ensure!(newcomer.status().is_ok_and(|status| status["ip"].is_null()) || newcomer.status().is_err());
    newcomer.kill();
    let ready = newcomer.join_lab(&nine.nodes[0], &[])?;
    ensure!(ready.ip()? != first, "{ready:?}");
    newcomer.ping_once(&first.to_string())?;

    // One that was thought lost comes back, as a member like any other.
    let back = nine.nodes[1].start_ready(&["up"])?;
    ensure!(![first, ready.ip()?].contains(&back.ip()?), "{back:?}");
    newcomer.ping_once(&back.ip()?.to_string())?;
    wait::until_ok("one view", LIMIT, || {
        let views: Vec<Value> = nine.nodes[..2]
            .iter()
            .map(|node| Ok(node.status()?["view"]["members"].clone()))
            .collect::<anyhow::Result<_>>()?;
        wait::expect(views[0] == views[1], || format!("{views:?}"))
    })
}
