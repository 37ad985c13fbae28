//! Raw streams of admitted peers, for datagrams where UDP does not pass: opened on a connection that the driver chooses, and
//! handed over as they are. Stands behind a [`Gate`](crate::gate::Gate).

use std::collections::VecDeque;
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, StreamProtocol};

/// What became of a stream.
#[derive(Debug)]
pub(crate) enum Event {
    /// One that was asked for is open, to write to.
    Opened { connection: ConnectionId, stream: Stream },
    /// One that was asked for is not to be had.
    Refused { connection: ConnectionId },
    /// The peer has opened one, to read from.
    Came { peer: PeerId, stream: Stream },
}

/// Opens streams, and takes those that peers open.
pub(crate) struct Behaviour {
    protocol: StreamProtocol,
    outputs: VecDeque<ToSwarm<Event, Open>>,
}

impl Behaviour {
    pub(crate) fn new(protocol: StreamProtocol) -> Self {
        Self { protocol, outputs: VecDeque::new() }
    }

    /// Asks for one stream on this connection. If the connection ends first, nothing is said of the stream.
    pub(crate) fn open(&mut self, peer_id: PeerId, connection: ConnectionId) {
        let handler = NotifyHandler::One(connection);
        self.outputs.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: Open });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.outputs.push_back(ToSwarm::GenerateEvent(match event {
            Out::Opened(stream) => Event::Opened { connection, stream },
            Out::Refused => Event::Refused { connection },
            Out::Came(stream) => Event::Came { peer, stream },
        }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.outputs.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A stream is wanted.
#[derive(Debug)]
pub(crate) struct Open;

/// What one connection has to say of streams.
#[derive(Debug)]
pub(crate) enum Out {
    Opened(Stream),
    Refused,
    Came(Stream),
}

/// One connection. A stream that somebody holds keeps it alive by itself.
pub(crate) struct Handler {
    protocol: StreamProtocol,
    wanted: usize,
    out: VecDeque<Out>,
}

impl Handler {
    fn new(protocol: StreamProtocol) -> Self {
        Self { protocol, wanted: 0, out: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Out;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let Some(told) = self.out.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
        }
        if self.wanted == 0 {
            return Poll::Pending;
        }
        self.wanted -= 1;
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ());
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, Open: Open) {
        self.wanted = self.wanted.saturating_add(1);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum; its other events say nothing of a stream")]
    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                self.out.push_back(Out::Came(stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, .. }) => {
                self.out.push_back(Out::Opened(stream));
            }
            ConnectionEvent::DialUpgradeError(_) => self.out.push_back(Out::Refused),
            _ => {}
        }
    }
}
