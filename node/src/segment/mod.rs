//! `overlay router`: a bridge whose segment the namespace serves, or a NIC around which a bridge is made.
//!
//! All that outlives the process is written down before it is done (`record.rs`) and undone at the end, or at the next start.
//! The TAP device, and with it all that belongs to its port, goes with the process.

mod record;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use record::{Nic, Record};
use serde::{Deserialize, Serialize};

use crate::io::bridge::{Port, ip_of};
use crate::io::link::Links;
use crate::report;

/// Names of interfaces have 15 characters.
const LINK_CHARS: usize = 15;

/// What `overlay router` is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouterOptions {
    /// A bridge, or a NIC.
    pub(crate) bridge: String,
    /// Whether a NIC that carries this machine's own connection may be put into a bridge.
    pub(crate) take_nic: bool,
}

/// The segment that is served.
pub(crate) struct Segment {
    links: Links,
    bridge: Port,
    /// The TAP device, and the virtual hardware address behind it.
    tap: Option<(u32, [u8; 6])>,
    /// The bridge is gone, or down, and that was told.
    lost: bool,
    record: Record,
    path: PathBuf,
}

impl Segment {
    /// Finds the bridge, or makes it around the NIC that is named.
    pub(crate) async fn prepare(links: &Links, options: &RouterOptions, state_dir: &Path) -> anyhow::Result<Self> {
        let ports = links.ports().await?;
        let named = find(&ports, &options.bridge)?;
        if named.is_bridge {
            let record = Record { bridge: named.name.clone(), nic: None, own: None };
            let path = Record::path(state_dir, &record.bridge);
            return Ok(Self::new(links, named.clone(), (record, path)));
        }
        let (addresses, routes) = (links.addresses_on(named.index).await?, links.routes_over(named.index).await?);
        if !options.take_nic && (!addresses.is_empty() || !routes.is_empty()) {
            let list: Vec<String> = addresses.iter().filter_map(ip_of).map(|ip| ip.to_string()).collect();
            let leads = routes.iter().any(|route| route.header.destination_prefix_length == 0);
            bail!("{}", refusal(&named.name, &list, leads));
        }
        let bridge = bridge_name(&ports, &named.name)?;
        let record = Record { nic: Some(Nic::new(named, &addresses, &routes)), bridge, own: None };
        let path = Record::path(state_dir, &record.bridge);
        record.save(&path)?;
        match wrap(links, named, &record).await {
            Ok(bridge) => Ok(Self::new(links, bridge, (record, path))),
            Err(error) => {
                undo(links, &record, &path).await.unwrap_or_else(|error| report::note(&format!("{error:#}")));
                Err(error).with_context(|| format!("cannot put {} into a bridge", named.name))
            }
        }
    }

    fn new(links: &Links, bridge: Port, (record, path): (Record, PathBuf)) -> Self {
        Self { links: links.clone(), bridge, tap: None, lost: false, record, path }
    }

    /// The bridge's name.
    pub(crate) fn bridge(&self) -> &str {
        &self.bridge.name
    }

    /// The bridge's index in the kernel.
    pub(crate) fn index(&self) -> u32 {
        self.bridge.index
    }

