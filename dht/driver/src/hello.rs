//! `/overlay/hello/1`: the one protocol that a stranger may speak, once per connection.
//!
//! ```text
//! dialler                      listener
//!    | request (≤ 64 KiB) ------> | checks it; if it fails: closes the connection without a byte
//!    |                            | opens its gate inwards
//!    | <------ response (≤ 64 KiB)|
//!    | checks it, opens its gate  |
//!    | 1 -----------------------> | opens its gate outwards
//! ```
//!
//! The last byte is there because a listener that sent messages right behind its response would find the dialler's
//! gate still shut. A connection that is not through within 10 s is given up. The state machines decide; this carries.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dht::hello::MAX_HELLO;
use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, StreamProtocol};
use thiserror::Error;

use crate::address::{AddressFilter, socket_addr_of};
use crate::frame::{read_frame, write_frame};

pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/overlay/hello/1");
const OPENED: u8 = 1;

/// For all of it, from the connection on.
const PATIENCE: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(10) };
/// Connections of strangers at one time, from everywhere.
const MOST_STRANGERS: usize = 128;
/// And from one /24 or /48.
const MOST_STRANGERS_PER_NET: usize = 64;

/// What the dance has come to on one connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// A dialler's request. Answer it with [`Behaviour::answer`], or close the connection.
    Asked { peer: PeerId, connection: ConnectionId, request: Vec<u8> },
    /// A listener's response. Go on with [`Behaviour::confirm`], or close the connection.
    Answered { peer: PeerId, connection: ConnectionId, response: Vec<u8> },
    /// The dialler has opened its gate.
    Confirmed { peer: PeerId, connection: ConnectionId },
    /// It came to nothing: close the connection.
    Failed { peer: PeerId, connection: ConnectionId, why: String },
}

/// Why a connection is refused before a word is said.
#[derive(Debug, Error)]
enum Denied {
    #[error("too many connections that are not admitted yet")]
    Strangers,
    #[error("from inside a tunnel")]
    Virtual,
}

/// Carries hellos, and counts those who have not got through theirs.
pub(crate) struct Behaviour {
    filter: Arc<AddressFilter>,
    strangers: BTreeMap<ConnectionId, Option<[u8; 6]>>,
    outputs: VecDeque<ToSwarm<Event, HelloIn>>,
}

impl Behaviour {
    pub(crate) fn new(filter: Arc<AddressFilter>) -> Self {
        Self { filter, strangers: BTreeMap::new(), outputs: VecDeque::new() }
    }

    /// Sends the dialler's request.
    pub(crate) fn ask(&mut self, peer: PeerId, connection: ConnectionId, request: Vec<u8>) {
        self.tell(peer, connection, HelloIn::Ask(request));
    }

    /// Sends the listener's response. Set this connection's gates first.
    pub(crate) fn answer(&mut self, peer: PeerId, connection: ConnectionId, response: Vec<u8>) {
        self.strangers.remove(&connection);
        self.tell(peer, connection, HelloIn::Answer(response));
    }

    /// Sends the dialler's last byte. Set this connection's gates first.
    pub(crate) fn confirm(&mut self, peer: PeerId, connection: ConnectionId) {
        self.tell(peer, connection, HelloIn::Confirm);
    }

    /// Says whether the connection stays when nothing goes over it.
    pub(crate) fn keep(&mut self, peer: PeerId, connection: ConnectionId, keep: Keep) {
        self.tell(peer, connection, HelloIn::Keep(keep));
    }

    fn tell(&mut self, peer_id: PeerId, connection: ConnectionId, event: HelloIn) {
        self.outputs.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
    }

    fn check_strangers(&self, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        let net = net_of(remote);
        let near = self.strangers.values().filter(|other| **other == net).count();
        if self.strangers.len() >= MOST_STRANGERS || near >= MOST_STRANGERS_PER_NET {
            return Err(ConnectionDenied::new(Denied::Strangers));
        }
        Ok(())
    }
}

