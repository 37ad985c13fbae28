//! What a stranger gets from a listening node, on the wire.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use dht::Level;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{ReadyUpgrade, Version};
use libp2p::core::{Endpoint, Transport, upgrade};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol, SwarmEvent, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, yamux};

use super::fake::{Fake, Node, config, free_port};
use crate::behaviour::Protocols;
use crate::frame::{read_frame, write_frame};
use crate::hello;
use crate::wire::Wire;

/// Opens a stream for one protocol, writes these bytes, and reads what comes until the stream ends.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    protocol: StreamProtocol,
    script: Script,
}

#[derive(Clone, Debug)]
pub(super) enum Script {
    /// Only asks whether the protocol is there.
    Knock,
    /// Writes this frame and reads to the end.
    Say(Vec<u8>),
    /// Says hello as a member does, to the last byte.
    Join(Vec<u8>),
}

#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// `na`.
    Unsupported,
    /// There, and this is what it sent.
    Got(Vec<u8>),
    Broken(String),
}

/// An outsider with no protocol of its own.
#[derive(Default)]
pub(super) struct Prober {
    probes: VecDeque<(PeerId, ConnectionId, Probe)>,
    outcomes: VecDeque<Outcome>,
}

impl NetworkBehaviour for Prober {
    type ConnectionHandler = ProbeHandler;
    type ToSwarm = Outcome;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(ProbeHandler::default())
    }
    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(ProbeHandler::default())
    }
    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}
    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, outcome: THandlerOutEvent<Self>) {
        self.outcomes.push_back(outcome);
    }
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, event)) = self.probes.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
        }
        self.outcomes.pop_front().map_or(Poll::Pending, |outcome| Poll::Ready(ToSwarm::GenerateEvent(outcome)))
    }
}

#[derive(Default)]
pub(super) struct ProbeHandler {
    probes: VecDeque<Probe>,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl ConnectionHandler for ProbeHandler {
    type FromBehaviour = Probe;
    type ToBehaviour = Outcome;
    type InboundProtocol = upgrade::DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Script;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(upgrade::DeniedUpgrade, ())
    }
    fn connection_keep_alive(&self) -> bool {
        true
    }
    fn on_behaviour_event(&mut self, probe: Probe) {
        self.probes.push_back(probe);
    }
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Script, Outcome>> {
        if let Some(Probe { protocol, script }) = self.probes.pop_front() {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol), script);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        match self.running.poll_next_unpin(cx) {
            Poll::Ready(Some(outcome)) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(outcome)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Script>,
    ) {
        if let ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) = event {
            self.running.push(play(protocol, info).boxed());
        } else if let ConnectionEvent::DialUpgradeError(error) = event {
            let outcome = match error.error {
                StreamUpgradeError::NegotiationFailed => Outcome::Unsupported,
                StreamUpgradeError::Timeout => Outcome::Broken("timeout".to_owned()),
                StreamUpgradeError::Io(error) => Outcome::Broken(error.to_string()),
                StreamUpgradeError::Apply(never) => match never {},
            };
            self.running.push(futures::future::ready(outcome).boxed());
        }
    }
}

async fn play(mut stream: Stream, script: Script) -> Outcome {
    let mut got = Vec::new();
    let result: io::Result<()> = async {
        match script {
            Script::Knock => {}
            Script::Say(bytes) => {
                write_frame(&mut stream, &bytes).await?;
                let mut chunk = [0; 1024];
                loop {
                    match stream.read(&mut chunk).await? {
                        0 => break,
                        length => got.extend_from_slice(&chunk[..length]),
                    }
                }
            }
            Script::Join(bytes) => {
                write_frame(&mut stream, &bytes).await?;
                got = read_frame(&mut stream, 1024).await?;
                stream.write_all(&[1]).await?;
                stream.close().await?;
            }
        }
        Ok(())
    }
    .await;
    match result {
        Ok(()) => Outcome::Got(got),
        Err(error) if got.is_empty() => Outcome::Broken(error.to_string()),
        Err(_) => Outcome::Got(got),
    }
}

pub(super) struct Outsider {
    pub(super) swarm: Swarm<Prober>,
    peer: PeerId,
    connection: ConnectionId,
}