    /// The hardware address by which this machine speaks on the segment.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.bridge.mac
    }

    /// The largest packet on the segment, bytes.
    pub(crate) fn mtu(&self) -> u16 {
        u16::try_from(self.bridge.mtu).unwrap_or(u16::MAX)
    }

    /// Makes the TAP device a port of the bridge.
    pub(crate) async fn plug(&mut self, tap: u32, virtual_mac: [u8; 6]) -> anyhow::Result<()> {
        let bridge = self.bridge.name.clone();
        self.tap = Some((tap, virtual_mac));
        self.links.set_controller(tap, self.bridge.index).await.with_context(|| format!("cannot join {bridge}"))?;
        self.links.bring_up(tap, port_mac(virtual_mac), self.mtu()).await?;
        if let Err(error) = self.links.make_quiet_port(tap, virtual_mac).await {
            // It gets more frames than it needs, and drops them.
            tracing::warn!("the port of {bridge} is like any other: {error:#}");
        }
        self.bridge = find(&self.links.ports().await?, &bridge)?.clone();
        Ok(())
    }

    /// Looks whether all is still as it was made: a bridge that was made anew, or that has lost the TAP device, is joined again.
    /// Gives the bridge's hardware address, if it is another one than before: it changes with the ports of a bridge to which
    /// nobody gave one. An error is told once, until the bridge is back.
    pub(crate) async fn look(&mut self) -> anyhow::Result<Option<[u8; 6]>> {
        let ports = self.links.ports().await?;
        let bridge = match find(&ports, &self.bridge.name) {
            Ok(bridge) => bridge.clone(),
            Err(_) if self.lost => return Ok(None),
            Err(error) => {
                self.lost = true;
                return Err(error);
            }
        };
        self.lost = false;
        let before = std::mem::replace(&mut self.bridge, bridge).mac;
        let is_port =
            |tap: u32| ports.iter().any(|port| port.index == tap && port.controller == Some(self.bridge.index));
        if let Some((tap, virtual_mac)) = self.tap.filter(|(tap, _)| !is_port(*tap)) {
            self.plug(tap, virtual_mac).await?;
            if let Some((ip, prefix_len)) = self.record.own {
                self.links.add_address(self.bridge.index, ip, prefix_len).await?;
            }
        }
        Ok(Some(self.bridge.mac).filter(|mac| *mac != before))
    }

    /// Gives this machine an address on the segment.
    pub(crate) async fn add_address(&mut self, ip: Ipv4Addr, prefix_len: u8) -> anyhow::Result<()> {
        self.record.own = Some((ip, prefix_len));
        self.record.save(&self.path)?;
        self.links.add_address(self.bridge.index, ip, prefix_len).await
    }

    /// Takes it away again.
    pub(crate) async fn remove_address(&mut self, ip: Ipv4Addr) -> anyhow::Result<()> {
        self.links.remove_address(self.bridge.index, ip).await?;
        self.record.own = None;
        self.record.save(&self.path)
    }

    /// Leaves everything as it was.
    pub(crate) async fn undo(self) -> anyhow::Result<()> {
        undo(&self.links, &self.record, &self.path).await
    }
}

/// Takes back what a program on this state directory did not live to take back. Nobody else may be using it.
pub(crate) async fn clean_up_after_crash(links: &Links, state_dir: &Path) {
    for (path, record) in record::left_behind(state_dir) {
        let undone = match record {
            Ok(record) => undo(links, &record, &path).await,
            Err(error) => Err(error),
        };
        if let Err(error) = undone {
            report::note(&format!("what was left of a router's bridge is not undone: {error:#}"));
        }
    }
}

/// Moves a NIC, and all that it has, into a bridge of its own.
async fn wrap(links: &Links, nic: &Port, record: &Record) -> anyhow::Result<Port> {
    let bridge = links.make_bridge(&record.bridge, nic.mac, nic.mtu).await?;
    links.set_controller(nic.index, bridge.index).await?;
    links.set_up(nic.index, true).await?;
    let Some(before) = &record.nic else { return Ok(bridge) };
    for address in before.addresses()? {
        links.put_address(bridge.index, &address).await?;
        links.take_address(nic.index, &address).await?;
    }
    // Those that were in the way of another's gateway come first in the kernel's list, too.
    for route in before.routes()? {
        links.put_route(bridge.index, &route).await?;
    }
    Ok(bridge)
}