/// Whether an idle connection stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Standing,
    WhileUsed,
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.filter.is_virtual(remote) {
            return Err(ConnectionDenied::new(Denied::Virtual));
        }
        self.check_strangers(remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_strangers(remote)?;
        Ok(Handler::new(Role::Listener))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(Role::Dialler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionEstablished(event) = &event
            && event.endpoint.is_listener()
        {
            self.strangers.insert(event.connection_id, net_of(event.endpoint.get_remote_address()));
        }
        if let FromSwarm::ConnectionClosed(event) = &event {
            self.strangers.remove(&event.connection_id);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let event = match event {
            HelloOut::Asked(request) => Event::Asked { peer, connection, request },
            HelloOut::Answered(response) => Event::Answered { peer, connection, response },
            HelloOut::Confirmed => Event::Confirmed { peer, connection },
            HelloOut::Failed(why) => Event::Failed { peer, connection, why },
        };
        self.outputs.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.outputs.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The /24 or /48 that an address lies in.
fn net_of(address: &Multiaddr) -> Option<[u8; 6]> {
    match socket_addr_of(address)?.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Some([a, b, c, 0, 0, 4])
        }
        IpAddr::V6(ip) => ip.octets().first_chunk().copied(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Dialler,
    Listener,
}

#[derive(Debug)]
pub(crate) enum HelloIn {
    Ask(Vec<u8>),
    Answer(Vec<u8>),
    Confirm,
    Keep(Keep),
}

#[derive(Debug)]
pub(crate) enum HelloOut {
    Asked(Vec<u8>),
    Answered(Vec<u8>),
    Confirmed,
    Failed(String),
}

/// The dance on one connection.
pub(crate) struct Handler {
    role: Role,
    /// The dialler's request, until there is a stream for it.
    request: Option<Vec<u8>>,
    asked: bool,
    step: Step,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    keep: Keep,
}

enum Step {
    Idle,
    /// Reading or writing.
    Busy(BoxFuture<'static, io::Result<Done>>),
    /// The other side's bytes are with the state machine.
    Judged(Stream),
    Over,
}

enum Done {
    Asked(Stream, Vec<u8>),
    Answered(Stream, Vec<u8>),
    Confirmed,
    Sent,
}

impl Handler {
    fn new(role: Role) -> Self {
        Self {
            role,
            request: None,
            asked: false,
            step: Step::Idle,
            deadline: Some(Box::pin(tokio::time::sleep(PATIENCE))),
            keep: Keep::WhileUsed,
        }
    }

    fn take_judged(&mut self) -> Option<Stream> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::Judged(stream) => Some(stream),
            Step::Idle | Step::Busy(_) | Step::Over => None,
        }
    }

    fn fail(&mut self, why: String) -> HelloOut {
        self.step = Step::Over;
        self.deadline = None;
        HelloOut::Failed(why)
    }

    fn after(&mut self, done: io::Result<Done>) -> Option<HelloOut> {
        self.step = Step::Over;
        match done {
            Ok(Done::Asked(stream, request)) => {
                self.step = Step::Judged(stream);
                Some(HelloOut::Asked(request))
            }
            Ok(Done::Answered(stream, response)) => {
                self.step = Step::Judged(stream);
                Some(HelloOut::Answered(response))
            }
            Ok(Done::Confirmed) => {
                self.deadline = None;
                Some(HelloOut::Confirmed)
            }
            Ok(Done::Sent) => None,
            Err(error) => Some(self.fail(error.to_string())),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = HelloIn;
    type ToBehaviour = HelloOut;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn connection_keep_alive(&self) -> bool {
        // The deadline ends a connection that is not through, so idleness need not.
        self.deadline.is_some() || self.keep == Keep::Standing
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if self.request.is_some() && !self.asked {
            self.asked = true;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()),
            });
        }
        if let Step::Busy(work) = &mut self.step
            && let Poll::Ready(done) = work.poll_unpin(cx)
            && let Some(told) = self.after(done)
        {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.poll_unpin(cx).is_ready()
        {
            let told = self.fail("no hello in time".to_owned());
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: HelloIn) {
        match event {
            HelloIn::Ask(request) => self.request = Some(request),
            HelloIn::Answer(response) => {
                if let Some(stream) = self.take_judged() {
                    self.step = Step::Busy(answer(stream, response).boxed());
                }
            }
            HelloIn::Confirm => {
                self.deadline = None;
                if let Some(stream) = self.take_judged() {
                    self.step = Step::Busy(confirm(stream).boxed());
                }
            }
            HelloIn::Keep(keep) => self.keep = keep,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "what is not about a stream is not about hellos")]
        match event {
            // One per connection, and from its dialler; any other stream is reset by being dropped.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. })
                if self.role == Role::Listener && matches!(self.step, Step::Idle) =>
            {
                self.step = Step::Busy(listen(stream).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, .. }) => {
                if let Some(request) = self.request.take() {
                    self.step = Step::Busy(ask(stream, request).boxed());
                }
            }
            ConnectionEvent::DialUpgradeError(error) => {
                let why = error.error.to_string();
                self.step = Step::Busy(async move { Err(io::Error::other(why)) }.boxed());
            }
            _ => {}
        }
    }
}

async fn ask(mut stream: Stream, request: Vec<u8>) -> io::Result<Done> {
    write_frame(&mut stream, &request).await?;
    let response = read_frame(&mut stream, MAX_HELLO).await?;
    Ok(Done::Answered(stream, response))
}

async fn listen(mut stream: Stream) -> io::Result<Done> {
    let request = read_frame(&mut stream, MAX_HELLO).await?;
    Ok(Done::Asked(stream, request))
}

async fn answer(mut stream: Stream, response: Vec<u8>) -> io::Result<Done> {
    write_frame(&mut stream, &response).await?;
    let mut last = [0];
    stream.read_exact(&mut last).await?;
    if last != [OPENED] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a confirmation"));
    }
    stream.close().await?;
    Ok(Done::Confirmed)
}

async fn confirm(mut stream: Stream) -> io::Result<Done> {
    stream.write_all(&[OPENED]).await?;
    stream.close().await?;
    Ok(Done::Sent)
}
