//! The laboratory is judged first: DHCP clients against dnsmasq, and routers against what their kind promises.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::dhcp_client::{Client, Segment, whole_life};
use e2e::{Edge, Lab, Node, Process};

fn dnsmasq(lab: &Lab, lease_s: u32) -> anyhow::Result<Process> {
    let leases = lab.dir().join("leases");
    let options = [
        "dnsmasq".to_owned(),
        "--keep-in-foreground".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--log-facility=-".to_owned(),
        "--log-dhcp".to_owned(),
        "--port=0".to_owned(),
        "--interface=br0".to_owned(),
        "--bind-interfaces".to_owned(),
        format!("--dhcp-leasefile={}", leases.display()),
        format!("--pid-file={}", lab.dir().join("dnsmasq.pid").display()),
        format!("--dhcp-range=203.0.113.200,203.0.113.210,{lease_s}"),
        "--dhcp-option=3".to_owned(),
        "--dhcp-option=26,1400".to_owned(),
        "--dhcp-option=119,lab.internal".to_owned(),
    ];
    let mut process = lab.spawn(&options.iter().map(String::as_str).collect::<Vec<_>>())?;
    process.wait_for_line(Duration::from_secs(10), |line| line.contains("started"))?;
    Ok(process)
}

fn life_with_dnsmasq(client: Client) -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("dnsmasq")? else { return Ok(()) };
    let node: Node = lab.public("a")?;
    // A second link, as the TAP will be: dnsmasq hands out dnsmasq's whole minimum of two minutes, networkd too slow.
    node.run(&["ip", "link", "add", "name", "ov-lab", "link", "eth0", "type", "macvlan", "mode", "bridge"])?;
    node.run(&["ip", "link", "set", "ov-lab", "up"])?;
    let _server = dnsmasq(&lab, 120)?;
    let leases = lab.dir().join("leases");
    let server = Ipv4Addr::new(203, 0, 113, 1);
    let segment = Segment { node: &node, device: "ov-lab", server, other: server, search: "lab.internal", mtu: 1400 };
    let held = |ip: Ipv4Addr| Ok(fs::read_to_string(&leases)?.split_whitespace().any(|word| word == ip.to_string()));
    whole_life(client, &segment, held)
}

#[test]
fn dhclient_lives_with_dnsmasq() -> anyhow::Result<()> {
    life_with_dnsmasq(Client::Dhclient)
}

#[test]
fn dhcpcd_lives_with_dnsmasq() -> anyhow::Result<()> {
    life_with_dnsmasq(Client::Dhcpcd)
}

#[test]
fn udhcpc_lives_with_dnsmasq() -> anyhow::Result<()> {
    life_with_dnsmasq(Client::Udhcpc)
}

#[test]
fn those_behind_a_router_reach_the_internet_and_are_not_reached() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("nat")? else { return Ok(()) };
    for nat in [Edge::Home, Edge::SymmetricRandom] {
        let outside = lab.public(&format!("{nat:?}-out").to_lowercase())?;
        let mut router = lab.router(nat)?;
        let inside = lab.behind(&mut router, &format!("{nat:?}-in").to_lowercase())?;
        inside.ping_once(outside.underlay())?;
        assert!(outside.try_run(&["ping", "-c", "1", "-W", "1", inside.underlay()])?.code != Some(0));
    }
    Ok(())
}
