//! Keeps a protocol shut on every connection until the peer at its other end is admitted.
//!
//! The wrapped behaviour does not know. While a connection's door is shut
//!
//! - a stream that the peer opens for one of its protocols is answered `na`, as if they did not exist: the swarm asks
//!   [`listen_protocol`](ConnectionHandler::listen_protocol) anew for every inbound stream, so opening the door later
//!   needs no new connection;
//! - a stream that it wants to open itself waits, until the door opens or the connection ends.
//!
//! The two directions open apart: the listener lets its peer in before it answers the peer's hello, and sends nothing
//! before the peer has said that it, too, has opened.

use std::collections::VecDeque;
use std::iter::Flatten;
use std::option;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, FullyNegotiatedInbound, InboundUpgradeSend, ListenUpgradeError, UpgradeInfoSend,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use crate::address::AddressFilter;

/// How many streams a handler may want to open before its door opens; then it is not asked for more.
const MOST_WAITING: usize = 16;

/// Which directions of one connection are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Door {
    /// The peer may open streams.
    pub(crate) inbound: bool,
    /// This node may open streams.
    pub(crate) outbound: bool,
}

/// A behaviour behind doors.
pub(crate) struct Gate<B> {
    inner: B,
    filter: Arc<AddressFilter>,
    told: VecDeque<(PeerId, ConnectionId, Door)>,
}

impl<B> Gate<B> {
    pub(crate) fn new(inner: B, filter: Arc<AddressFilter>) -> Self {
        Self { inner, filter, told: VecDeque::new() }
    }

    pub(crate) fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Sets one connection's door. All doors are shut at first.
    pub(crate) fn set(&mut self, peer: PeerId, connection: ConnectionId, door: Door) {
        self.told.push_back((peer, connection, door));
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = GateHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote).map(GateHandler::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)?;
        known.retain(|address| self.filter.is_dialable(address));
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
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port).map(GateHandler::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, door)) = self.told.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event: GateIn::Door(door),
            });
        }
        self.inner.poll(cx).map(|wanted| wanted.map_in(GateIn::Inner))
    }
}

/// What a gate tells the handler of one connection.
#[derive(Debug)]
pub(crate) enum GateIn<E> {
    Door(Door),
    Inner(E),
}

/// The handler of one connection behind its door.
pub(crate) struct GateHandler<H: ConnectionHandler> {
    inner: H,
    door: Door,
    waiting: VecDeque<SubstreamProtocol<H::OutboundProtocol, H::OutboundOpenInfo>>,
}

impl<H: ConnectionHandler> GateHandler<H> {
    fn new(inner: H) -> Self {
        Self { inner, door: Door::default(), waiting: VecDeque::new() }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for GateHandler<H> {
    type FromBehaviour = GateIn<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = GateUpgrade<H::InboundProtocol>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol().map_upgrade(|inner| GateUpgrade { inner, open: self.door.inbound })
    }

    fn connection_keep_alive(&self) -> bool {
        self.door.inbound && self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        loop {
            if self.door.outbound
                && let Some(protocol) = self.waiting.pop_front()
            {
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
            if self.waiting.len() >= MOST_WAITING {
                // The door's opening is an event for this handler, after which it is polled again.
                return Poll::Pending;
            }
            match self.inner.poll(cx) {
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }) => {
                    self.waiting.push_back(protocol);
                }
                other @ (Poll::Ready(_) | Poll::Pending) => return other,
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            GateIn::Door(door) => self.door = door,
            GateIn::Inner(event) => self.inner.on_behaviour_event(event),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(event) => ConnectionEvent::FullyNegotiatedOutbound(event),
            ConnectionEvent::AddressChange(event) => ConnectionEvent::AddressChange(event),
            ConnectionEvent::DialUpgradeError(event) => ConnectionEvent::DialUpgradeError(event),
            ConnectionEvent::LocalProtocolsChange(event) => ConnectionEvent::LocalProtocolsChange(event),
            ConnectionEvent::RemoteProtocolsChange(event) => ConnectionEvent::RemoteProtocolsChange(event),
            // The enum may grow with libp2p; what is not known cannot be rewrapped.
            _ => return,
        };
        self.inner.on_connection_event(event);
    }
}

/// A handler's upgrade that names no protocol while the door is shut.
pub(crate) struct GateUpgrade<U> {
    inner: U,
    open: bool,
}

impl<U: UpgradeInfoSend> UpgradeInfo for GateUpgrade<U> {
    type Info = U::Info;
    type InfoIter = Flatten<option::IntoIter<U::InfoIter>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.open.then(|| self.inner.protocol_info()).into_iter().flatten()
    }
}

impl<U: InboundUpgradeSend> InboundUpgrade<Stream> for GateUpgrade<U> {
    type Output = U::Output;
    type Error = U::Error;
    type Future = U::Future;

    fn upgrade_inbound(self, stream: Stream, info: U::Info) -> Self::Future {
        self.inner.upgrade_inbound(stream, info)
    }
}
