//! Once a namespace has a view of three, it needs its creator no longer.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::dhcp_client::{Segment, address, udhcpc};
use e2e::{Nine, view_members, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(300);

/// Three members, a fourth that waits for a guest to ask for an address, and a fifth machine with an unused token.
struct Scene {
    nine: Nine,
    token: String,
}

const GUESTS: usize = 3;
const LATE: usize = 4;

impl Scene {
    /// Ready when no shard is the creator's alone.
    fn new(name: &str) -> anyhow::Result<Option<Self>> {
        let Some(mut nine) = Nine::new(name, 5)? else { return Ok(None) };
        let options = ["--dns", "off", "--port", "4500"];
        nine.nodes[0].start_ready(&[&["create", "lab", "--lease", "30s"], &options[..]].concat())?;
        for node in 1..=GUESTS {
            let token = nine.nodes[0].invite("lab", &[])?;
            let no_address = if node == GUESTS { &["--no-address"][..] } else { &[] };
            nine.nodes[node].start_ready(&[&["join", "lab", "--invite", &token], &options[..], no_address].concat())?;
        }
        let token = nine.nodes[0].invite("lab", &[])?;
        nine.wait_view(1, 3, LIMIT)?;
        nine.wait_replicas(3, LIMIT)?;
        Ok(Some(Self { nine, token }))
    }

    /// All that the register does: a new address, a new member, renewals, and every address has one owner.
    fn goes_on(&mut self, before: &[Option<Ipv4Addr>]) -> anyhow::Result<()> {
        self.grants_to_a_guest()?;
        self.admits()?;
        // A whole lease later, what was held before is still held: it was renewed.
        wait::pause(Duration::from_secs(31));
        for (node, had) in before.iter().enumerate().take(GUESTS).skip(1) {
            let status = self.nine.nodes[node].wait_status("bound", |status| status["state"] == "bound")?;
            let ip: Option<Ipv4Addr> = status["ip"].as_str().and_then(|ip| ip.parse().ok());
            ensure!(ip.is_some() && ip == *had, "node {node} had {had:?}: {status:#}");
        }
        let to = before[2].context("node 2 has an address")?.to_string();
        self.nine.nodes[1].ping_once(&to)
    }

    fn grants_to_a_guest(&self) -> anyhow::Result<()> {
        let node = &self.nine.nodes[GUESTS];
        let server: Ipv4Addr = node.status()?["dns"].as_str().context("no dns in the status")?.parse()?;
        let segment = Segment { node, device: "ov-lab", server, other: server, search: "lab.internal", mtu: 1400 };
        let guest = udhcpc(&segment, &[])?;
        let ip = address(&segment, &guest)?;
        let owner = self.nine.nodes[1].overlay_ok(&["lookup", &ip.to_string()])?;
        let peer = node.whole_status()?["peer_id"].as_str().context("no peer id")?.to_owned();
        ensure!(owner.contains(&peer), "{ip} is not the guest's: {owner}");
        Ok(())
    }

    /// A token of before serves, if the joiner knows anybody who is still there.
    fn admits(&mut self) -> anyhow::Result<()> {
        let known = &self.nine.nodes[1];
        let peer = known.whole_status()?["peer_id"].as_str().context("no peer id")?.to_owned();
        let contact = format!("/ip4/{}/udp/4501/quic-v1/p2p/{peer}", known.underlay());
        let join = ["join", "lab", "--invite", &self.token, "--peer", &contact, "--dns", "off"];
        self.nine.nodes[LATE].start(&join)?;
        wait::until_ok("a new member", LIMIT, || {
            let status = self.nine.nodes[LATE].status()?;
            wait::expect(status["state"] == "bound", || format!("status is {status:#}"))
        })
    }
}

#[test]
fn a_view_of_three_goes_on_granting_when_the_creator_dies() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::new("dies")? else { return Ok(()) };
    let before = scene.nine.addresses();
    scene.nine.nodes[0].kill();
    scene.goes_on(&before)
}

#[test]
fn a_view_of_three_goes_on_granting_when_the_creator_leaves() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::new("leaves")? else { return Ok(()) };
    let before = scene.nine.addresses();
    let creator = scene.nine.nodes[0].whole_status()?["peer_id"].as_str().context("no peer id")?.to_owned();
    scene.nine.nodes[0].overlay_ok(&["leave", "lab"])?;
    scene.nine.nodes[0].kill();
    scene.goes_on(&before)?;
    // It has said goodbye, so its place is given to another one, where there is one.
    wait::until_ok("a view without the creator", LIMIT, || {
        let view = view_members(&scene.nine.nodes[1].status()?);
        wait::expect(view.len() >= 3 && !view.contains(&creator), || format!("the view is {view:?}"))
    })
}
