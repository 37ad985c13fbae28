//! Nodes on a wire in virtual time: latency, loss, sizes, changes of address, and an eavesdropper.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use wan::{Edge, Nat, Passage};
use zeroize::Zeroizing;

use super::origin;
use crate::noise::public_key;
use crate::{
    Candidate, CandidateKind, Config, DropReason, Endpoint, Event, Kind, NextHop, PeerKeys, PeerView, Session, Suites,
    Transmit, Tunnel, Way,
};

pub(crate) const NAMESPACE: [u8; 32] = [0x4e; 32];

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The peer id of an identity key, which need not be a point on the curve here.
pub(crate) fn peer_id(identity: [u8; 32]) -> PeerId {
    PeerId::from_bytes(&[&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20], &identity[..]].concat()).unwrap()
}

/// A datagram under way or seen.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Node {
    pub(crate) tunnel: Tunnel,
    pub(crate) id: PeerId,
    pub(crate) addr: SocketAddr,
    pub(crate) secret: [u8; 32],
    pub(crate) events: Vec<(Instant, Event)>,
    pub(crate) reserves: bool,
    floor: u64,
}

impl Node {
    pub(crate) fn keys(&self) -> PeerKeys {
        PeerKeys { x25519: public_key(&self.secret), credential_hash: credential(&self.secret) }
    }

    /// Payloads received, control messages left out.
    pub(crate) fn packets(&self) -> Vec<Vec<u8>> {
        let messages = self.events.iter().filter_map(|(_, event)| message(event));
        messages.filter(|(kind, _)| *kind != Kind::Control).map(|(_, payload)| payload).collect()
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.tunnel.drops().get(&reason).copied().unwrap_or(0)
    }

    pub(crate) fn has(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }

    /// The session to seal with.
    pub(crate) fn sending(&self) -> std::sync::Arc<Session> {
        self.tunnel.sessions().into_iter().find(|view| view.sending).unwrap().session
    }
}

/// Kind and payload of a message.
pub(crate) fn message(event: &Event) -> Option<(Kind, Vec<u8>)> {
    if let Event::Message { kind, payload, .. } = event { Some((*kind, payload.clone())) } else { None }
}

pub(crate) fn credential(secret: &[u8; 32]) -> [u8; 32] {
    secret.map(|byte| byte ^ 0xc5)
}

pub(crate) type Filter = Box<dyn FnMut(&Flight) -> bool>;

pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    pub(crate) latency: Duration,
    /// False loses the datagram.
    pub(crate) filter: Filter,
    /// Everything that was sent, lost or not.
    pub(crate) seen: Vec<Flight>,
    /// Source as sent, source as it arrives: a NAT that has lost its mapping.
    pub(crate) moved: BTreeMap<SocketAddr, SocketAddr>,
    /// Datagrams that live only to pass their sender's own edge: from where, to where.
    pub(crate) opening: Vec<(SocketAddr, SocketAddr)>,
    /// What stands before the nodes with these addresses.
    pub(crate) edges: BTreeMap<IpAddr, Nat>,
    /// How many datagrams went in streams.
    pub(crate) streamed: usize,
    wire: BTreeMap<(Instant, u64), Flight>,
    /// Nodes that have a connection in the overlay, and with whom; and what goes in its streams.
    streams: BTreeSet<(usize, PeerId)>,
    pipe: BTreeMap<(Instant, u64), Streamed>,
    /// What comes from these addresses, or goes there, takes so much longer.
    pub(crate) slow: BTreeMap<SocketAddr, Duration>,
    serial: u64,
}

/// A datagram in a stream.
struct Streamed {
    from: PeerId,
    to: usize,
    bytes: Vec<u8>,
}

impl Net {
    /// `n` nodes that know each other's keys and addresses.
    pub(crate) fn new(n: u8) -> Self {
        let mut net = Self::strangers(n);
        for a in 0..usize::from(n) {
            for b in 0..usize::from(n) {
                if a != b {
                    net.introduce(a, b);
                }
            }
        }
        net
    }

