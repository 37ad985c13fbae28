//! Port mappings for the whole daemon: which ports are wanted, where the default route leads, and what has become of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dht::NamespaceId;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use portmap::{Handle, Mapping, Network, Owner, Port, Reach, Status, Transport};
use tokio::sync::watch;

use crate::io::clock::{SystemClock, monotonic};
use crate::io::link::Links;
use crate::state::random;

/// Networks come and go; this often we look. Without anything to map nobody looks.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Of this directory's, so that a killed process leaves word of what it asked for.
const RECORD: &str = "port-mappings.json";

/// The daemon's mappings.
pub(crate) struct Mappings {
    data_port: u16,
    handle: Handle,
    /// libp2p's port of each namespace that wants to be reached.
    wanted: Mutex<BTreeMap<NamespaceId, u16>>,
}

impl Mappings {
    /// Starts on the current runtime.
    pub(crate) fn start(
        state: &Path,
        data_port: u16,
        links: Links,
        mut changes: watch::Receiver<u64>,
        clock: Arc<SystemClock>,
    ) -> anyhow::Result<Arc<Self>> {
        let seed = random()?;
        let word = |at: usize| u32::from_be_bytes([seed[at], seed[at + 1], seed[at + 2], seed[at + 3]]);
        let handle = portmap::start(state.join(RECORD), Owner([word(0), word(4), word(8)]), monotonic);
        let mappings = Arc::new(Self { data_port, handle, wanted: Mutex::default() });
        let watched = Arc::downgrade(&mappings);
        tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK_EVERY);
            let mut jumps = clock.now().jumps;
            loop {
                tokio::select! {
                    _ = look.tick() => {}
                    Ok(()) = changes.changed() => {}
                }
                let Some(mappings) = watched.upgrade() else { return };
                match links.gateway().await {
                    Ok(found) => {
                        mappings.handle.set_network(found.map(|(gateway, local)| Network { gateway, local }));
                    }
                    Err(error) => tracing::debug!(%error, "looking for the gateway"),
                }
                let now = clock.now().jumps;
                if std::mem::replace(&mut jumps, now) != now {
                    mappings.handle.doubt();
                }
            }
        });
        Ok(mappings)
    }

    /// A namespace wants to be reached as long as the result lives.
    pub(crate) fn want(self: &Arc<Self>, id: NamespaceId, overlay_port: u16) -> Wanted {
        self.change(|wanted| {
            wanted.insert(id, overlay_port);
        });
        Wanted(Arc::clone(self), id)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<NamespaceId, u16>)) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut wanted);
        let overlay = wanted
            .values()
            .flat_map(|port| [Transport::Udp, Transport::Tcp].map(|transport| Port { transport, port: *port }));
        let mut ports: BTreeSet<Port> = overlay.collect();
        if !ports.is_empty() {
            ports.insert(Port { transport: Transport::Udp, port: self.data_port });
        }
        self.handle.want(ports);
    }

    /// All that is mapped, and when that changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<Mapping>> {
        self.handle.mappings()
    }

    /// Where the data port is reached, also from between two translators.
    pub(crate) fn data(&self, mapped: &[Mapping]) -> Vec<SocketAddr> {
        let data = Port { transport: Transport::Udp, port: self.data_port };
        mapped.iter().filter(|mapping| mapping.port == data).map(|mapping| mapping.external.into()).collect()
    }

    /// Where libp2p's port is reached from everywhere, by which transport.
    pub(crate) fn overlay(&self, overlay_port: u16) -> Vec<(Transport, SocketAddr)> {
        public(&self.watch().borrow(), overlay_port)
    }

    /// Whether everybody reaches both.
    pub(crate) fn opens(&self, overlay_port: u16) -> bool {
        !public(&self.watch().borrow(), self.data_port).is_empty() && !self.overlay(overlay_port).is_empty()
    }

    pub(crate) fn status(&self) -> Status {
        self.handle.status()
    }

    /// Deletes all of them; waits two seconds for that at most.
    pub(crate) async fn stop(&self) {
        self.handle.stop().await;
    }
}

/// A namespace wants to be reached until this is dropped.
pub(crate) struct Wanted(Arc<Mappings>, NamespaceId);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.change(|wanted| {
            wanted.remove(&self.1);
        });
    }
}

fn public(mapped: &[Mapping], port: u16) -> Vec<(Transport, SocketAddr)> {
    let of = mapped.iter().filter(|mapping| mapping.port.port == port && mapping.reach == Reach::Public);
    of.map(|mapping| (mapping.port.transport, mapping.external.into())).collect()
}

/// The same in libp2p's words.
pub(crate) fn multiaddrs(mapped: &[Mapping], port: u16) -> Vec<Multiaddr> {
    let one = |(transport, addr): (Transport, SocketAddr)| {
        let IpAddr::V4(ip) = addr.ip() else { return Multiaddr::empty() };
        match transport {
            Transport::Udp => Multiaddr::empty().with(Part::Ip4(ip)).with(Part::Udp(addr.port())).with(Part::QuicV1),
            Transport::Tcp => Multiaddr::empty().with(Part::Ip4(ip)).with(Part::Tcp(addr.port())),
        }
    };
    public(mapped, port).into_iter().map(one).collect()
}
