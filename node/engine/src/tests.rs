//! One engine, the overlay played by the test, and one peer's tunnel at the other end of the wire.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bridge::{Inbound, Offload};
use dht::ballot::Ballot;
use dht::certificate::LeaseCert;
use dht::clock::{BootId, Now, OwnerTime, ReplicaTime};
use dht::codec::Wire;
use dht::identity::SecretKey;
use dht::record::{Hint, Op, OpKind, Record, Scope, SignedOp};
use dht::right::Right;
use dht::{ClaimError, ClientId, Command, CommandId, Lease, LeaseKey, NamespaceId, Proven, Resolution, Token};
use libp2p_identity::PeerId;
use tunnel::{Candidate, CandidateKind, Kind, Tunnel};

mod lapse;
mod looking;
mod parties;
mod relays;
mod router;
mod stale;
mod standing;

use crate::engine::Pending;
use crate::{Addressing, Config, Engine, Event, Hostname, Output, Reply, Request, RequestId, State};

const NAMESPACE: [u8; 32] = [0x4e; 32];
const OURS: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 10);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 20);
const TAP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const LEASE: Duration = Duration::from_secs(3600);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
fn origin() -> Now {
    Now {
        mono: Instant::now(),
        owner: OwnerTime::default(),
        replica: ReplicaTime::default(),
        boot: BootId([0; 16]),
        unix_s: 1_800_000_000,
        jumps: 0,
    }
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 4000))
}

fn keys(n: u8) -> tunnel::PeerKeys {
    tunnel::PeerKeys { x25519: dht::credential::data_public(&[n; 32]), credential_hash: [n; 32] }
}

fn tunnel(n: u8, now: Now) -> Tunnel {
    let config = tunnel::Config {
        namespace: NAMESPACE,
        identity: key(n).peer_id(),
        secret: key(n).seed(),
        credential_hash: [n; 32],
        slot: n,
        instance: u64::from(n),
        outer_mtu: 1500,
        heads: [0; 8],
        suites: tunnel::Suites::default(),
        relay: Some(1 << 30),
    };
    Tunnel::new(config, 0, [n; 32], now.mono)
}

fn config(addressing: Addressing, hostname: Hostname) -> Config {
    Config {
        name: "lab".into(),
        namespace: NAMESPACE,
        range: "10.70.0.0/24".parse().unwrap(),
        service: [10, 70, 0, 1].into(),
        zone: "lab.internal".into(),
        mtu: 1400,
        identity: key(1),
        instance: 1,
        mode: crate::Mode::Workstation,
        addressing,
        hostname,
        tap_mac: TAP_MAC,
        gateway_mac: GATEWAY_MAC,
        loopback_underlay: false,
    }
}

