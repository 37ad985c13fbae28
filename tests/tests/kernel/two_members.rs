//! Two members: one of them is the only replica, and status says what that means before it matters.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Nine, view_members, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn the_first_of_two_is_the_only_replica_and_the_second_waits_for_it() -> anyhow::Result<()> {
    let Some(mut nine) = Nine::new("two", 2)? else { return Ok(()) };
    nine.found(&["--lease", "30s"])?;
    nine.nodes[1].ready()?;
    let before = nine.addresses();
    let first = nine.nodes[0].whole_status()?["peer_id"].as_str().context("no peer id")?.to_owned();

    // A view of two would need both, and so bear less than a view of one: it does not grow.
    wait::pause(Duration::from_secs(90));
    for node in &nine.nodes {
        let status = node.status()?;
        ensure!(view_members(&status) == std::slice::from_ref(&first), "{status:#}");
        let warning = status["warning"].as_str().unwrap_or_default();
        ensure!(warning.contains("one machine's sleep") && warning.contains(&first), "{status:#}");
    }

    // Without the second the first goes on, a whole lease and longer.
    nine.nodes[1].kill();
    wait::pause(Duration::from_secs(35));
    let status = nine.nodes[0].status()?;
    ensure!(status["state"] == "bound", "{status:#}");
    nine.nodes[1].start_ready(&["up"])?;
    ensure!(nine.addresses() == before, "{before:?}, then {:?}", nine.addresses());

    // Without the first the second keeps its address to the lease's end, and says why it ends.
    nine.nodes[0].kill();
    for state in ["renewing", "partitioned"] {
        let status = wait::until_ok(state, LIMIT, || {
            let status = nine.nodes[1].status()?;
            wait::expect(status["state"] == state, || format!("status is {status:#}"))?;
            Ok(status)
        })?;
        ensure!(status["cause"].as_str().is_some_and(|cause| cause.contains(&first)), "{status:#}");
        ensure!(status["ip"].is_null() == (state == "partitioned"), "{status:#}");
    }
    nine.nodes[0].start_ready(&["up"])?;
    wait::until_ok("both to have their addresses again", LIMIT, || {
        let after = nine.addresses();
        wait::expect(after == before, || format!("before {before:?}, after {after:?}"))
    })
}
