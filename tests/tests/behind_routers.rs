//! Two members behind a router each reach each other directly, where the routers let them.

use std::time::Duration;

use e2e::{Edge, say, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

fn reach_each_other(edges: [Edge; 2]) -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("behind")? else { return Ok(()) };
    let mut open = lab.public("o")?;
    let mut routers = [lab.router(edges[0])?, lab.router(edges[1])?];
    let [first, second] = &mut routers;
    let mut a = lab.behind(first, "a")?;
    let mut b = lab.behind(second, "b")?;
    open.create_lab(&["--hostname", "o"])?;
    a.join_lab(&open, &["--hostname", "a"])?;
    let ip = b.join_lab(&open, &["--hostname", "b"])?.ip()?.to_string();
    let began = wait::now();
    wait::until_ok("a to reach b", LIMIT, || a.ping_once(&ip))?;
    let took = began.elapsed().as_secs_f64();
    say(&format!("{} and {}: reached after {took:.1} s", edges[0].name(), edges[1].name()));
    let replies = a.overlay_ok(&["ping", "--count", "2", "b"])?;
    assert_eq!(replies.matches("direct").count(), 2, "{replies}");
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

#[test]
fn behind_two_firewalls() -> anyhow::Result<()> {
    reach_each_other([Edge::Firewall, Edge::Firewall])
}
