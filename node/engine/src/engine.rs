//! [`Engine`]: one input at a time, then everything it caused is drained in a fixed order.

use smoltcp::wire::EthernetAddress;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bridge::{Bridge, Offload};
use dht::clock::Now;
use dht::{ClientId, Command, CommandId, LeaseKey};
use dns::Responder;
use ipnet::Ipv4Net;
use libp2p_identity::PeerId;
use tunnel::{Endpoint, Kind, NextHop, Tunnel};

use crate::config::Config;
use crate::fence::Fences;
use crate::hosts::Hosts;
use crate::names::Names;
use crate::once::Once;
use crate::peers::Peers;
use crate::requests::{Reply, RequestId, Requests};
use crate::routes::Routes;
use crate::segment::Segment;
use crate::snapshot::{Inlet, Outlet, Reports, Snapshot};
use crate::standing::Standing;
use crate::status::{Quorum, State};

/// Commands under way in the overlay. Every source is bounded on its own; this guards against the sum.
const MAX_PENDING: usize = 8192;

/// One peer is told of one address, and one address is asked about anew, this often.
const HEAL_EVERY: Duration = Duration::from_secs(1);
/// A lease that peers miss in the register is renewed this often.
const RENEW_EVERY: Duration = Duration::from_secs(30);

/// What the engine wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// Write this frame to the TAP.
    Frame {
        /// Ethernet header and packet.
        frame: Vec<u8>,
        /// What the kernel has yet to do to it.
        offload: Offload,
    },
    /// Send this datagram.
    Transmit {
        /// Where to.
        to: NextHop,
        /// The sealed bytes.
        datagram: Vec<u8>,
        /// How many routers it may pass; `None` for as many as usual.
        ttl: Option<u8>,
    },
    /// Hand this to the overlay.
    Command(Command),
    /// Something the shell acts upon or shows.
    Event(Event),
}

/// What the shell acts upon or shows.
#[derive(Debug)]
pub enum Event {
    /// This machine has an address: give it to the TAP.
    AddressBound {
        /// The address.
        ip: Ipv4Addr,
        /// Its subnet's prefix length.
        prefix_len: u8,
    },
    /// The address is no longer ours: take it from the TAP.
    AddressLost {
        /// The address.
        ip: Ipv4Addr,
        /// Why.
        why: &'static str,
    },
    /// This machine has a name.
    NameBound {
        /// The host name, without the zone.
        name: String,
    },
    /// The name that this machine asked for is not to be had. Told once, until there is a name.
    NameRefused {
        /// Which, and why.
        why: String,
    },
    /// The state, as status shows it, is another one.
    StateChanged {
        /// The new state.
        state: State,
        /// What brought it about.
        cause: String,
    },
    /// A question that is not ours: ask the system's resolvers and call [`Engine::handle_forwarded`].
    Forward {
        /// To be handed back with the answer.
        id: dns::QueryId,
        /// Over what it came, and should go.
        transport: dns::Transport,
        /// The question.
        message: Vec<u8>,
    },
    /// A machine of the segment uses an address that it does not get. Told once, until it is quiet for a while.
    TurnedAway {
        /// The machine.
        mac: [u8; 6],
        /// The address.
        ip: Ipv4Addr,
        /// Why.
        why: String,
    },
    /// The answer to a request of the command line.
    Reply {
        /// The request.
        id: RequestId,
        /// Its answer.
        reply: Reply,
    },
}

/// Why a command was given to the overlay, and so what its answer means.
#[derive(Debug)]
pub(crate) enum Pending {
    OwnAddress,
    /// For a machine of a router's segment that was heard there.
    SegmentAddress {
        ip: Ipv4Addr,
        mac: [u8; 6],
    },
    DhcpAddress {
        request: dhcp::RequestId,
        own: bool,
        only_wanted: bool,
    },
    OwnName {
        name: String,
    },
    ClientName {
        ip: Ipv4Addr,
        name: String,
    },
    Route {
        ip: Ipv4Addr,
    },
    DnsName {
        query: dns::QueryId,
    },
    DnsAddress {
        query: dns::QueryId,
    },
    CheckLease {
        peer: PeerId,
        certificate: Vec<u8>,
    },
    Request {
        id: RequestId,
    },
}

fn dhcp_config(config: &Config) -> dhcp::Config {
    dhcp::Config {
        server: config.service,
        subnet: config.range,
        dns: config.service,
        domain: config.zone.clone(),
        search: vec![config.zone.clone()],
        mtu: config.mtu,
    }
}

