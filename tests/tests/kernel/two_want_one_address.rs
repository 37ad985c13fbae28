//! One address, two who want it.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use e2e::dhcp_client::{Client, Segment, address, udhcpc};
use e2e::{Lab, Node};

struct Scene {
    creator: Node,
    creator_ip: Ipv4Addr,
    wanting: [Node; 2],
    server: Ipv4Addr,
}

fn scene(lab: &mut Lab) -> anyhow::Result<Scene> {
    let mut creator = lab.public("a")?;
    let creator_ip = creator.create_lab(&["--hostname", "a"])?.ip()?;
    let mut wanting = [lab.public("b")?, lab.public("c")?];
    for (node, name) in wanting.iter_mut().zip(["b", "c"]) {
        node.join_lab(&creator, &["--no-address", "--hostname", name])?;
    }
    let server = creator.status()?["dns"].as_str().context("no dns in the status")?.parse()?;
    Ok(Scene { creator, creator_ip, wanting, server })
}

impl Scene {
    fn segment(&self, node: usize) -> Segment<'_> {
        let (other, server) = (self.creator_ip, self.server);
        Segment { node: &self.wanting[node], device: "ov-lab", server, other, search: "lab.internal", mtu: 1400 }
    }

    /// An address that nobody has.
    fn wanted(&self) -> Ipv4Addr {
        let base = u32::from(self.server);
        let free = [base + 0x1234, base + 0x1235].map(Ipv4Addr::from);
        if free[0] == self.creator_ip { free[1] } else { free[0] }
    }
}

#[test]
fn of_two_that_ask_for_one_address_at_once_one_gets_it() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("race")? else { return Ok(()) };
    let scene = scene(&mut lab)?;
    let wanted = scene.wanted();
    let text = wanted.to_string();
    let segments = [scene.segment(0), scene.segment(1)];
    let clients = [udhcpc(&segments[0], &["-r", &text])?, udhcpc(&segments[1], &["-r", &text])?];
    let got = [address(&segments[0], &clients[0])?, address(&segments[1], &clients[1])?];
    assert_eq!(got.iter().filter(|ip| **ip == wanted).count(), 1, "{wanted} was given to {got:?}");
    let winner = usize::from(got[1] == wanted);
    let peer = scene.wanting[winner].whole_status()?["peer_id"].as_str().context("no peer id")?.to_owned();
    let owner = scene.creator.overlay_ok(&["lookup", &text])?;
    assert!(owner.contains(&peer), "{owner}");
    segments[0].node.ping_once(&got[1].to_string())?;
    segments[1].node.ping_once(&got[0].to_string())
}

#[test]
fn who_comes_back_with_an_address_of_somebody_else_is_refused_and_gets_another() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("nak")? else { return Ok(()) };
    let scene = scene(&mut lab)?;
    let wanted = scene.wanted();
    let holder = scene.segment(0);
    let holding = udhcpc(&holder, &["-r", &wanted.to_string()])?;
    assert_eq!(address(&holder, &holding)?, wanted);

    let late = scene.segment(1);
    let lease = format!(
        "lease {{\n  interface \"ov-lab\";\n  fixed-address {wanted};\n  option subnet-mask 255.255.0.0;\n  \
         option dhcp-lease-time 86400;\n  option dhcp-message-type 5;\n  option dhcp-server-identifier {};\n  \
         renew 2 2035/01/02 00:00:00;\n  rebind 2 2035/01/02 00:00:00;\n  expire 2 2035/01/02 00:00:00;\n}}\n",
        scene.server
    );
    fs::write(late.node.dir().join("dhclient.leases"), lease)?;
    let mut client = Client::Dhclient.start(&late)?;
    client.wait_for_line(Duration::from_secs(30), |line| line.contains("DHCPNAK"))?;
    let got = address(&late, &client)?;
    assert_ne!(got, wanted);
    late.node.ping_once(&wanted.to_string())
}
