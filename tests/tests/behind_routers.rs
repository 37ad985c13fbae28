//! Two members behind a router each reach each other directly, where the routers let them.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Edge, Pair, say};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

fn reach_each_other(edges: [Edge; 2]) -> anyhow::Result<()> {
    let Some(pair) = Pair::new("behind", edges, 1)? else { return Ok(()) };
    let names = edges.map(Edge::name).join(" and ");
    let seen = pair.look(LIMIT, LIMIT)?;
    let first = seen.first.with_context(|| format!("{names}: no packet within {LIMIT:?}"))?;
    let direct = seen.direct.with_context(|| format!("{names}: no direct way within {LIMIT:?}"))?;
    let replies = pair.a.overlay_ok(&["ping", "--count", "2", "b"])?;
    ensure!(replies.matches("direct").count() == 2, "{replies}");
    say(&format!(
        "{names}: first packet after {:.2} s, direct after {:.1} s",
        first.as_secs_f64(),
        direct.as_secs_f64()
    ));
    Ok(())
}

#[test]
fn behind_two_home_routers() -> anyhow::Result<()> {
    reach_each_other([Edge::Home, Edge::Home])
}

#[test]
fn behind_home_routers_of_which_one_does_not_keep_ports() -> anyhow::Result<()> {
    reach_each_other([Edge::Home, Edge::HomeOtherPort])
}

#[test]
fn behind_a_symmetric_router_and_one_that_lets_everybody_in() -> anyhow::Result<()> {
    reach_each_other([Edge::SymmetricRandom, Edge::FullCone])
}

/// Such a router keeps for itself the port to which something came that nobody behind it had asked for.
#[test]
fn behind_two_routers_that_remember_what_came_unasked() -> anyhow::Result<()> {
    reach_each_other([Edge::HomeWithoutInputDrop, Edge::HomeWithoutInputDrop])
}

#[test]
fn behind_two_firewalls() -> anyhow::Result<()> {
    reach_each_other([Edge::Firewall, Edge::Firewall])
}