impl Outsider {
    pub(super) async fn connect(node: &Node, address: Multiaddr) -> Self {
        Self::connect_from(node, address, None).await
    }

    /// One that knows the secret. If it listens, by QUIC, it dials from there; it tells nobody where.
    pub(super) async fn member(node: &Node, secret: &[u8], listen: Option<Multiaddr>) -> Self {
        let [quic, tcp] = crate::address::multiaddrs_of(node.addr());
        let address = if listen.is_some() { quic } else { tcp };
        let mut member = Self::connect_from(node, address, listen).await;
        let answer = member.probe(hello::PROTOCOL, Script::Join(secret.to_vec())).await;
        assert_eq!(answer, Outcome::Got(secret.to_vec()));
        member
    }

    async fn connect_from(node: &Node, address: Multiaddr, listen: Option<Multiaddr>) -> Self {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_quic()
            .with_other_transport(|key| {
                let wire = Wire::new(None, tokio::sync::mpsc::channel(1).0)?;
                let noise = noise::Config::new(key)?;
                Ok(wire.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux::Config::default()))
            })
            .unwrap()
            .with_behaviour(|_| Prober::default())
            .unwrap()
            .build();
        if let Some(listen) = listen {
            swarm.listen_on(listen).unwrap();
            while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
        }
        swarm.dial(address).unwrap();
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } = swarm.select_next_some().await {
                assert_eq!(peer_id, node.peer);
                return Self { swarm, peer: peer_id, connection: connection_id };
            }
        }
    }

    async fn probe(&mut self, protocol: StreamProtocol, script: Script) -> Outcome {
        self.swarm.behaviour_mut().probes.push_back((self.peer, self.connection, Probe { protocol, script }));
        let next = async {
            loop {
                #[expect(clippy::wildcard_enum_match_arm, reason = "only these end a probe")]
                match self.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(outcome) => return outcome,
                    SwarmEvent::ConnectionClosed { .. } => return Outcome::Broken("closed".to_owned()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), next).await.expect("a probe ends")
    }

    /// Says this hello: gets no byte, and the end of the connection before the two seconds have passed after which a
    /// test's node hangs up on anybody who is not through.
    async fn is_hung_up_on_after(&mut self, request: Vec<u8>) {
        let in_time = async {
            let outcome = self.probe(hello::PROTOCOL, Script::Say(request)).await;
            assert!(!matches!(&outcome, Outcome::Got(bytes) if !bytes.is_empty()), "{outcome:?}");
            if outcome != Outcome::Broken("closed".to_owned()) {
                self.closed().await;
            }
        };
        tokio::time::timeout(Duration::from_millis(1700), in_time).await.expect("the connection is closed at once");
    }

    async fn closed(&mut self) {
        let closed =
            async { while !matches!(self.swarm.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {} };
        tokio::time::timeout(Duration::from_secs(5), closed).await.expect("the connection is closed");
    }
}

fn guarded() -> Vec<StreamProtocol> {
    let Protocols { message, kad, stream } = Protocols::of(&dht::NamespaceId([9; 32]));
    let others = [
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/ipfs/kad/1.0.0",
        "/libp2p/circuit/relay/0.2.0/hop",
        "/libp2p/dcutr",
        "/libp2p/autonat/2/dial-request",
    ];
    [message, kad, stream].into_iter().chain(others.map(StreamProtocol::new)).collect()
}

async fn listener(name: &str, fake: Fake) -> Node {
    let mut node = Node::fake(config(1, free_port()), fake, name);
    node.listening().await;
    node
}

#[tokio::test]
async fn an_outsider_gets_na_for_every_protocol_but_hello_and_ping() {
    let node = listener("gate-na", Fake::new(b"secret")).await;
    for address in crate::address::multiaddrs_of(node.addr()) {
        let mut outsider = Outsider::connect(&node, address).await;
        for protocol in guarded() {
            assert_eq!(outsider.probe(protocol.clone(), Script::Knock).await, Outcome::Unsupported, "{protocol}");
        }
        let ping = StreamProtocol::new("/ipfs/ping/1.0.0");
        assert_eq!(outsider.probe(ping, Script::Knock).await, Outcome::Got(Vec::new()));
    }
}

#[tokio::test]
async fn a_bad_hello_gets_not_a_byte_and_the_connection_is_closed() {
    let node = listener("gate-bad", Fake::new(b"secret")).await;
    for bad in [b"guess".to_vec(), Vec::new(), vec![0; 60_000]] {
        let [address, _] = crate::address::multiaddrs_of(node.addr());
        Outsider::connect(&node, address).await.is_hung_up_on_after(bad).await;
    }
}

#[tokio::test]
async fn a_hello_that_is_too_long_is_not_read() {
    let node = listener("gate-long", Fake::new(b"secret")).await;
    let [address, _] = crate::address::multiaddrs_of(node.addr());
    Outsider::connect(&node, address).await.is_hung_up_on_after(vec![0; 64 * 1024 + 1]).await;
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_on() {
    let node = listener("gate-mute", Fake::new(b"secret")).await;
    let [_, address] = crate::address::multiaddrs_of(node.addr());
    let mut outsider = Outsider::connect(&node, address).await;
    outsider.closed().await;
}

#[tokio::test]
async fn after_a_good_hello_the_same_connection_offers_everything() {
    let mut node = listener("gate-open", Fake::new(b"secret")).await;
    let [address, _] = crate::address::multiaddrs_of(node.addr());
    let mut member = Outsider::connect(&node, address).await;
    let answer = member.probe(hello::PROTOCOL, Script::Join(b"secret".to_vec())).await;
    assert_eq!(answer, Outcome::Got(b"secret".to_vec()));
    let Protocols { message, kad, stream } = Protocols::of(&dht::NamespaceId([9; 32]));
    assert_eq!(member.probe(kad, Script::Knock).await, Outcome::Got(Vec::new()));
    assert_eq!(member.probe(stream, Script::Knock).await, Outcome::Got(Vec::new()));
    assert_eq!(member.probe(StreamProtocol::new("/ipfs/id/1.0.0"), Script::Knock).await, Outcome::Got(Vec::new()));
    assert_eq!(member.probe(message, Script::Say(b"hi".to_vec())).await, Outcome::Got(vec![1]));
    assert_eq!(node.signalled().await.1, b"hi");
}

#[tokio::test]
async fn a_joiner_gets_messages_and_nothing_else() {
    let mut fake = Fake::new(b"secret");
    fake.level = Some(Level::Joiner);
    let node = listener("gate-joiner", fake).await;
    let [address, _] = crate::address::multiaddrs_of(node.addr());
    let mut joiner = Outsider::connect(&node, address).await;
    let answer = joiner.probe(hello::PROTOCOL, Script::Join(b"secret".to_vec())).await;
    assert_eq!(answer, Outcome::Got(b"secret".to_vec()));
    let Protocols { message, .. } = Protocols::of(&dht::NamespaceId([9; 32]));
    assert_eq!(joiner.probe(message.clone(), Script::Say(b"hi".to_vec())).await, Outcome::Got(vec![1]));
    for protocol in guarded().into_iter().filter(|protocol| *protocol != message) {
        assert_eq!(joiner.probe(protocol.clone(), Script::Knock).await, Outcome::Unsupported, "{protocol}");
    }
}

#[tokio::test]
async fn admission_on_one_connection_opens_no_other() {
    let node = listener("gate-two", Fake::new(b"secret")).await;
    let [quic, tcp] = crate::address::multiaddrs_of(node.addr());
    let mut first = Outsider::connect(&node, quic).await;
    assert_eq!(first.probe(hello::PROTOCOL, Script::Join(b"secret".to_vec())).await, Outcome::Got(b"secret".to_vec()));
    // The same peer again: the same key, another connection.
    first.swarm.dial(libp2p::swarm::dial_opts::DialOpts::unknown_peer_id().address(tcp).build()).unwrap();
    let second = loop {
        if let SwarmEvent::ConnectionEstablished { connection_id, .. } = first.swarm.select_next_some().await {
            break connection_id;
        }
    };
    first.connection = second;
    let Protocols { message, .. } = Protocols::of(&dht::NamespaceId([9; 32]));
    assert_eq!(first.probe(message, Script::Knock).await, Outcome::Unsupported);
}