    /// `n` nodes that know nothing of each other.
    pub(crate) fn strangers(n: u8) -> Self {
        let now = origin();
        let mut net = Self {
            now,
            nodes: Vec::new(),
            latency: ms(10),
            filter: Box::new(|_| true),
            seen: Vec::new(),
            moved: BTreeMap::new(),
            opening: Vec::new(),
            edges: BTreeMap::new(),
            streamed: 0,
            wire: BTreeMap::new(),
            streams: BTreeSet::new(),
            pipe: BTreeMap::new(),
            serial: 0,
            slow: BTreeMap::new(),
        };
        for node in 0..n {
            net.add(node, |_| {});
        }
        net
    }

    pub(crate) fn add(&mut self, n: u8, change: impl FnOnce(&mut Config)) {
        let secret = [n + 1; 32];
        let tunnel = tunnel(n, secret, u64::from(n), 0, change, self.now);
        let node = Node {
            id: peer_id([n + 0x80; 32]),
            addr: SocketAddr::from(([192, 0, 2, n + 1], 4000)),
            secret,
            tunnel,
            events: Vec::new(),
            reserves: true,
            floor: 0,
        };
        self.nodes.push(node);
        self.drain(self.nodes.len() - 1);
    }

    /// Tells `a` all about `b`.
    pub(crate) fn introduce(&mut self, a: usize, b: usize) {
        let (id, keys, addr) = (self.nodes[b].id, self.nodes[b].keys(), self.nodes[b].addr);
        let now = self.now;
        self.nodes[a].tunnel.set_peer(id, keys, now);
        self.nodes[a].tunnel.set_candidates(id, vec![Candidate { addr, kind: CandidateKind::Lan }], now);
        self.drain(a);
    }

    /// Node `n` loses its memory; its disk remembers the numbers.
    pub(crate) fn restart(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let index = u8::try_from(n).unwrap();
        node.tunnel = tunnel(index, node.secret, 1000 + node.floor, node.floor, |_| {}, self.now);
        self.drain(n);
        for other in 0..self.nodes.len() {
            if other != n {
                self.introduce(n, other);
            }
        }
    }

    pub(crate) fn send(&mut self, a: usize, b: usize, payload: &[u8]) {
        self.send_as(a, b, Kind::Packet, payload);
    }

    pub(crate) fn send_as(&mut self, a: usize, b: usize, kind: Kind, payload: &[u8]) {
        let (id, now) = (self.nodes[b].id, self.now);
        self.nodes[a].tunnel.send(id, kind, payload, now);
        self.drain(a);
    }

    /// Node `a` seals by itself, as the fast path does.
    pub(crate) fn send_fast(&mut self, a: usize, b: usize, payload: &[u8]) {
        let id = self.nodes[b].id;
        let view = self.nodes[a].tunnel.sessions().into_iter().find(|view| view.sending && view.peer == id);
        let Some(view) = view else {
            self.send(a, b, payload);
            return;
        };
        let mut datagram = Vec::new();
        match view.session.seal(Kind::Packet, &[], payload, &mut datagram) {
            Ok(()) => self.leave(a, view.way.unwrap(), datagram),
            Err(_) => self.send(a, b, payload),
        }
    }

    /// A datagram that node `a` has sealed takes its way.
    fn leave(&mut self, a: usize, way: Way, datagram: Vec<u8>) {
        let transmit = match way {
            Way::Direct(to) => Transmit { to, datagram, ttl: None },
            Way::Relayed { session, circuit, to } => {
                let mut outer = Vec::new();
                session.seal_carried(Kind::Forward, circuit, &datagram, &mut outer).unwrap();
                Transmit { to, datagram: outer, ttl: None }
            }
        };
        self.transmit(a, transmit);
    }

    /// Node `n` hears that its addresses are others.
    pub(crate) fn moved(&mut self, n: usize) {
        let now = self.now;
        self.nodes[n].tunnel.handle_moved(now);
        self.drain(n);
    }

