//! Members that no direct way connects exchange packets over a third one, and change ways without losing any.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Edge, Node, Pair, counts, say, stream, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

const RANDOM: [Edge; 2] = [Edge::SymmetricRandom, Edge::SymmetricRandom];
const HOME: [Edge; 2] = [Edge::Home, Edge::Home];

#[test]
fn behind_routers_that_draw_their_ports_a_relay_carries() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("relayed", RANDOM, 1)? else { return Ok(()) };
    let first = pair.first_packet(LIMIT)?;
    pair.wait_path("relay", LIMIT)?;
    let replies = pair.a.overlay_ok(&["ping", "--count", "2", "b"])?;
    ensure!(replies.matches("relay").count() == 2, "{replies}");
    let rate = stream(&pair.a, &pair.b, &pair.b_ip)?;
    say(&format!(
        "two random symmetric routers: first packet after {:.2} s, {:.0} Mbit/s",
        first.as_secs_f64(),
        rate / 1e6
    ));
    // What one member may send through another one is limited, and a stream finds the limit without starving.
    ensure!(rate > 20e6 && rate < 110e6, "{rate} bit/s over a relay that lets 100 Mbit/s through");
    Ok(())
}

#[test]
fn the_change_from_a_relay_to_the_direct_way_loses_nothing() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("change", HOME, 1)? else { return Ok(()) };
    pair.part()?;
    pair.first_packet(LIMIT)?;
    pair.wait_path("relay", LIMIT)?;
    let stream = pair.a.spawn(&["ping", "-i", "0.01", "-c", "2500", "-W", "5", "-q", &pair.b_ip])?;
    wait::pause(Duration::from_secs(2));
    pair.unite()?;
    let took = pair.wait_path("direct", LIMIT)?;
    let report = stream.finish(LIMIT)?.ok()?;
    let (sent, answered) = counts(&report)?;
    say(&format!("direct {:.1} s after the way opened; {answered} of {sent} echoes answered", took.as_secs_f64()));
    ensure!(sent == 2500 && answered == sent && !report.contains("duplicates"), "{report}");
    Ok(())
}

#[test]
fn a_direct_way_that_dies_is_replaced_by_a_relay() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("dies", HOME, 1)? else { return Ok(()) };
    pair.first_packet(LIMIT)?;
    pair.wait_path("direct", LIMIT)?;
    let stream = pair.a.spawn(&["ping", "-i", "0.1", "-c", "200", "-W", "5", "-q", &pair.b_ip])?;
    wait::pause(Duration::from_secs(2));
    pair.part()?;
    let took = pair.wait_path("relay", LIMIT)?;
    let (sent, answered) = counts(&stream.finish(LIMIT)?.stdout)?;
    say(&format!(
        "relayed {:.1} s after the direct way died; {answered} of {sent} echoes answered",
        took.as_secs_f64()
    ));
    ensure!(answered + 100 > sent, "dark for more than ten seconds: {answered} of {sent}");
    Ok(())
}

#[test]
fn a_relay_that_is_killed_is_replaced_by_another_one() -> anyhow::Result<()> {
    let Some(mut pair) = Pair::new("killed", RANDOM, 3)? else { return Ok(()) };
    // A view grows when new members have been there for a while.
    wait::until_ok("three voters", LIMIT * 5, || {
        let view = e2e::view_members(&pair.a.status()?);
        wait::expect(view.len() == 3, || format!("the voters are {view:?}"))
    })?;
    pair.first_packet(LIMIT)?;
    pair.wait_path("relay", LIMIT)?;
    wait::until_ok("the doctor to know why that is so", LIMIT, || {
        let said = pair.a.overlay_ok(&["doctor"])?;
        ensure!(said.contains("this machine is behind a router that gives each destination another port"), "{said}");
        ensure!(said.contains("b is reached over") && said.contains("have the router before one of the two"), "{said}");
        Ok(())
    })?;
    let carrier = pair.way()?["endpoint"].clone();
    let id = |node: &Node| Ok::<_, anyhow::Error>(node.whole_status()?["peer_id"] == carrier);
    let ids = pair.open.iter().map(id).collect::<anyhow::Result<Vec<_>>>()?;
    let killed = ids.iter().position(|carries| *carries).with_context(|| format!("{carrier} is none of them"))?;
    let stream = pair.a.spawn(&["ping", "-i", "0.1", "-c", "250", "-W", "5", "-q", &pair.b_ip])?;
    wait::pause(Duration::from_secs(2));
    pair.open[killed].kill();
    let report = stream.finish(LIMIT)?.stdout;
    let (sent, answered) = counts(&report)?;
    say(&format!("one of three relays killed: {answered} of {sent} echoes answered"));
    ensure!(answered + 100 > sent, "dark for more than ten seconds: {report}");
    pair.wait_path("relay", LIMIT)?;
    ensure!(pair.way()?["endpoint"] != carrier, "still by way of the one that is gone");
    Ok(())
}
