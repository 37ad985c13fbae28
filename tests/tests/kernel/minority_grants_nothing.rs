//! A partition: the larger side goes on, the smaller one grants nothing and says so, and nobody loses an address by it.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::dhcp_client::{Segment, udhcpc};
use e2e::{Nine, Node, Process, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(300);

/// A second host behind a machine's TAP, with a DHCP client that asks and asks.
fn guest(node: &Node) -> anyhow::Result<Process> {
    node.run(&["ip", "link", "add", "name", "guest", "link", "ov-lab", "type", "macvlan", "mode", "bridge"])?;
    node.run(&["ip", "link", "set", "guest", "up"])?;
    let server: Ipv4Addr = node.status()?["dns"].as_str().context("no dns in the status")?.parse()?;
    let segment = Segment { node, device: "guest", server, other: server, search: "lab.internal", mtu: 1400 };
    // Not ten times, but until there is an answer.
    udhcpc(&segment, &["-t", "1000"])
}

fn guest_has(nine: &Nine, node: usize) -> anyhow::Result<bool> {
    Ok(!nine.nodes[node].addresses("guest")?.is_empty())
}

/// Waits until the machine's status has this state, and returns the cause.
fn wait_state(node: &Node, state: &str) -> anyhow::Result<String> {
    wait::until_ok(state, LIMIT, || {
        let status = node.status()?;
        wait::expect(status["state"] == state, || format!("status is {status:#}"))?;
        Ok(status["cause"].as_str().unwrap_or_default().to_owned())
    })
}

/// Five members in a view of five, each with its address.
fn five(name: &str) -> anyhow::Result<Option<(Nine, Vec<Option<Ipv4Addr>>)>> {
    let Some(mut nine) = Nine::new(name, 5)? else { return Ok(None) };
    nine.found(&["--lease", "30s"])?;
    nine.wait_view(0, 5, LIMIT)?;
    for node in &nine.nodes {
        wait_state(node, "bound")?;
    }
    let before = nine.addresses();
    ensure!(before.iter().all(Option::is_some), "{before:?}");
    Ok(Some((nine, before)))
}

#[test]
fn a_minority_grants_nothing_and_says_why_and_afterwards_all_is_as_before() -> anyhow::Result<()> {
    let Some((mut nine, before)) = five("minority")? else { return Ok(()) };
    // The creator is on the smaller side: it is nothing special.
    let (smaller, larger) = ([0, 1], [2, 3, 4]);
    nine.part(&smaller)?;
    for node in smaller {
        let cause = wait_state(&nine.nodes[node], "renewing")?;
        ensure!(cause.contains("replicas") && cause.contains("ends in"), "{cause:?}");
    }
    for node in smaller {
        let cause = wait_state(&nine.nodes[node], "partitioned")?;
        ensure!(cause.contains("replicas"), "{cause:?}");
        let status = nine.nodes[node].status()?;
        ensure!(status["ip"].is_null() && status["hosts"].as_array().is_some_and(Vec::is_empty), "{status:#}");
    }

    // Now, with every lease of before over, both sides are asked for a new address.
    let (refused, granted) = (guest(&nine.nodes[smaller[0]])?, guest(&nine.nodes[larger[0]])?);
    wait::until_ok("a grant on the larger side", LIMIT, || {
        wait::expect(guest_has(&nine, larger[0])?, || format!("the guest said {}", granted.said()))
    })?;
    for node in larger {
        let status = nine.nodes[node].status()?;
        ensure!(status["state"] == "bound", "{status:#}");
    }
    // The smaller side has had as long as the larger one needed, and a whole lease besides.
    wait::pause(Duration::from_secs(32));
    ensure!(!guest_has(&nine, smaller[0])?, "the smaller side granted an address: {}", refused.said());
    for node in smaller {
        let status = nine.nodes[node].status()?;
        ensure!(status["state"] == "partitioned" && status["ip"].is_null(), "{status:#}");
    }

    nine.heal()?;
    let healed = wait::now();
    wait::until_ok("everybody to have a lease", LIMIT, || {
        let after = nine.addresses();
        wait::expect(after == before, || format!("before {before:?}, after {after:?}"))
    })?;
    e2e::say(&format!("after healing all had their leases again in {:.1} s", healed.elapsed().as_secs_f64()));
    wait::until_ok("the guest's address", LIMIT, || {
        wait::expect(guest_has(&nine, smaller[0])?, || format!("the guest said {}", refused.said()))
    })?;
    nine.nodes[0].ping_once(&before[4].context("an address")?.to_string())
}