    /// Node `a` asks `relay` to carry to and from `b`.
    pub(crate) fn open(&mut self, a: usize, relay: usize, b: usize) {
        let (relay, target, now) = (self.nodes[relay].id, self.nodes[b].id, self.now);
        self.nodes[a].tunnel.open_circuit(relay, target, now);
        self.drain(a);
    }

    /// What node `a` knows about `b`.
    pub(crate) fn view(&self, a: usize, b: usize) -> PeerView {
        self.nodes[a].tunnel.peer(&self.nodes[b].id, self.now).unwrap()
    }

    /// Two nodes are connected in the overlay, or no more.
    pub(crate) fn connect(&mut self, a: usize, b: usize, connected: bool) {
        for (at, other) in [(a, b), (b, a)] {
            let (id, now) = (self.nodes[other].id, self.now);
            let changed = if connected { self.streams.insert((at, id)) } else { self.streams.remove(&(at, id)) };
            assert!(changed);
            self.nodes[at].tunnel.set_stream(id, connected, now);
            self.drain(at);
        }
    }

    /// Puts a datagram on the wire, or into a stream of node `n`.
    fn transmit(&mut self, n: usize, transmit: Transmit) {
        match transmit.to {
            NextHop::Udp(_) => self.put(self.nodes[n].addr, transmit),
            NextHop::Stream(peer) if self.streams.contains(&(n, peer)) => {
                self.serial += 1;
                self.streamed += 1;
                let to = self.nodes.iter().position(|node| node.id == peer).unwrap();
                let stream = Streamed { from: self.nodes[n].id, to, bytes: transmit.datagram };
                self.pipe.insert((self.now + self.latency, self.serial), stream);
            }
            NextHop::Stream(_) => {}
        }
    }

    /// Puts a datagram on the wire.
    pub(crate) fn put(&mut self, from: SocketAddr, transmit: Transmit) {
        let NextHop::Udp(to) = transmit.to else { panic!("{} is no address", transmit.to) };
        let mut flight = Flight { from, to, bytes: transmit.datagram };
        let time = self.now - origin();
        if let Some(edge) = self.edges.get_mut(&from.ip()) {
            let Passage::Through { from, to } = edge.outbound(v4(from), v4(flight.to), time) else { return };
            (flight.from, flight.to) = (from.into(), to.into());
        }
        if transmit.ttl.is_some() {
            self.opening.push((flight.from, flight.to));
            return;
        }
        self.seen.push(flight.clone());
        if (self.filter)(&flight) {
            self.serial += 1;
            let slow = |addr: &SocketAddr| self.slow.get(addr).copied().unwrap_or_default();
            let latency = self.latency + slow(&flight.from) + slow(&flight.to);
            self.wire.insert((self.now + latency, self.serial), flight);
        }
    }

    /// Node `n` is moved behind an edge.
    pub(crate) fn behind(&mut self, n: usize, edge: Edge, seed: u64) {
        let number = u8::try_from(n).unwrap() + 1;
        let outside = Ipv4Addr::new(203, 0, 113, number);
        let settings = edge.settings();
        let inside = if settings.ports == wan::Ports::None { outside } else { Ipv4Addr::new(192, 168, number, 2) };
        self.nodes[n].addr = SocketAddr::from((inside, 4000));
        self.edges.insert(inside.into(), Nat::new(settings, outside, seed));
    }

