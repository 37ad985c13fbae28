//! Several engines, the wire between them, and a register that the test plays: it checks no signatures, and otherwise
//! knows older tokens from newer ones and tells of it as the real one does.

use std::collections::{BTreeMap, BTreeSet};

use tunnel::NextHop;

use super::*;
use crate::fast::{self, Arrival, Datagrams, Run, Verdict};

/// Who was granted an address.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) owner: u8,
    pub(super) token: Token,
    pub(super) certificate: Vec<u8>,
}

pub(super) struct Party {
    pub(super) engine: Engine,
    /// Acts upon nothing that it is shown: an old program, or one that was tampered with.
    pub(super) deaf: bool,
    /// What its overlay has seen of each address.
    seen: BTreeMap<Ipv4Addr, (Token, PeerId)>,
    leases: BTreeMap<Ipv4Addr, Token>,
    pub(super) commands: Vec<Command>,
    pub(super) frames: Vec<Vec<u8>>,
    /// Does nothing, and hears nothing.
    pub(super) paused: bool,
    /// By how much its clocks are behind: the machine was paused, and does not know.
    pub(super) behind: Duration,
}

pub(super) struct Parties {
    pub(super) now: Now,
    pub(super) all: BTreeMap<u8, Party>,
    /// What a quorum says.
    pub(super) register: BTreeMap<Ipv4Addr, Grant>,
    wire: Vec<(u8, u8, Vec<u8>)>,
    /// Between whom no datagram passes, the smaller number first.
    pub(super) apart: BTreeSet<(u8, u8)>,
}

pub(super) fn grant(owner: u8, ip: Ipv4Addr, round: u64) -> Grant {
    let op = Op {
        scope: Scope { incarnation: 0, shard: 0, view: 1 },
        kind: OpKind::Claim,
        key: LeaseKey::Address(ip),
        client: ClientId([0; 32]),
        op_seq: round,
        nonce: round,
        dur_ms: 3_600_000,
        hint: Hint::None,
        right: Right::None,
        deputies: Vec::new(),
    };
    let request = SignedOp::sign(&NamespaceId(NAMESPACE), &key(owner), op);
    let record = Record { request, dur_ms: 3_600_000, shadow_ms: 0 };
    let ballot = Ballot { view: 1, round, replica: 0 };
    let cert = LeaseCert { record, incarnation: 0, ballot, view_hash: [0; 32], votes: Vec::new() };
    Grant { owner, token: cert.token(), certificate: cert.to_bytes() }
}

pub(super) fn id(number: u8) -> PeerId {
    key(number).peer_id()
}

fn number_of(peer: &PeerId) -> Option<u8> {
    (1..10).find(|number| id(*number) == *peer)
}

impl Parties {
    /// Parties that know how to reach each other, without addresses.
    pub(super) fn new(numbers: &[u8]) -> Self {
        let now = origin();
        let mut parties =
            Self { now, all: BTreeMap::new(), register: BTreeMap::new(), wire: Vec::new(), apart: BTreeSet::new() };
        for number in numbers {
            let config = Config {
                identity: key(*number),
                instance: u64::from(*number),
                ..config(Addressing::Own, Hostname::Default("node".into()))
            };
            let mut engine = Engine::new(config, tunnel(*number, now), [*number; 32], now);
            engine.start(now);
            engine.handle_endpoints(vec![address(*number)], Vec::new(), now);
            let party = Party {
                engine,
                deaf: false,
                seen: BTreeMap::new(),
                leases: BTreeMap::new(),
                commands: Vec::new(),
                frames: Vec::new(),
                paused: false,
                behind: Duration::ZERO,
            };
            parties.all.insert(*number, party);
        }
        parties.settle();
        parties
    }

    pub(super) fn party(&mut self, number: u8) -> &mut Party {
        self.all.get_mut(&number).unwrap()
    }

    pub(super) fn now_of(&self, number: u8) -> Now {
        let behind = self.all[&number].behind;
        let mut now = self.now;
        now.mono -= behind;
        now.owner.0 -= behind;
        now
    }

    /// The register grants the address, and the party uses it.
    pub(super) fn own(&mut self, number: u8, ip: Ipv4Addr, round: u64) {
        let grant = self.enter(number, ip, round);
        let now = self.now_of(number);
        let party = self.party(number);
        let id = CommandId((1 << 50) + round);
        party.engine.pending.insert(id.0, Pending::OwnAddress);
        let lease = Lease {
            key: LeaseKey::Address(ip),
            client: ClientId([0; 32]),
            token: grant.token,
            usable_until: OwnerTime(now.owner.0 + LEASE),
            certificate: grant.certificate,
        };
        party.leases.insert(ip, grant.token);
        party.engine.handle_overlay(dht::Event::Claimed { id, outcome: Ok(lease) }, now);
        self.settle();
    }

    /// The register grants the address to somebody.
    pub(super) fn enter(&mut self, owner: u8, ip: Ipv4Addr, round: u64) -> Grant {
        let grant = grant(owner, ip, round);
        self.register.insert(ip, grant.clone());
        grant
    }

