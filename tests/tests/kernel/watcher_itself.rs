//! The watcher is judged first: it must see what it is there to see, and must not see what is not there.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::ensure;
use e2e::watcher::Watcher;
use e2e::{Nine, wait};

const LEASE: Duration = Duration::from_secs(30);

fn range() -> Vec<Ipv4Addr> {
    (1..=6).map(|last| Ipv4Addr::new(10, 99, 0, last)).collect()
}

/// Machines on a common wire without any protocol: whoever is given an address has it.
fn wire(name: &str, addresses: &[&str]) -> anyhow::Result<Option<Nine>> {
    let Some(nine) = Nine::new(name, addresses.len())? else { return Ok(None) };
    for (node, address) in nine.nodes.iter().zip(addresses) {
        node.run(&["ip", "link", "add", "name", "ov-lab", "link", "eth0", "type", "macvlan", "mode", "bridge"])?;
        node.run(&["ip", "link", "set", "ov-lab", "up"])?;
        node.run(&["ip", "addr", "add", &format!("{address}/29"), "dev", "ov-lab"])?;
    }
    Ok(Some(nine))
}

#[test]
fn two_machines_that_send_from_one_address_are_seen() -> anyhow::Result<()> {
    let Some(nine) = wire("conflict", &["10.99.0.2", "10.99.0.3", "10.99.0.2"])? else { return Ok(()) };
    let watcher = Watcher::start(&nine.nodes, range(), LEASE)?;
    wait::until_ok("a fault", Duration::from_secs(20), || {
        let verdict = watcher.verdict();
        wait::expect(verdict.faults.iter().any(|fault| fault.contains("10.99.0.2")), || verdict.to_string())
    })?;
    let verdict = watcher.finish()?;
    ensure!(verdict.faults.iter().all(|fault| !fault.contains("10.99.0.3")), "{verdict}");
    Ok(())
}

#[test]
fn machines_with_an_address_each_are_in_order() -> anyhow::Result<()> {
    let Some(nine) = wire("order", &["10.99.0.2", "10.99.0.3", "10.99.0.4"])? else { return Ok(()) };
    let watcher = Watcher::start(&nine.nodes, range(), LEASE)?;
    wait::until_ok("uses of all three", Duration::from_secs(20), || {
        let verdict = watcher.verdict();
        wait::expect(verdict.users == 3 && verdict.uses > 60, || verdict.to_string())
    })?;
    let verdict = watcher.finish()?;
    ensure!(verdict.faults.is_empty() && verdict.addresses == 3 && verdict.moves == 0, "{verdict}");
    Ok(())
}

#[test]
fn an_address_that_is_moved_within_one_lease_and_back_is_seen() -> anyhow::Result<()> {
    let Some(nine) = wire("moved", &["10.99.0.2", "10.99.0.3", "10.99.0.4"])? else { return Ok(()) };
    let watcher = Watcher::start(&nine.nodes, range(), LEASE)?;
    let moves = |moves| {
        wait::until_ok("a move", Duration::from_secs(20), || {
            let verdict = watcher.verdict();
            wait::expect(verdict.moves >= moves && verdict.addresses == 3, || verdict.to_string())
        })
    };
    moves(0)?;
    for (times, (from, to)) in [(0, 2), (2, 0)].into_iter().enumerate() {
        nine.nodes[from].run(&["ip", "addr", "del", "10.99.0.2/29", "dev", "ov-lab"])?;
        nine.nodes[to].run(&["ip", "addr", "add", "10.99.0.2/29", "dev", "ov-lab"])?;
        // The wire's own memory of who is where.
        nine.nodes[1].run(&["ip", "neigh", "flush", "dev", "ov-lab"])?;
        moves(times + 1)?;
    }
    let verdict = watcher.finish()?;
    ensure!(verdict.faults.len() == 1 && verdict.faults[0].contains("within one lease"), "{verdict}");
    Ok(())
}

#[test]
fn a_link_is_cut_one_way_and_both_and_mended() -> anyhow::Result<()> {
    use e2e::Way;
    let Some(mut nine) = Nine::new("cuts", 3)? else { return Ok(()) };
    // What one machine says to another arrives: a datagram, for an answer would need the way back.
    let arrives = |nine: &Nine, from: usize, to: usize| -> anyhow::Result<bool> {
        let mut heard = nine.nodes[to].spawn(&["tcpdump", "-n", "-l", "-i", "eth0", "udp and dst port 9"])?;
        heard.wait_for_line(Duration::from_secs(10), |line| line.contains("listening on"))?;
        let say = format!("for i in 1 2 3; do echo x > /dev/udp/{}/9; sleep 0.1; done", nine.nodes[to].underlay());
        nine.nodes[from].run(&["bash", "-c", &say])?;
        Ok(heard.wait_for_line(Duration::from_secs(1), |line| line.contains("UDP")).is_ok())
    };
    // Everybody knows everybody's MAC address, or the asking would be cut off too.
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        nine.nodes[from].ping_once(nine.nodes[to].underlay())?;
    }
    let check = |nine: &Nine| -> anyhow::Result<()> {
        for (from, to) in [(0, 1), (1, 0), (2, 1), (1, 2)] {
            let (heard, expected) = (arrives(nine, from, to)?, nine.passes(from, to));
            ensure!(heard == expected, "from {from} to {to}: heard {heard}, expected {expected}");
        }
        Ok(())
    };
    nine.cut(0, Way::Out)?;
    ensure!(!nine.passes(0, 1) && nine.passes(1, 0));
    check(&nine)?;
    nine.heal()?;
    nine.cut(0, Way::In)?;
    ensure!(nine.passes(0, 1) && !nine.passes(1, 0));
    check(&nine)?;
    nine.mend(0)?;
    nine.part(&[0, 1])?;
    ensure!(nine.passes(0, 1) && !nine.passes(2, 1) && !nine.passes(1, 2));
    check(&nine)?;
    nine.heal()?;
    ensure!(nine.passes(2, 1));
    check(&nine)
}
