//! Bridges of the kernel and their ports, over netlink.

use std::net::IpAddr;

use anyhow::{Context, anyhow};
use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkUnspec, RouteMessageBuilder};

use super::link::{LOCAL_TABLE, Links};

/// A network interface as somebody sees it who wants to put it into a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) is_bridge: bool,
    pub(crate) is_loopback: bool,
    pub(crate) is_up: bool,
    /// The bridge, bond or the like of which it is a part.
    pub(crate) controller: Option<u32>,
}

impl Links {
    /// All network interfaces.
    pub(crate) async fn ports(&self) -> anyhow::Result<Vec<Port>> {
        let _turn = self.1.lock().await;
        let mut found = Vec::new();
        let mut messages = self.0.link().get().execute();
        while let Some(message) = messages.try_next().await? {
            found.push(port(&message));
        }
        Ok(found)
    }

    /// Makes a bridge, and takes it up.
    pub(crate) async fn make_bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> anyhow::Result<Port> {
        let message = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).up().build();
        self.0.link().add(message).execute().await.with_context(|| format!("cannot make the bridge {name}"))?;
        let made = self.ports().await?.into_iter().find(|port| port.name == name);
        made.ok_or_else(|| anyhow!("the bridge {name} was gone at once"))
    }

    /// Makes an interface a port of a bridge, or frees it with 0.
    pub(crate) async fn set_controller(&self, index: u32, bridge: u32) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        self.0.link().set(message).execute().await.context("the kernel refuses to make it a port of the bridge")
    }

    /// Makes a TAP device a port that gets what is meant for `virtual_mac`, and broadcasts, and nothing else: neither
    /// multicasts nor what the bridge floods because it does not know where its destination is.
    pub(crate) async fn make_quiet_port(&self, index: u32, virtual_mac: [u8; 6]) -> anyhow::Result<()> {
        // `static` of bridge(8): neither aged, nor moved by a frame that comes in elsewhere. Permanent means the bridge itself.
        let entry = self.0.neighbours().add_bridge(index, &virtual_mac).state(NeighbourState::Noarp);
        entry.flags(NeighbourFlags::Controller).replace().execute().await.context("cannot enter the virtual MAC")?;
        let message = LinkBridgePort::new(index).flood(false).mcast_flood(false).learning(false).build();
        self.0.link().set_port(message).execute().await.context("cannot set the port's flags")
    }

    /// Removes an interface.
    pub(crate) async fn remove(&self, index: u32) -> anyhow::Result<()> {
        Ok(self.0.link().del(index).execute().await?)
    }

    /// The addresses of an interface that mean something beyond it.
    pub(crate) async fn addresses_on(&self, index: u32) -> anyhow::Result<Vec<AddressMessage>> {
        let _turn = self.1.lock().await;
        let mut found = Vec::new();
        let mut messages = self.0.address().get().set_link_index_filter(index).execute();
        while let Some(message) = messages.try_next().await? {
            // Every interface makes its own IPv6 address of this scope.
            let own = matches!(ip_of(&message), Some(IpAddr::V6(_))) && message.header.scope == AddressScope::Link;
            if message.header.index == index && !own {
                found.push(message);
            }
        }
        Ok(found)
    }

    /// The routes over an interface that its addresses do not bring with them.
    pub(crate) async fn routes_over(&self, index: u32) -> anyhow::Result<Vec<RouteMessage>> {
        let _turn = self.1.lock().await;
        let mut found = Vec::new();
        let filters = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        for filter in filters {
            let mut messages = self.0.route().get(filter).execute();
            while let Some(message) = messages.try_next().await? {
                let leads = message.attributes.contains(&RouteAttribute::Oif(index));
                let own = message.header.protocol == RouteProtocol::Kernel || message.header.table == LOCAL_TABLE;
                if leads && !own {
                    found.push(message);
                }
            }
        }
        Ok(found)
    }

    /// Gives an interface an address that another one had.
    pub(crate) async fn put_address(&self, index: u32, address: &AddressMessage) -> anyhow::Result<()> {
        let ip = ip_of(address).ok_or_else(|| anyhow!("an address without its number"))?;
        let mut request = self.0.address().add(index, ip, address.header.prefix_len).replace();
        *request.message_mut() = address.clone();
        let message = request.message_mut();
        message.header.index = index;
        // A label begins with the name of its interface.
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Label(_)));
        request.execute().await.with_context(|| format!("cannot move the address {ip}"))
    }

    /// Takes from an interface an address like this one.
    pub(crate) async fn take_address(&self, index: u32, address: &AddressMessage) -> anyhow::Result<()> {
        let mut message = address.clone();
        message.header.index = index;
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Label(_)));
        Ok(self.0.address().del(message).execute().await?)
    }

    /// Adds a route that led over another interface.
    pub(crate) async fn put_route(&self, index: u32, route: &RouteMessage) -> anyhow::Result<()> {
        let mut message = route.clone();
        for attribute in &mut message.attributes {
            if let RouteAttribute::Oif(over) = attribute {
                *over = index;
            }
        }
        // What the kernel tells of a route, and does not take.
        message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
        self.0.route().add(message).replace().execute().await.context("cannot move a route")
    }
}

/// The address in a message.
pub(crate) fn ip_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| {
        let AddressAttribute::Local(ip) = attribute else { return None };
        Some(*ip)
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| {
            let AddressAttribute::Address(ip) = attribute else { return None };
            Some(*ip)
        })
    })
}

fn port(message: &LinkMessage) -> Port {
    let flag = |flag| message.header.flags.contains(flag);
    let mut port = Port {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        is_bridge: false,
        is_loopback: flag(LinkFlags::Loopback),
        is_up: flag(LinkFlags::Up),
        controller: None,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            port.name.clone_from(name);
        }
        if let LinkAttribute::Address(mac) = attribute {
            port.mac = mac.as_slice().try_into().unwrap_or_default();
        }
        if let LinkAttribute::Mtu(mtu) = attribute {
            port.mtu = *mtu;
        }
        if let LinkAttribute::Controller(controller) = attribute {
            port.controller = Some(*controller).filter(|controller| *controller > 0);
        }
        if let LinkAttribute::LinkInfo(infos) = attribute {
            port.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
        }
    }
    port
}