    pub(super) fn overlay(&mut self, number: u8, event: dht::Event) {
        let now = self.now_of(number);
        self.party(number).engine.handle_overlay(event, now);
        self.settle();
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.owner.0 += time;
        self.now.replica.0 += time;
        for number in self.all.keys().copied().collect::<Vec<_>>() {
            if self.all[&number].paused {
                self.party(number).behind += time;
                continue;
            }
            let now = self.now_of(number);
            self.party(number).engine.handle_timeout(now);
        }
        self.settle();
    }

    /// The guest behind a party's TAP sends a packet.
    pub(super) fn send(&mut self, number: u8, from: Ipv4Addr, to: Ipv4Addr) {
        let now = self.now_of(number);
        let frame = frame(from, to);
        let mut datagrams = Datagrams::default();
        let engine = &mut self.party(number).engine;
        let snapshot = engine.snapshot();
        let usable = snapshot.is_usable(&now);
        let verdict = if usable {
            fast::outbound(&snapshot, &mut frame.clone(), Offload::default(), false, &mut datagrams)
        } else {
            Verdict::Control
        };
        if verdict == Verdict::Control {
            engine.handle_frame(&frame, Offload::default(), now);
        }
        self.put(number, datagrams);
        self.settle();
    }

    fn put(&mut self, from: u8, mut datagrams: Datagrams) {
        let reached = |to: NextHop| (1..10).find(|other| NextHop::Udp(address(*other)) == to).unwrap();
        datagrams.drain(|Run { to, bytes, segment: size, .. }| {
            let datagrams = bytes.chunks(size).map(|datagram| (from, reached(to), datagram.to_vec()));
            self.wire.extend(datagrams);
        });
    }

    /// A tampered program seals whatever it likes.
    pub(super) fn forge(&mut self, from: u8, to: u8, kind: Kind, payload: &[u8]) {
        let now = self.now_of(from);
        self.party(from).engine.tunnel.send(id(to), kind, payload, now.mono);
        // Anything that makes the engine look.
        self.party(from).engine.handle_endpoints(vec![address(from)], Vec::new(), now);
        self.settle();
    }

    pub(super) fn forget(&mut self) {
        for party in self.all.values_mut() {
            party.commands.clear();
            party.frames.clear();
        }
    }

