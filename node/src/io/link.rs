//! Links, addresses and routes of the kernel, over netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::Mutex;

/// What we know of one network interface.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) loopback: bool,
    /// Up, and with a carrier.
    pub(crate) running: bool,
    /// Whether a default route leads over it.
    pub(crate) leads_out: bool,
}

/// A connection to the kernel's routing tables, and the turn to list something on it: a second list at the same
/// time on one socket is refused as busy (netlink(7), `netlink_dump_start` in the kernel).
#[derive(Clone)]
pub(crate) struct Links(pub(super) Handle, pub(super) Arc<Mutex<()>>);

impl Links {
    /// Opens netlink; its task runs on the current tokio runtime.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
        tokio::spawn(connection);
        Ok(Self(handle, Arc::default()))
    }

    /// The interface of this name.
    pub(crate) async fn by_name(&self, name: &str) -> anyhow::Result<Interface> {
        let _turn = self.1.lock().await;
        let all = self.interfaces().await?;
        all.into_iter().find(|link| link.name == name).ok_or_else(|| anyhow!("no interface {name}"))
    }

    /// Sets hardware address and MTU and takes the interface up.
    pub(crate) async fn bring_up(&self, index: u32, mac: [u8; 6], mtu: u16) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).mtu(u32::from(mtu)).up().build();
        self.0.link().set(message).execute().await.context("cannot take the TAP device up")
    }

    /// Takes the interface up or down as it is.
    pub(crate) async fn set_up(&self, index: u32, up: bool) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(index);
        let message = if up { message.up() } else { message.down() }.build();
        let what = if up { "up" } else { "down" };
        self.0.link().set(message).execute().await.with_context(|| format!("cannot take the interface {what}"))
    }

    /// Gives the interface an address; the kernel adds the route of its prefix.
    pub(crate) async fn add_address(&self, index: u32, ip: Ipv4Addr, prefix_len: u8) -> anyhow::Result<()> {
        let request = self.0.address().add(index, IpAddr::V4(ip), prefix_len).replace();
        request.execute().await.with_context(|| format!("cannot give this machine the address {ip}/{prefix_len}"))
    }

    /// Takes an address away; one that is already gone is no error.
    pub(crate) async fn remove_address(&self, index: u32, ip: Ipv4Addr) -> anyhow::Result<()> {
        let _turn = self.1.lock().await;
        let mut addresses = self.0.address().get().set_link_index_filter(index).execute();
        while let Some(message) = addresses.try_next().await? {
            if addresses_of(&message).any(|address| address == IpAddr::V4(ip)) {
                return Ok(self.0.address().del(message).execute().await?);
            }
        }
        Ok(())
    }

    /// Every address of every interface that runs.
    pub(crate) async fn addresses(&self) -> anyhow::Result<Vec<(Interface, IpAddr)>> {
        let _turn = self.1.lock().await;
        let links = self.interfaces().await?;
        let mut found = Vec::new();
        let mut messages = self.0.address().get().execute();
        while let Some(message) = messages.try_next().await? {
            let Some(link) = links.iter().find(|link| link.index == message.header.index && link.running) else {
                continue;
            };
            found.extend(addresses_of(&message).map(|ip| (link.clone(), ip)));
        }
        Ok(found)
    }

    /// IPv4 routes other than the default route, each with the name of its interface.
    pub(crate) async fn routes(&self) -> anyhow::Result<Vec<(Ipv4Net, String)>> {
        let _turn = self.1.lock().await;
        let links = self.interfaces().await?;
        let mut found = Vec::new();
        let filter = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut messages = self.0.route().get(filter).execute();
        while let Some(message) = messages.try_next().await? {
            let Some((net, index)) = destination(&message) else { continue };
            let name = links.iter().find(|link| link.index == index).map_or_else(String::new, |link| link.name.clone());
            found.push((net, name));
        }
        Ok(found)
    }

    /// The IPv4 gateway that the default route with the lowest metric names, and this machine's address in its network.
    pub(crate) async fn gateway(&self) -> anyhow::Result<Option<(Ipv4Addr, Ipv4Net)>> {
        let _turn = self.1.lock().await;
        let mut best: Option<(u32, u32, Ipv4Addr)> = None;
        let mut messages = self.0.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        while let Some(message) = messages.try_next().await? {
            let Some(found) = default_gateway(&message) else { continue };
            if best.is_none_or(|best| found.0 < best.0) {
                best = Some(found);
            }
        }
        let Some((_, index, gateway)) = best else { return Ok(None) };
        let mut addresses = self.0.address().get().set_link_index_filter(index).execute();
        let mut local = None;
        while let Some(message) = addresses.try_next().await? {
            for ip in addresses_of(&message) {
                let IpAddr::V4(ip) = ip else { continue };
                let net = Ipv4Net::new(ip, message.header.prefix_len)?;
                local = local.or(Some(net).filter(|net| net.contains(&gateway)));
            }
        }
        Ok(local.map(|local| (gateway, local)))
    }

    /// The interfaces over which default routes lead.
    async fn ways_out(&self) -> anyhow::Result<Vec<u32>> {
        let mut found = Vec::new();
        let filters = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for filter in filters {
            let mut messages = self.0.route().get(filter).execute();
            while let Some(message) = messages.try_next().await? {
                if message.header.destination_prefix_length == 0 && message.header.table != LOCAL_TABLE {
                    found.extend(outgoing(&message));
                }
            }
        }
        Ok(found)
    }

    async fn interfaces(&self) -> anyhow::Result<Vec<Interface>> {
        let out = self.ways_out().await?;
        let mut found = Vec::new();
        let mut messages = self.0.link().get().execute();
        while let Some(message) = messages.try_next().await? {
            let mut link = Interface {
                index: message.header.index,
                name: String::new(),
                mtu: 0,
                loopback: message.header.flags.contains(LinkFlags::Loopback),
                running: message.header.flags.contains(LinkFlags::Up | LinkFlags::Running),
                leads_out: out.contains(&message.header.index),
            };
            for attribute in &message.attributes {
                if let LinkAttribute::IfName(name) = attribute {
                    link.name.clone_from(name);
                }
                if let LinkAttribute::Mtu(mtu) = attribute {
                    link.mtu = *mtu;
                }
            }
            found.push(link);
        }
        Ok(found)
    }
}

