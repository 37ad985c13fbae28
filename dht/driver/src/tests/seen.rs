//! A LAN on which some peers are seen at once, each address treated as mDNS treats what it finds.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, mdns};

pub(crate) struct Seen {
    inner: Toggle<mdns::tokio::Behaviour>,
    seen: Vec<(PeerId, Multiaddr)>,
    told: VecDeque<ToSwarm<mdns::Event, std::convert::Infallible>>,
}

impl Seen {
    pub(crate) fn new(inner: Toggle<mdns::tokio::Behaviour>, seen: &[(PeerId, Multiaddr)]) -> Self {
        let mut told = VecDeque::new();
        if !seen.is_empty() {
            told.push_back(ToSwarm::GenerateEvent(mdns::Event::Discovered(seen.to_vec())));
        }
        let addresses = seen.iter().cloned();
        told.extend(addresses.map(|(peer_id, address)| ToSwarm::NewExternalAddrOfPeer { peer_id, address }));
        Self { inner, seen: seen.to_vec(), told }
    }
}

impl NetworkBehaviour for Seen {
    type ConnectionHandler = THandler<Toggle<mdns::tokio::Behaviour>>;
    type ToSwarm = mdns::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)?;
        known.extend(self.seen.iter().filter(|(seen, _)| Some(*seen) == peer).map(|(_, address)| address.clone()));
        Ok(known)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(told) = self.told.pop_front() {
            return Poll::Ready(told.map_in(|never| match never {}));
        }
        self.inner.poll(cx)
    }
}