/// One namespace on one machine, without I/O.
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) me: PeerId,
    pub(crate) bridge: Bridge,
    pub(crate) tunnel: Tunnel,
    pub(crate) dhcp: dhcp::Server,
    pub(crate) dns: Responder,
    pub(crate) hosts: Hosts,
    pub(crate) segment: Segment,
    pub(crate) names: Names,
    pub(crate) peers: Peers,
    pub(crate) routes: Routes,
    pub(crate) fences: Fences,
    /// What peers were told lately, by kind and address; addresses that were asked about anew because a peer said that they
    /// are not its own; and those of ours that were renewed because a peer missed them.
    pub(crate) told: Once<(PeerId, u8, Ipv4Addr)>,
    pub(crate) reread: Once<Ipv4Addr>,
    pub(crate) renewed: Once<Ipv4Addr>,
    pub(crate) requests: Requests,
    pub(crate) quorum: Quorum,
    pub(crate) standing: Option<Standing>,
    pub(crate) state: State,
    pub(crate) pending: BTreeMap<u64, Pending>,
    next_command: u64,
    pub(crate) drops: BTreeMap<&'static str, u64>,
    jumps: u32,
    output: VecDeque<Output>,
    snapshot: Arc<Snapshot>,
    sessions_changed: bool,
    pub(crate) dns_clients: crate::answers::DnsClients,
}

impl Engine {
    /// Joins the parts. `tunnel` brings its own keys; `seed` drives the randomness of the rest.
    pub fn new(config: Config, tunnel: Tunnel, seed: [u8; 32], now: Now) -> Self {
        let service = config.service;
        let bridge = Bridge::new(
            bridge::Config {
                mode: config.mode,
                range: config.range,
                service,
                gateway_mac: EthernetAddress(config.gateway_mac),
                mtu: config.mtu,
            },
            seed,
            now.mono,
        );
        let dhcp = dhcp::Server::new(dhcp_config(&config), seed, now.mono);
        let dns = Responder::new(
            dns::Config { zone: config.zone.clone(), service, range: config.range, max_udp: 1232 },
            now.mono,
        );
        let snapshot = Arc::new(Snapshot {
            local: bridge.local(),
            sending: Default::default(),
            receiving: Default::default(),
            legs: Default::default(),
            lapses: None,
            jumps: now.jumps,
        });
        let names = Names::new(&config.hostname);
        Self {
            me: config.identity.peer_id(),
            config,
            bridge,
            tunnel,
            dhcp,
            dns,
            hosts: Hosts::default(),
            segment: Segment::default(),
            names,
            peers: Peers::default(),
            routes: Routes::default(),
            fences: Fences::default(),
            told: Once::every(HEAL_EVERY),
            reread: Once::every(HEAL_EVERY),
            renewed: Once::every(RENEW_EVERY),
            requests: Requests::default(),
            quorum: Quorum::default(),
            standing: None,
            state: State::Joined,
            pending: BTreeMap::new(),
            next_command: 0,
            drops: BTreeMap::new(),
            jumps: now.jumps,
            output: VecDeque::new(),
            snapshot,
            sessions_changed: false,
            dns_clients: Default::default(),
        }
    }

    /// Begins: with an address of its own, claims it.
    pub fn start(&mut self, now: Now) {
        self.claim_own_address(now);
        self.drain(now);
    }

    /// A frame from the TAP that the fast path did not forward.
    pub fn handle_frame(&mut self, frame: &[u8], offload: Offload, now: Now) {
        self.look(now);
        self.bridge.handle_frame(frame, offload, now.mono);
        self.drain(now);
    }

    /// A datagram that the fast path did not open.
    pub fn handle_datagram(&mut self, from: impl Into<Endpoint>, datagram: &[u8], now: Now) {
        self.look(now);
        self.tunnel.handle_datagram(from, datagram, now.unix_s.saturating_mul(1000), now.mono);
        self.drain(now);
    }

    /// A payload that the fast path opened and found not to be plain.
    pub fn handle_opened(&mut self, peer: PeerId, kind: Kind, payload: &[u8], now: Now) {
        self.look(now);
        self.receive(peer, kind, payload, now);
        self.drain(now);
    }

    /// The fast path saw a peer's newest packet come by another way.
    pub fn handle_roamed(&mut self, roamed: crate::fast::Roamed, now: Now) {
        self.look(now);
        self.tunnel.handle_roamed(roamed.index, roamed.from, roamed.counter, now.mono);
        self.drain(now);
    }

    /// The kernel refused a datagram as too big for the way it had to take.
    pub fn handle_too_big(&mut self, to: SocketAddr, outer_mtu: u16, now: Now) {
        self.look(now);
        self.tunnel.handle_too_big(to, outer_mtu, now.mono);
        self.drain(now);
    }

    /// Strangers send more than is looked at: whoever begins a handshake has to show that it receives at its address.
    pub fn handle_pressure(&mut self, now: Now) {
        self.tunnel.handle_pressure(now.mono);
    }