fn addresses_of(message: &AddressMessage) -> impl Iterator<Item = IpAddr> + '_ {
    message.attributes.iter().filter_map(|attribute| {
        let AddressAttribute::Address(ip) = attribute else { return None };
        Some(*ip)
    })
}

/// Where the kernel keeps its own local and broadcast entries (rtnetlink(7), `RT_TABLE_LOCAL`).
pub(super) const LOCAL_TABLE: u8 = 255;

fn outgoing(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Oif(index) = attribute else { return None };
        Some(*index)
    })
}

/// Metric, interface and gateway of a default route.
fn default_gateway(message: &RouteMessage) -> Option<(u32, u32, Ipv4Addr)> {
    if message.header.destination_prefix_length != 0 || message.header.table == LOCAL_TABLE {
        return None;
    }
    let gateway = message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Gateway(RouteAddress::Inet(ip)) = attribute else { return None };
        Some(*ip)
    });
    let metric = message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Priority(metric) = attribute else { return None };
        Some(*metric)
    });
    Some((metric.unwrap_or_default(), outgoing(message)?, gateway?))
}

fn destination(message: &RouteMessage) -> Option<(Ipv4Net, u32)> {
    if message.header.table == LOCAL_TABLE || message.header.destination_prefix_length == 0 {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute else { return None };
        Some(*ip)
    });
    let net = Ipv4Net::new(address?, message.header.destination_prefix_length).ok()?;
    Some((net, outgoing(message)?))
}