    /// Hands a datagram to node `n` at once.
    pub(crate) fn inject(&mut self, n: usize, from: impl Into<Endpoint>, bytes: &[u8]) {
        let wall = self.wall();
        self.nodes[n].tunnel.handle_datagram(from, bytes, wall, self.now);
        self.drain(n);
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0u32;
        loop {
            steps += 1;
            assert!(steps < 2_000_000, "the network does not come to rest");
            let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
            let timer = self.nodes.iter().filter_map(|node| node.tunnel.poll_timeout()).map(|(at, _)| at).min();
            let stream = self.pipe.first_key_value().map(|((at, _), _)| *at);
            let Some(at) = [arrival, stream, timer].into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            if arrival.is_some_and(|arrival| arrival <= self.now) {
                let (_, flight) = self.wire.pop_first().unwrap();
                self.deliver(&flight);
            }
            if stream.is_some_and(|stream| stream <= self.now) {
                let (_, Streamed { from, to, bytes }) = self.pipe.pop_first().unwrap();
                self.inject(to, Endpoint::Stream(from), &bytes);
            }
            for n in 0..self.nodes.len() {
                if self.nodes[n].tunnel.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                    self.nodes[n].tunnel.handle_timeout(self.now);
                    self.drain(n);
                    let next = self.nodes[n].tunnel.poll_timeout();
                    assert!(next.is_none_or(|(at, _)| at > self.now), "a timer that does not advance: {next:?}");
                }
            }
        }
        self.now = end;
    }

    /// Both directions up between all.
    pub(crate) fn settle(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                self.send(a, b, b"settle");
                self.run(secs(1));
            }
        }
        self.nodes.iter_mut().for_each(|node| node.events.clear());
        self.seen.clear();
    }

    fn deliver(&mut self, flight: &Flight) {
        let time = self.now - origin();
        if self.edges.get(&flight.to.ip()).is_some_and(|edge| IpAddr::from(edge.outside()) != flight.to.ip()) {
            // Nobody outside routes there.
            return;
        }
        let edge = self.edges.values_mut().find(|edge| IpAddr::from(edge.outside()) == flight.to.ip());
        if let Some(edge) = edge {
            let Passage::Through { from, to } = edge.inbound(v4(flight.from), v4(flight.to), time) else { return };
            if let Some(n) = self.nodes.iter().position(|node| node.addr == SocketAddr::from(to)) {
                self.inject(n, SocketAddr::from(from), &flight.bytes);
            }
            return;
        }
        let from = self.moved.get(&flight.from).copied().unwrap_or(flight.from);
        let Some(n) =
            self.nodes.iter().position(|node| node.addr == flight.to || self.moved.get(&node.addr) == Some(&flight.to))
        else {
            return;
        };
        // Behind a NAT that moved, nothing arrives at the old address.
        if self.moved.get(&self.nodes[n].addr).is_some_and(|moved| *moved != flight.to) {
            return;
        }
        self.inject(n, from, &flight.bytes);
    }

    pub(crate) fn wall(&self) -> u64 {
        u64::try_from((self.now - origin()).as_millis()).unwrap()
    }

    pub(crate) fn drain(&mut self, n: usize) {
        while let Some(event) = self.nodes[n].tunnel.poll_event() {
            if let Event::ReserveHandshakes { upto } = event
                && self.nodes[n].reserves
            {
                self.nodes[n].floor = upto;
                self.nodes[n].tunnel.handshakes_reserved(upto);
            }
            let now = self.now;
            self.nodes[n].events.push((now, event));
        }
        while let Some(transmit) = self.nodes[n].tunnel.poll_transmit() {
            self.transmit(n, transmit);
        }
    }
}

fn v4(addr: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(addr) = addr else { panic!("{addr} before an edge of IPv4") };
    addr
}

pub(crate) fn tunnel(
    n: u8,
    secret: [u8; 32],
    instance: u64,
    floor: u64,
    change: impl FnOnce(&mut Config),
    now: Instant,
) -> Tunnel {
    let mut config = Config {
        namespace: NAMESPACE,
        identity: peer_id([n + 0x80; 32]),
        secret: Zeroizing::new(secret),
        credential_hash: credential(&secret),
        slot: n & 0xf,
        instance,
        outer_mtu: 1500,
        heads: [n; 8],
        suites: Suites::AES_FIRST,
        relay: Some(1 << 30),
    };
    change(&mut config);
    let mut seed = [n; 32];
    seed[..8].copy_from_slice(&instance.to_be_bytes());
    Tunnel::new(config, floor, seed, now)
}