    /// The overlay's answer or news.
    pub fn handle_overlay(&mut self, event: dht::Event, now: Now) {
        self.look(now);
        self.overlay_event(event, now);
        self.drain(now);
    }

    /// The system resolvers' answer to [`Event::Forward`], or that there is none.
    pub fn handle_forwarded(&mut self, id: dns::QueryId, reply: Option<&[u8]>, now: Now) {
        self.look(now);
        self.dns.handle_forwarded(id, reply, now.mono);
        self.drain(now);
    }

    /// The overlay has a connection with a member, or has it no more: datagrams can go there in a stream
    /// ([`NextHop::Stream`]), and come from there ([`Endpoint::Stream`]).
    pub fn handle_stream(&mut self, peer: PeerId, connected: bool, now: Now) {
        self.look(now);
        self.set_stream(peer, connected, now);
        self.drain(now);
    }

    /// The addresses under which this machine's data socket can be tried: its interfaces', and configured ones.
    pub fn handle_endpoints(&mut self, lan: Vec<SocketAddr>, configured: Vec<SocketAddr>, now: Now) {
        self.look(now);
        if self.peers.set_endpoints(lan, configured) {
            self.tunnel.handle_moved(now.mono);
        }
        self.drain(now);
    }

    /// This machine speaks with another hardware address on its segment from here on: its bridge has other ports.
    pub fn handle_own_mac(&mut self, mac: [u8; 6], now: Now) {
        self.look(now);
        self.change_own_mac(mac, now);
        self.drain(now);
    }

    /// The addresses at which routers send on to this machine's data socket; they take the place of those told before.
    pub fn handle_mapped(&mut self, mapped: Vec<SocketAddr>, now: Now) {
        self.look(now);
        if self.peers.set_mapped(mapped) {
            self.tell_of_addresses(now);
        }
        self.drain(now);
    }

    /// Time has passed. Calls that come late, early or twice do no harm.
    pub fn handle_timeout(&mut self, now: Now) {
        self.look(now);
        self.retry_claims(now);
        self.tunnel.handle_timeout(now.mono);
        self.bridge.handle_timeout(now.mono);
        self.expire_dhcp(now);
        self.look_after_segment(now);
        self.dns.handle_timeout(now.mono);
        self.expire_requests(now);
        self.expire_look(now);
        self.drain(now);
    }

