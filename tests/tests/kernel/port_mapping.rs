//! A member behind a router that maps ports, and one behind a router that draws its ports: what neither could reach otherwise.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Edge, Node, Router, peer, say, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// The three ports of a member, as the router maps them.
fn wait_mapped(router: &Router, mapped: usize) -> anyhow::Result<Vec<String>> {
    wait::until_ok(&format!("{mapped} mappings"), LIMIT, || {
        let rules = router.mapped_ports()?;
        ensure!(rules.len() == mapped, "{rules:?}");
        Ok(rules)
    })
}

/// What the status says of the ports: all that are mapped are mapped by this.
fn wait_status(node: &Node, protocol: &str) -> anyhow::Result<()> {
    wait::until_ok(&format!("a status with {protocol}"), LIMIT, || {
        let status = node.whole_status()?;
        let ports = status["port_mapping"]["ports"].as_array().cloned().context("no ports")?;
        let public = ports.iter().filter(|port| port["protocol"] == protocol && port["reach"] == "public");
        ensure!(ports.len() == 3 && public.count() == 3, "{:#}", status["port_mapping"]);
        Ok(())
    })
}

fn maps(name: &str, protocols: &str, protocol: &str) -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab(name)? else { return Ok(()) };
    let mut open = lab.public("o")?;
    let (mut home, mut random) = (lab.router(Edge::Home)?, lab.router(Edge::SymmetricRandom)?);
    let (mut a, mut b) = (lab.behind(&mut home, "a")?, lab.behind(&mut random, "b")?);
    let _miniupnpd = home.map_ports(&lab, protocols)?;
    open.create_lab(&["--hostname", "o"])?;
    // First without: from behind such routers there is only the way over the third member.
    a.join_lab(&open, &["--hostname", "a", "--port-mapping", "off"])?;
    let b_ip = b.join_lab(&open, &["--hostname", "b"])?.ip()?.to_string();
    wait::until_ok("a to reach b", LIMIT, || a.ping_once(&b_ip))?;
    wait::pause(Duration::from_secs(3));
    a.run(&["ping", "-c", "1", "-W", "5", &b_ip])?;
    ensure!(peer(&a, "b")?["path"] == "relay", "direct without a mapping");
    ensure!(home.mapped_ports()?.is_empty(), "{:?}", home.mapped_ports()?);
    a.interrupt()?.ok()?;

    a.start_ready(&["join", "lab", "--dns", "file", "--port-mapping", "on"])?;
    wait_mapped(&home, 3)?;
    wait_status(&a, protocol)?;
    let began = wait::now();
    wait::until_ok("a direct way", LIMIT, || {
        a.run(&["ping", "-c", "1", "-W", "1", &b_ip])?;
        let to_b = peer(&a, "b")?;
        ensure!(to_b["path"] == "direct", "{to_b}");
        Ok(())
    })?;
    say(&format!("{name}: direct after {:.1} s", began.elapsed().as_secs_f64()));
    ensure!(a.overlay_ok(&["doctor"])?.contains("port mapping: the router"), "doctor says nothing");

    // A process that was killed leaves them, and the next one has no more than its own.
    a.kill();
    ensure!(home.mapped_ports()?.len() == 3, "{:?}", home.mapped_ports()?);
    a.start_ready(&["join", "lab", "--dns", "file", "--port", "42000"])?;
    wait_status(&a, protocol)?;
    let own = wait_mapped(&home, 3)?;
    ensure!(own.iter().any(|rule| rule.ends_with(":42000")), "{own:?}");

    a.interrupt()?.ok()?;
    ensure!(home.mapped_ports()?.is_empty(), "left after an orderly end: {:?}", home.mapped_ports()?);
    ensure!(!a.state().join("port-mappings.json").exists(), "the record is left");
    Ok(())
}

#[test]
fn by_pcp() -> anyhow::Result<()> {
    maps("pcp", "enable_natpmp=yes\nenable_upnp=no\n", "pcp")
}

#[test]
fn by_upnp() -> anyhow::Result<()> {
    maps("upnp", "enable_natpmp=no\nenable_upnp=yes\n", "upnp")
}