/// What is gone already, as after a restart of the machine, needs no undoing.
async fn undo(links: &Links, record: &Record, path: &Path) -> anyhow::Result<()> {
    let ports = links.ports().await?;
    let by_name = |name: &str| ports.iter().find(|port| port.name == name);
    if let Some(bridge) = by_name(&record.bridge) {
        match &record.nic {
            Some(nic) => unwrap(links, bridge, by_name(&nic.name), nic).await?,
            None => {
                if let Some((ip, _)) = record.own {
                    links.remove_address(bridge.index, ip).await?;
                }
            }
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn unwrap(links: &Links, bridge: &Port, port: Option<&Port>, nic: &Nic) -> anyhow::Result<()> {
    if let Some(port) = port {
        if port.controller == Some(bridge.index) {
            links.set_controller(port.index, 0).await?;
        }
        for address in nic.addresses()? {
            links.put_address(port.index, &address).await?;
        }
    }
    links.remove(bridge.index).await?;
    if let Some(port) = port {
        for route in nic.routes()? {
            links.put_route(port.index, &route).await?;
        }
        if !nic.up {
            links.set_up(port.index, false).await?;
        }
    }
    Ok(())
}

/// The interface of this name, if it can be used at all.
fn find<'p>(ports: &'p [Port], name: &str) -> anyhow::Result<&'p Port> {
    let Some(found) = ports.iter().find(|port| port.name == name) else {
        let all = ports.iter().filter(|port| !port.is_loopback && port.controller.is_none());
        let names: Vec<&str> = all.map(|port| port.name.as_str()).collect();
        bail!(
            "there is no interface {name}; name one of {}, or make a bridge: ip link add {name} type bridge",
            names.join(", ")
        );
    };
    if found.is_loopback {
        bail!("{name} is the loopback interface, which no other machine is on; name a bridge or a NIC");
    }
    if let Some(controller) = found.controller {
        let other = ports.iter().find(|port| port.index == controller).map_or("another interface", |port| &port.name);
        bail!("{name} is a part of {other} already; name that with --bridge {other}");
    }
    if found.is_bridge && !found.is_up {
        bail!("the bridge {name} is down; take it up with: ip link set {name} up");
    }
    Ok(found)
}

fn refusal(nic: &str, addresses: &[String], leads_out: bool) -> String {
    let mut carries = addresses.join(", ");
    if leads_out {
        carries =
            if carries.is_empty() { "the default route".into() } else { format!("{carries} and the default route") };
    }
    if carries.is_empty() {
        carries = "routes".into();
    }
    format!(
        "{nic} carries this machine's own connection ({carries}), which a bridge around it would cut off; \
         make a bridge around {nic} in the settings of this machine's network and name that, or add --take-nic: \
         then a bridge is made, and takes all of it over for as long as overlay runs"
    )
}

fn bridge_name(ports: &[Port], nic: &str) -> anyhow::Result<String> {
    let name: String = format!("br-{nic}").chars().take(LINK_CHARS).collect();
    if ports.iter().any(|port| port.name == name) {
        bail!(
            "there is an interface {name} already, so no bridge of that name can be made around {nic}; remove or rename it"
        );
    }
    Ok(name)
}

/// A bridge without an address of its own takes the lowest of its ports'. It is not to take this one, which goes with the
/// process.
fn port_mac(virtual_mac: [u8; 6]) -> [u8; 6] {
    let [_, rest @ ..] = virtual_mac;
    let mut mac = [0xfe; 6];
    mac[1..].copy_from_slice(&rest);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(index: u32, name: &str) -> Port {
        Port {
            index,
            name: name.into(),
            mac: [2; 6],
            mtu: 1500,
            is_bridge: name.starts_with("br"),
            is_loopback: name == "lo",
            is_up: true,
            controller: None,
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_next_step() {
        let mut ports = vec![port(1, "lo"), port(2, "eth0"), port(3, "br0"), port(4, "br1"), port(5, "eth1")];
        ports[3].is_up = false;
        ports[4].controller = Some(3);
        for (name, says) in [
            ("br9", "name one of eth0, br0, br1"),
            ("lo", "name a bridge or a NIC"),
            ("br1", "ip link set br1 up"),
            ("eth1", "--bridge br0"),
        ] {
            let error = find(&ports, name).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(find(&ports, "eth0").unwrap().index, 2);
        assert_eq!(find(&ports, "br0").unwrap().index, 3);
    }

    #[test]
    fn a_nic_in_use_is_named_with_what_it_carries() {
        let text = refusal("eth0", &["192.0.2.9".into()], true);
        assert!(text.contains("(192.0.2.9 and the default route)") && text.contains("--take-nic"), "{text}");
        assert!(refusal("eth0", &[], true).contains("(the default route)"));
    }

    #[test]
    fn a_bridge_is_named_after_its_nic_and_takes_nobodys_place() {
        let ports = [port(1, "br-eth1")];
        assert_eq!(bridge_name(&ports, "enp0s31f6-vlan").unwrap(), "br-enp0s31f6-vl");
        assert!(bridge_name(&ports, "eth1").is_err());
        assert_eq!(port_mac([2, 1, 2, 3, 4, 5])[0], 0xfe);
    }
}