/// A UDP packet with a right header checksum.
fn packet(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    [&header[..], &[0x9c, 0x40, 0x9c, 0x41, 0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

fn frame(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    [&GATEWAY_MAC[..], &TAP_MAC, &[8, 0], &packet(from, to)].concat()
}

fn lease(key: LeaseKey, until: OwnerTime) -> Lease {
    let client = ClientId([0; 32]);
    Lease { key, client, token: Token::default(), usable_until: until, certificate: vec![7; 100] }
}

/// Well formed; nobody here checks who signed.
fn certificate(ip: Ipv4Addr, number: u64) -> Vec<u8> {
    let op = Op {
        scope: Scope { incarnation: 0, shard: 0, view: 0 },
        kind: OpKind::Claim,
        key: LeaseKey::Address(ip),
        client: ClientId([0; 32]),
        op_seq: number,
        nonce: number,
        dur_ms: 3_600_000,
        hint: Hint::None,
        right: Right::None,
        deputies: Vec::new(),
    };
    let request = SignedOp::sign(&NamespaceId(NAMESPACE), &key(2), op);
    let record = Record { request, dur_ms: 3_600_000, shadow_ms: 0 };
    let ballot = Ballot::default();
    LeaseCert { record, incarnation: 0, ballot, view_hash: [0; 32], votes: Vec::new() }.to_bytes()
}

/// Session message 16.
fn leases(remaining: Duration, certificates: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![16];
    for certificate in certificates {
        message.extend_from_slice(&u32::try_from(remaining.as_secs()).unwrap().to_be_bytes());
        message.extend_from_slice(&u16::try_from(certificate.len()).unwrap().to_be_bytes());
        message.extend_from_slice(certificate);
    }
    message
}

struct Lab {
    now: Now,
    engine: Engine,
    peer: Tunnel,
    commands: Vec<Command>,
    events: Vec<Event>,
    frames: Vec<Vec<u8>>,
    /// What the peer received.
    heard: Vec<(Kind, Vec<u8>)>,
}

impl Lab {
    fn new(addressing: Addressing, hostname: Hostname) -> Self {
        Self::with(config(addressing, hostname))
    }

    fn with(config: Config) -> Self {
        let now = origin();
        let engine = Engine::new(config, tunnel(1, now), [9; 32], now);
        let peer = tunnel(2, now);
        let (commands, events, frames, heard) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut lab = Self { now, engine, peer, commands, events, frames, heard };
        lab.engine.start(now);
        lab.settle();
        lab
    }

    /// With an address and a session with the peer.
    fn connected() -> Self {
        let mut lab = Self::new(Addressing::Own, Hostname::Default("node".into()));
        lab.grant_address();
        let keys_of_peer = keys(2);
        let (x25519, credential_hash) = (keys_of_peer.x25519, keys_of_peer.credential_hash);
        lab.overlay(dht::Event::PeerKeys { peer: peer(), x25519, credential_hash });
        let me = key(1).peer_id();
        lab.peer.set_peer(me, keys(1), lab.now.mono);
        let candidate = Candidate { addr: address(1), kind: CandidateKind::Observed };
        lab.peer.set_candidates(me, vec![candidate], lab.now.mono);
        lab.peer.send(me, Kind::Control, &[99], lab.now.mono);
        lab.settle();
        assert!(lab.engine.peers.is_up(&peer()));
        lab.forget();
        lab
    }

    fn forget(&mut self) {
        self.commands.clear();
        self.events.clear();
        self.frames.clear();
        self.heard.clear();
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.owner.0 += time;
        self.now.replica.0 += time;
    }

    fn wait(&mut self, time: Duration) {
        self.pass(time);
        self.engine.handle_timeout(self.now);
        self.settle();
    }

    fn overlay(&mut self, event: dht::Event) {
        self.engine.handle_overlay(event, self.now);
        self.settle();
    }

    fn frame(&mut self, to: Ipv4Addr) {
        self.engine.handle_frame(&frame(OURS, to), Offload::default(), self.now);
        self.settle();
    }

    fn opened(&mut self, kind: Kind, payload: &[u8]) {
        self.engine.handle_opened(peer(), kind, payload, self.now);
        self.settle();
    }

    /// Carries everything to where it belongs until nothing moves.
    fn settle(&mut self) {
        let now = self.now.mono;
        loop {
            let mut idle = true;
            while let Some(output) = self.engine.poll_output() {
                idle = false;
                match output {
                    Output::Frame { frame, .. } => self.frames.push(frame),
                    Output::Transmit { datagram, .. } => self.peer.handle_datagram(address(1), &datagram, 0, now),
                    Output::Command(Command::ReserveHandshakes { upto }) => {
                        self.engine.handle_overlay(dht::Event::HandshakesReserved { upto }, self.now);
                    }
                    Output::Command(command) => self.commands.push(command),
                    Output::Event(event) => self.events.push(event),
                }
            }
            while let Some(event) = self.peer.poll_event() {
                idle = false;
                if let tunnel::Event::ReserveHandshakes { upto } = event {
                    self.peer.handshakes_reserved(upto);
                } else if let tunnel::Event::Message { kind, payload, .. } = event {
                    self.heard.push((kind, payload));
                }
            }
            while let Some(transmit) = self.peer.poll_transmit() {
                idle = false;
                // The daemon's inbound thread hands over nothing else.
                assert!(tunnel::receiver_index(&transmit.datagram).is_some() || tunnel::is_init(&transmit.datagram));
                self.engine.handle_datagram(address(2), &transmit.datagram, self.now);
            }
            if idle {
                return;
            }
        }
    }

    fn claims(&self) -> Vec<CommandId> {
        let id = |command: &Command| if let Command::ClaimAddress { id, .. } = command { Some(*id) } else { None };
        self.commands.iter().filter_map(id).collect()
    }

    fn name_claims(&self) -> Vec<CommandId> {
        let id = |command: &Command| if let Command::ClaimName { id, .. } = command { Some(*id) } else { None };
        self.commands.iter().filter_map(id).collect()
    }

    fn resolves(&self) -> Vec<(CommandId, Ipv4Addr)> {
        let one = |command: &Command| {
            if let Command::ResolveAddress { id, ip } = command { Some((*id, *ip)) } else { None }
        };
        self.commands.iter().filter_map(one).collect()
    }

    fn checks(&self) -> Vec<CommandId> {
        let id = |command: &Command| if let Command::CheckLease { id, .. } = command { Some(*id) } else { None };
        self.commands.iter().filter_map(id).collect()
    }

    fn drops(&self, reason: &str) -> u64 {
        self.engine.drops.get(reason).copied().unwrap_or(0)
    }

    /// Answers the last claim of an address.
    fn grant_address(&mut self) {
        let id = *self.claims().last().unwrap();
        let until = OwnerTime(self.now.owner.0 + LEASE);
        self.overlay(dht::Event::Claimed { id, outcome: Ok(lease(LeaseKey::Address(OURS), until)) });
    }

    /// Shows the peer's certificate, and answers the check that this asks for.
    fn prove(&mut self, remaining: Duration, certificate: &[u8]) {
        self.opened(Kind::Control, &leases(remaining, &[certificate.to_vec()]));
        let id = *self.checks().last().unwrap();
        let proven = Proven { ip: THEIRS, name: None, token: Token::default(), remaining };
        self.overlay(dht::Event::LeaseChecked { id, from: peer(), outcome: Ok(proven) });
    }

    fn takes_from_peer(&self) -> bool {
        let local = self.engine.snapshot();
        matches!(local.local.inbound(&peer(), &packet(THEIRS, OURS)), Inbound::Deliver(_))
    }
}

fn peer() -> PeerId {
    key(2).peer_id()
}

fn dhcp_claim(mac: [u8; 6]) -> dhcp::Event {
    dhcp::Event::Claim {
        id: dhcp::RequestId(7),
        client: dhcp::ClientKey::from_ethernet(mac),
        mac,
        want: None,
        only_wanted: false,
        hold: dhcp::Hold::Offer,
        hostname: None,
    }
}

#[test]
fn a_first_packet_waits_for_its_route() {
    let mut lab = Lab::connected();
    lab.frame(THEIRS);
    let [(id, THEIRS)] = lab.resolves()[..] else { panic!("{:?}", lab.commands) };
    assert!(lab.heard.is_empty());
    let (token, certificate) = (Token::default(), vec![7; 100]);
    let (ip, owner, deciders) = (THEIRS, peer(), Box::default());
    let outcome = Resolution::Found { ip, owner, name: None, token, certificate, remaining: LEASE, deciders };
    lab.overlay(dht::Event::Resolved { id, outcome });
    assert_eq!(lab.heard, [(Kind::Packet, packet(OURS, THEIRS))]);
}

#[test]
fn an_unproven_source_is_asked_and_delivered_after_its_proof() {
    let mut lab = Lab::connected();
    lab.opened(Kind::Packet, &packet(THEIRS, OURS));
    assert_eq!(lab.heard, [(Kind::Control, [&[17][..], &THEIRS.octets()].concat())]);
    assert!(lab.frames.is_empty());
    lab.prove(LEASE, &certificate(THEIRS, 1));
    assert_eq!(lab.frames.len(), 1);
    assert_eq!(lab.frames[0][14..], packet(THEIRS, OURS));
    assert!(lab.takes_from_peer());
}

#[test]
fn an_address_whose_lease_ended_is_used_no_more() {
    let mut lab = Lab::connected();
    lab.pass(LEASE - secs(1));
    lab.prove(secs(7200), &certificate(THEIRS, 1));
    let snapshot = lab.engine.snapshot();
    assert!(snapshot.is_usable(&lab.now));
    lab.pass(secs(1));
    assert!(!snapshot.is_usable(&lab.now));
    // No timer has fired yet.
    lab.forget();
    lab.frame(THEIRS);
    assert!(lab.heard.is_empty());
    assert!(lab.resolves().is_empty());
    assert!(matches!(lab.events[..], [Event::AddressLost { ip: OURS, .. }, Event::StateChanged { .. }]));
    assert!(!lab.takes_from_peer());
}

#[test]
fn a_flood_of_certificates_is_counted_and_bounded() {
    let mut lab = Lab::connected();
    for message in 0..10 {
        let certificates: Vec<Vec<u8>> = (0..16).map(|n| certificate(THEIRS, message * 16 + n)).collect();
        lab.opened(Kind::Control, &leases(LEASE, &certificates));
    }
    assert_eq!(lab.checks().len(), 32);
    assert_eq!(lab.drops("lease-flood"), 160 - 32);
    lab.forget();
    lab.pass(secs(1));
    (0..10).for_each(|_| lab.opened(Kind::Control, &leases(LEASE, &[vec![0; 100], vec![0; 100]])));
    assert_eq!(lab.checks().len(), 8);
}

#[test]
fn what_was_proven_just_now_is_not_checked_again_and_lasts_no_longer_than_proven() {
    let mut lab = Lab::connected();
    let shown = certificate(THEIRS, 1);
    lab.prove(secs(20), &shown);
    lab.wait(secs(10));
    lab.forget();
    lab.opened(Kind::Control, &leases(LEASE, std::slice::from_ref(&shown)));
    assert!(lab.checks().is_empty());
    assert!(lab.takes_from_peer());
    // A renewed one is another.
    lab.opened(Kind::Control, &leases(LEASE, &[certificate(THEIRS, 2)]));
    assert_eq!(lab.checks().len(), 1);
    lab.wait(secs(10));
    assert!(!lab.takes_from_peer());

    // A long lease is used for 600 s from when it was last shown, and checked again after 60.
    lab.prove(secs(3000), &shown);
    lab.wait(secs(30));
    lab.forget();
    lab.opened(Kind::Control, &leases(secs(2970), std::slice::from_ref(&shown)));
    lab.wait(secs(580));
    assert!(lab.checks().is_empty());
    assert!(lab.takes_from_peer());
    lab.opened(Kind::Control, &leases(secs(2390), std::slice::from_ref(&shown)));
    assert_eq!(lab.checks().len(), 1);
    lab.wait(secs(20));
    assert!(!lab.takes_from_peer());
}

#[test]
fn what_an_expelled_peer_had_proven_counts_no_more() {
    let mut lab = Lab::connected();
    let shown = certificate(THEIRS, 1);
    lab.prove(LEASE, &shown);
    lab.overlay(dht::Event::PeerDenied { peer: peer() });
    assert!(!lab.takes_from_peer());
    lab.forget();
    lab.opened(Kind::Control, &leases(LEASE, &[shown]));
    assert_eq!(lab.checks().len(), 1);
}

#[test]
fn that_the_wanted_name_is_taken_is_told_once() {
    let mut lab = Lab::new(Addressing::Own, Hostname::Explicit("printer".into()));
    lab.grant_address();
    let refused = |lab: &Lab| {
        let why = |event: &Event| if let Event::NameRefused { why } = event { Some(why.clone()) } else { None };
        lab.events.iter().filter_map(why).collect::<Vec<String>>()
    };
    let taken = || Err(ClaimError::Taken { owner: peer(), remaining: LEASE });
    for answers in 1..4 {
        let claims = lab.name_claims();
        assert_eq!(claims.len(), answers);
        let id = *claims.last().unwrap();
        lab.overlay(dht::Event::Claimed { id, outcome: taken() });
        lab.wait(secs(60));
    }
    assert_eq!(refused(&lab).len(), 1);
    assert!(refused(&lab)[0].contains("printer"));
    // Once it was ours, its loss is news.
    let until = OwnerTime(lab.now.owner.0 + LEASE);
    let id = *lab.name_claims().last().unwrap();
    lab.overlay(dht::Event::Claimed { id, outcome: Ok(lease(LeaseKey::Name("printer".into()), until)) });
    lab.overlay(dht::Event::LeaseLost { key: LeaseKey::Name("printer".into()), why: "expired" });
    lab.wait(secs(5));
    let id = *lab.name_claims().last().unwrap();
    lab.overlay(dht::Event::Claimed { id, outcome: taken() });
    assert_eq!(refused(&lab).len(), 2);
}

#[test]
fn who_left_claims_nothing_any_more() {
    let mut lab = Lab::connected();
    lab.engine.handle_request(RequestId(1), Request::Leave, lab.now);
    lab.settle();
    let Some(Command::Leave { id }) = lab.commands.pop() else { panic!("{:?}", lab.commands) };
    lab.overlay(dht::Event::Left { id });
    assert!(lab.events.iter().any(|event| matches!(event, Event::Reply { reply: Reply::Left, .. })));
    assert_eq!(lab.engine.status(lab.now).state, State::Joined);
    lab.forget();
    (0..100).for_each(|_| lab.wait(secs(1)));
    let claim = dhcp_claim([2, 9, 9, 9, 9, 9]);
    lab.engine.dhcp_event(claim, lab.now);
    lab.settle();
    assert!(lab.claims().is_empty() && lab.name_claims().is_empty(), "{:?}", lab.commands);
}

#[test]
fn who_leaves_stops_using_its_addresses_before_it_gives_them_back() {
    let mut lab = Lab::connected();
    assert!(lab.engine.hosts.own().is_some());
    lab.engine.handle_request(RequestId(1), Request::Leave, lab.now);
    assert!(lab.engine.hosts.own().is_none() && lab.engine.status(lab.now).hosts.is_empty());
    lab.settle();
    assert!(lab.events.iter().any(|event| matches!(event, Event::AddressLost { .. })));
    assert!(matches!(lab.commands.last(), Some(Command::Leave { .. })), "{:?}", lab.commands);
}

#[test]
fn what_is_granted_to_who_left_meanwhile_is_given_back() {
    let mut lab = Lab::new(Addressing::Own, Hostname::Default("node".into()));
    lab.engine.handle_request(RequestId(1), Request::Leave, lab.now);
    lab.settle();
    let Some(Command::Leave { id }) = lab.commands.pop() else { panic!("{:?}", lab.commands) };
    lab.overlay(dht::Event::Left { id });
    lab.grant_address();
    assert!(matches!(lab.commands.last(), Some(Command::ReleaseAddress { ip: OURS, .. })));
    assert!(lab.engine.hosts.own().is_none());
}

#[test]
fn an_address_that_was_lost_is_shown_as_lost_until_there_is_one_again() {
    let mut lab = Lab::new(Addressing::Own, Hostname::Default("node".into()));
    assert_eq!(lab.engine.status(lab.now).state, State::Claiming);
    lab.grant_address();
    assert_eq!(lab.engine.status(lab.now).state, State::Bound);
    lab.overlay(dht::Event::LeaseLost { key: LeaseKey::Address(OURS), why: "taken by another" });
    let status = lab.engine.status(lab.now);
    assert_eq!(status.state, State::Lost);
    assert_eq!(status.cause.unwrap(), "10.70.0.10 is no longer ours: taken by another");
    lab.wait(secs(1));
    assert_eq!(lab.engine.status(lab.now).state, State::Lost);
    lab.grant_address();
    let status = lab.engine.status(lab.now);
    assert_eq!((status.state, status.cause), (State::Bound, None));
}

#[test]
fn an_address_that_is_granted_after_its_claim_was_given_up_is_taken_up_at_once() {
    let mut lab = Lab::new(Addressing::Own, Hostname::Default("node".into()));
    lab.grant_address();
    lab.overlay(dht::Event::LeaseLost { key: LeaseKey::Address(OURS), why: "it ran out" });
    let before = lab.claims().len();
    let until = OwnerTime(lab.now.owner.0 + LEASE);
    let foreign = lease(LeaseKey::Address(OURS), until);
    lab.overlay(dht::Event::LeaseChanged { lease: foreign.clone() });
    assert_eq!(lab.claims().len(), before, "a lease of a client behind the TAP is no concern of this machine");
    let lease = Lease { client: lab.engine.self_client(), ..foreign };
    lab.overlay(dht::Event::LeaseChanged { lease });
    assert_eq!(lab.claims().len(), before + 1);
    lab.grant_address();
    assert!(lab.engine.hosts.own().is_some());
}

#[test]
fn a_claim_that_found_no_room_is_made_later() {
    let now = origin();
    let config = config(Addressing::Own, Hostname::Default("node".into()));
    let mut engine = Engine::new(config, tunnel(1, now), [9; 32], now);
    let crowd = (0..8192).map(|n| ((1 << 40) + n, Pending::Route { ip: THEIRS }));
    engine.pending.extend(crowd);
    engine.start(now);
    let claims = |engine: &mut Engine| {
        std::iter::from_fn(|| engine.poll_output())
            .filter(|output| matches!(output, Output::Command(Command::ClaimAddress { .. })))
            .count()
    };
    assert_eq!((claims(&mut engine), engine.drops["too-many-commands"]), (0, 1));
    engine.pending.clear();
    let (at, _) = engine.poll_timeout(now).unwrap();
    engine.handle_timeout(Now { mono: at.max(now.mono + secs(1)), ..now });
    assert_eq!(claims(&mut engine), 1);
}

#[test]
fn that_a_machine_behind_the_tap_gets_no_address_is_counted_and_shown() {
    let mut lab = Lab::new(Addressing::Own, Hostname::Default("node".into()));
    lab.grant_address();
    lab.forget();
    let claim = dhcp_claim([2, 9, 9, 9, 9, 9]);
    lab.engine.dhcp_event(claim, lab.now);
    lab.settle();
    let id = lab.claims()[0];
    let why = "this member holds as much as its invite allows";
    lab.overlay(dht::Event::Claimed { id, outcome: Err(ClaimError::Refused(why)) });
    assert_eq!(lab.drops("dhcp-refused"), 1);
    assert!(lab.engine.status(lab.now).cause.unwrap().contains(why));
}
