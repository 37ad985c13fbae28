//! Two members that have nothing to say to each other say nothing, and have not forgotten how to.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Edge, Node, Pair, Router, say, wait};
use serde_json::Value;

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);
/// What was under way is answered by then: keepalives after ten seconds, and what they lead to.
const SETTLED: Duration = Duration::from_secs(25);
const REST: Duration = Duration::from_secs(30);
/// Of processor time, in `/proc`.
const TICK_MS: u64 = 10;

/// Counts the datagrams that leave the data socket.
fn count(node: &Node) -> anyhow::Result<()> {
    let port = fs::read_to_string(node.state().join("port"))?;
    let rules = format!(
        "table inet idle {{\nchain out {{\ntype filter hook output priority 0; policy accept;\nudp sport {} counter\n}}\n}}\n",
        port.trim()
    );
    let file = node.dir().join("idle.nft");
    fs::write(&file, rules)?;
    node.run(&["nft", "-f", file.to_str().context("a path is text")?])?;
    Ok(())
}

fn counted(node: &Node) -> anyhow::Result<u64> {
    let all: Value = serde_json::from_str(&node.run(&["nft", "-j", "list", "table", "inet", "idle"])?)?;
    let rules = all["nftables"].as_array().context("no rules")?;
    let counters = rules.iter().filter_map(|rule| rule["rule"]["expr"].as_array()).flatten();
    counters.filter_map(|expr| expr["counter"]["packets"].as_u64()).next().context("no counter")
}

/// Milliseconds of processor time that the daemon has taken.
fn processor(node: &mut Node) -> anyhow::Result<u64> {
    let pid = node.daemon()?.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) * TICK_MS)
}

/// As a timer does. The overlay's own connections are not at rest, and stay.
fn forget_flows_to(router: &Router, outside: &str) -> anyhow::Result<()> {
    // It fails where there is nothing to delete any more.
    let _ = router.run(&["conntrack", "-D", "-p", "udp", "-d", outside]);
    let left = router.run(&["conntrack", "-L", "-p", "udp", "-d", outside])?;
    ensure!(left.trim().is_empty(), "not forgotten: {left}");
    Ok(())
}

#[test]
fn members_at_rest_send_each_other_nothing() -> anyhow::Result<()> {
    let Some(mut pair) = Pair::new("idle", [Edge::Home, Edge::Home], 1)? else { return Ok(()) };
    let seen = pair.look(LIMIT, LIMIT)?;
    ensure!(seen.direct.is_some(), "{seen:?}");
    count(&pair.a)?;
    wait::pause(SETTLED);
    let (before, took) = (counted(&pair.a)?, processor(&mut pair.a)?);
    wait::pause(REST);
    let (sent, took) = (counted(&pair.a)? - before, processor(&mut pair.a)? - took);
    say(&format!("at rest for {REST:?}: {sent} datagrams, {took} ms of processor time"));
    ensure!(sent == 0, "{sent} datagrams in {REST:?}");
    ensure!(took < 300, "{took} ms of processor time in {REST:?}");
    // Whoever wants to talk can, by the first packet, though both routers have forgotten that they talked.
    for (router, other) in [(0, 1), (1, 0)] {
        forget_flows_to(&pair.routers[router], pair.routers[other].outside())?;
    }
    let began = wait::now();
    pair.a.ping_once(&pair.b_ip)?;
    say(&format!("the first packet after it was answered after {:.2} s", began.elapsed().as_secs_f64()));
    pair.wait_path("direct", LIMIT)?;
    ensure!(pair.way()?["path"] == "direct", "{}", pair.way()?);
    ensure!(counted(&pair.a)? > before, "nothing was counted");
    Ok(())
}

#[test]
fn a_member_at_rest_is_found_again_after_its_router_has_forgotten_everything() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("power", [Edge::Home, Edge::Home], 1)? else { return Ok(()) };
    let seen = pair.look(LIMIT, LIMIT)?;
    ensure!(seen.direct.is_some(), "{seen:?}");
    wait::pause(SETTLED);
    // The power was away for a moment. `b` has nothing to say, and does not know.
    pair.routers[1].forget()?;
    let began = wait::now();
    wait::until_ok("a to find b again", LIMIT, || pair.a.run(&["ping", "-c", "1", "-W", "1", &pair.b_ip]))?;
    say(&format!("found again after {:.1} s", began.elapsed().as_secs_f64()));
    pair.wait_path("direct", LIMIT)?;
    Ok(())
}