    /// The next thing the engine wants done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When to call [`Engine::handle_timeout`] next, and why.
    pub fn poll_timeout(&self, now: Now) -> Option<(Instant, &'static str)> {
        [
            self.tunnel.poll_timeout(),
            self.bridge.poll_timeout(),
            self.dhcp.poll_timeout(),
            self.dns.poll_timeout(),
            self.hosts.poll_timeout(now),
            self.segment.poll_timeout(),
            self.names.poll_timeout(now),
            self.routes.poll_timeout(now),
            self.requests.poll_timeout(),
            self.peers.outside.poll_timeout(),
            self.quorum.poll_timeout(self.state),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// What the packet threads should forward from. The same [`Arc`] until something changed.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Whether the handshake message is addressed to this namespace.
    pub fn owns(&self, datagram: &[u8]) -> bool {
        self.tunnel.owns(datagram)
    }

    /// Erases all session keys and draws new ones from `seed`: after a suspension, a restored machine or a jump of the
    /// clocks, where memory may have been used before.
    pub fn begin_anew(&mut self, seed: [u8; 32], now: Now) {
        self.look(now);
        self.tunnel.erase_all(now.mono);
        self.tunnel.reseed(seed);
        self.drain(now);
    }

    /// Stops using whatever may be used no more. Comes before anything is answered or forwarded: a timer may fire late.
    fn look(&mut self, now: Now) {
        if std::mem::replace(&mut self.jumps, now.jumps) != now.jumps {
            self.lapse_hosts(now);
            self.forget_all_routes();
        }
        self.expire_hosts(now);
        self.expire_names(now);
        self.expire_routes(now);
    }

    /// Gives a command whose answer is waited for; false if too many are under way already.
    #[must_use]
    pub(crate) fn command(&mut self, pending: Pending, make: impl FnOnce(CommandId) -> Command) -> bool {
        if self.pending.len() >= MAX_PENDING {
            self.count("too-many-commands");
            return false;
        }
        self.next_command += 1;
        self.pending.insert(self.next_command, pending);
        self.tell(make(CommandId(self.next_command)));
        true
    }

    /// Gives back what was leased. Nothing waits for the answer, and so nothing keeps it from being told.
    pub(crate) fn give_back(&mut self, key: LeaseKey) {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.tell(match key {
            LeaseKey::Address(ip) => Command::ReleaseAddress { id, ip },
            LeaseKey::Name(name) => Command::ReleaseName { id, name },
        });
    }

    pub(crate) fn tell(&mut self, command: Command) {
        self.output.push_back(Output::Command(command));
    }

    pub(crate) fn emit(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    pub(crate) fn count(&mut self, reason: &'static str) {
        *self.drops.entry(reason).or_default() += 1;
    }

    pub(crate) fn subnet(&self) -> Ipv4Net {
        self.config.range
    }

    pub(crate) fn self_client(&self) -> ClientId {
        ClientId(dht::sign::hash("client", &[b"self"]))
    }

    /// Moves everything the parts want done to the output, until none wants anything.
    fn drain(&mut self, now: Now) {
        loop {
            let mut idle = true;
            while let Some(event) = self.bridge.poll_event() {
                idle = false;
                self.bridge_event(event, now);
            }
            while let Some(packet) = self.bridge.poll_packet() {
                idle = false;
                self.send_packet(packet, now);
            }
            while let Some(event) = self.tunnel.poll_event() {
                idle = false;
                self.tunnel_event(event, now);
            }
            while let Some(event) = self.dhcp.poll_event() {
                idle = false;
                self.dhcp_event(event, now);
            }
            while let Some(event) = self.dns.poll_event() {
                idle = false;
                self.dns_event(event, now);
            }
            idle &= !self.drain_replies(now);
            if idle {
                break;
            }
        }
        while let Some(transmit) = self.tunnel.poll_transmit() {
            let tunnel::Transmit { to, datagram, ttl } = transmit;
            self.output.push_back(Output::Transmit { to, datagram, ttl });
        }
        while let Some(frame) = self.bridge.poll_frame() {
            self.output.push_back(Output::Frame { frame: frame.bytes, offload: frame.offload });
        }
        self.note_state(now);
        self.renew_snapshot(now);
    }

    fn send_packet(&mut self, packet: bridge::OutPacket, now: Now) {
        if packet.offload.is_plain() {
            self.tunnel.send(packet.peer, Kind::Packet, &packet.packet, now.mono);
        } else {
            let payload = [&packet.offload.to_wire()[..], &packet.packet].concat();
            self.tunnel.send(packet.peer, Kind::Offloaded, &payload, now.mono);
        }
    }

    fn tunnel_event(&mut self, event: tunnel::Event, now: Now) {
        match event {
            tunnel::Event::PeerUp { peer } => self.peer_up(peer, now),
            tunnel::Event::PeerDown { peer, reason } => self.peer_down(peer, reason),
            tunnel::Event::SessionsChanged => self.sessions_changed = true,
            tunnel::Event::Message { peer, kind, payload } => self.receive(peer, kind, &payload, now),
            tunnel::Event::NeedPeer { peer } => self.need_peer(peer, now),
            tunnel::Event::ReserveHandshakes { upto } => self.tell(Command::ReserveHandshakes { upto }),
            tunnel::Event::EndpointObserved { by, addr } => self.observed(by, addr, now),
        }
    }

    /// A payload from an authenticated peer.
    fn receive(&mut self, peer: PeerId, kind: Kind, payload: &[u8], now: Now) {
        match kind {
            Kind::Packet => self.bridge.handle_packet(peer, payload, Offload::default(), now.mono),
            Kind::Offloaded => match crate::fast::split_offload(payload) {
                Ok((offload, packet)) => self.bridge.handle_packet(peer, packet, offload, now.mono),
                Err(reason) => self.count(reason),
            },
            Kind::Control => self.session_message(peer, payload, now),
            Kind::Fragment | Kind::Forward | Kind::Carried => self.count("stray-fragment"),
        }
    }

    fn renew_snapshot(&mut self, now: Now) {
        let local = self.bridge.local();
        let lapses = [self.hosts.lapses(), self.routes.lapses()].into_iter().flatten().min();
        let as_before = (lapses, self.jumps) == (self.snapshot.lapses, self.snapshot.jumps);
        let same = as_before && Arc::ptr_eq(&local, &self.snapshot.local);
        if same && !self.sessions_changed {
            return;
        }
        self.sessions_changed = false;
        let (sending, receiving) = Default::default();
        let legs = self.tunnel.legs().into_iter().map(|leg| ((leg.from, leg.circuit), leg)).collect();
        let mut next = Snapshot { local, sending, receiving, legs, lapses, jumps: self.jumps };
        for view in self.tunnel.sessions() {
            if let Some(way) = view.way.filter(|_| view.sending) {
                next.sending.insert(view.peer, Outlet { session: Arc::clone(&view.session), way });
            }
            let reports = Arc::new(Reports::new(now.mono));
            let inlet = Inlet { peer: view.peer, session: view.session, endpoint: view.endpoint, reports };
            next.receiving.insert(inlet.session.index(), inlet);
        }
        self.snapshot = Arc::new(next);
    }
}