    /// Packets that reached the guest of this party, by source and destination.
    pub(super) fn arrived(&self, number: u8) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let address = |bytes: &[u8]| Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap());
        let ipv4 = self.all[&number].frames.iter().filter(|frame| frame[12..14] == [8, 0]);
        ipv4.map(|frame| (address(&frame[26..30]), address(&frame[30..34]))).collect()
    }

    pub(super) fn drops(&self, number: u8, reason: &str) -> u64 {
        let status = self.all[&number].engine.status(self.now_of(number));
        status.drops.get(reason).copied().unwrap_or(0)
    }

    pub(super) fn has(&self, number: u8, ip: Ipv4Addr) -> bool {
        self.all[&number].engine.hosts.bound.contains_key(&ip)
    }

    pub(super) fn count(&self, number: u8, pick: impl Fn(&Command) -> bool) -> usize {
        self.all[&number].commands.iter().filter(|command| pick(command)).count()
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            let mut idle = true;
            for number in self.all.keys().copied().collect::<Vec<_>>() {
                while let Some(output) = self.party(number).engine.poll_output() {
                    idle = false;
                    self.act(number, output);
                }
            }
            for (from, to, datagram) in std::mem::take(&mut self.wire) {
                idle = false;
                self.receive(from, to, datagram);
            }
            if idle {
                return;
            }
        }
        panic!("the parties never come to rest");
    }

    fn act(&mut self, number: u8, output: Output) {
        match output {
            Output::Frame { frame, .. } => self.party(number).frames.push(frame),
            // One that only opens an edge arrives nowhere.
            Output::Transmit { ttl: Some(_), .. } => {}
            Output::Transmit { to, datagram, ttl: None } => {
                let to = (1..10).find(|other| NextHop::Udp(address(*other)) == to);
                self.wire.extend(to.map(|to| (number, to, datagram)));
            }
            Output::Command(command) => {
                self.party(number).commands.push(command.clone());
                for event in self.obey(number, command) {
                    let now = self.now_of(number);
                    self.party(number).engine.handle_overlay(event, now);
                }
            }
            Output::Event(_) => {}
        }
    }

    /// As the daemon's inbound thread.
    fn receive(&mut self, from: u8, to: u8, mut datagram: Vec<u8>) {
        let now = self.now_of(to);
        let apart = self.apart.contains(&(from.min(to), from.max(to)));
        let Some(party) = self.all.get_mut(&to).filter(|party| !party.paused && !apart) else { return };
        let snapshot = party.engine.snapshot();
        if tunnel::receiver_index(&datagram).is_none() || !snapshot.is_usable(&now) {
            return party.engine.handle_datagram(address(from), &datagram, now);
        }
        let mut carried = Datagrams::default();
        let received = fast::inbound(
            &snapshot,
            address(from).into(),
            bridge::Ecn::NotCapable,
            &mut datagram,
            now.mono,
            &mut carried,
        );
        match received.arrival {
            Arrival::Frame { header, packet, .. } => party.frames.push([&header, packet].concat()),
            Arrival::Opened { peer, kind, payload } => {
                let payload = payload.to_vec();
                party.engine.handle_opened(peer, kind, &payload, now);
            }
            Arrival::Sealed { from, datagram } => {
                let datagram = datagram.to_vec();
                party.engine.handle_datagram(from, &datagram, now);
            }
            Arrival::Carried => self.put(to, carried),
            Arrival::Dropped(_) => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what else an engine commands is of no interest here")]
    fn obey(&mut self, number: u8, command: Command) -> Vec<dht::Event> {
        let remaining = LEASE;
        match command {
            Command::ReserveHandshakes { upto } => vec![dht::Event::HandshakesReserved { upto }],
            Command::Connect { peer } => {
                let Some(other) = number_of(&peer).filter(|other| self.all.contains_key(other)) else {
                    return Vec::new();
                };
                let keys_of = |n: u8| (id(n), keys(n));
                let ((me, mine), (peer, theirs)) = (keys_of(number), keys_of(other));
                let event = |peer, keys: tunnel::PeerKeys| {
                    let (x25519, credential_hash) = (keys.x25519, keys.credential_hash);
                    dht::Event::PeerKeys { peer, x25519, credential_hash }
                };
                let now = self.now_of(other);
                self.party(other).engine.handle_overlay(event(me, mine), now);
                vec![event(peer, theirs)]
            }
            Command::Signal { to, message } => {
                if let Some(other) = number_of(&to).filter(|other| self.all.contains_key(other)) {
                    let now = self.now_of(other);
                    let from = id(number);
                    self.party(other).engine.handle_overlay(dht::Event::Signal { from, message }, now);
                }
                Vec::new()
            }
            Command::ResolveAddress { id: command, ip } | Command::ReadAddress { id: command, ip } => {
                let Some(grant) = self.register.get(&ip).cloned() else {
                    return vec![dht::Event::Resolved { id: command, outcome: Resolution::Absent }];
                };
                let owner = id(grant.owner);
                let mut events = self.note(number, ip, &grant);
                let (token, certificate) = (grant.token, grant.certificate);
                let deciders = Box::default();
                let outcome = Resolution::Found { ip, owner, name: None, token, certificate, remaining, deciders };
                events.push(dht::Event::Resolved { id: command, outcome });
                events
            }
            Command::CheckLease { id: command, from, certificate, remaining } => {
                let outcome = self.check(number, from, &certificate);
                let (mut events, outcome) = match outcome {
                    Ok((ip, grant)) => {
                        let proven = Proven { ip, name: None, token: grant.token, remaining };
                        (self.note(number, ip, &grant), Ok(proven))
                    }
                    Err(error) => (Vec::new(), Err(error)),
                };
                events.push(dht::Event::LeaseChecked { id: command, from, outcome });
                events
            }
            Command::Supersede { certificate } if !self.all[&number].deaf => {
                let Ok(cert) = LeaseCert::from_bytes(&certificate) else { return Vec::new() };
                let owner = cert.record.owner().peer_id().and_then(|peer| number_of(&peer)).unwrap();
                let (ip, token) = (cert.address().unwrap(), cert.token());
                self.note(number, ip, &Grant { owner, token, certificate })
            }
            _ => Vec::new(),
        }
    }

    fn check(&self, number: u8, from: PeerId, certificate: &[u8]) -> Result<(Ipv4Addr, Grant), dht::CertError> {
        let cert = LeaseCert::from_bytes(certificate).map_err(|_| dht::CertError::Malformed)?;
        let (ip, token) = (cert.address().unwrap(), cert.token());
        if cert.record.owner().peer_id() != Some(from) {
            return Err(dht::CertError::NotOwner);
        }
        if self.all[&number].seen.get(&ip).is_some_and(|(seen, _)| token < *seen) {
            return Err(dht::CertError::Superseded);
        }
        Ok((ip, Grant { owner: number_of(&from).unwrap(), token, certificate: certificate.to_vec() }))
    }

    /// What a party's overlay makes of a verified certificate.
    fn note(&mut self, number: u8, ip: Ipv4Addr, grant: &Grant) -> Vec<dht::Event> {
        let owner = id(grant.owner);
        let mut events = Vec::new();
        let party = self.party(number);
        let before = party.seen.get(&ip).copied();
        if before.is_none_or(|(token, _)| grant.token > token) {
            party.seen.insert(ip, (grant.token, owner));
            if before.is_some_and(|(_, known)| known != owner) {
                let (token, certificate) = (grant.token, grant.certificate.clone());
                events.push(dht::Event::Superseded { ip, owner, token, certificate });
            }
        }
        let lost = party.leases.get(&ip).is_some_and(|token| grant.token > *token && grant.owner != number);
        if lost && !party.deaf {
            party.leases.remove(&ip);
            let key = LeaseKey::Address(ip);
            events.push(dht::Event::LeaseLost { key, why: "somebody else was granted it" });
        }
        events
    }
}
