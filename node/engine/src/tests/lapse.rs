//! A lease that is over is used for nothing, from the first moment on: no timer has fired yet in any of these.

use super::*;

/// A machine behind the TAP other than our own.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 30);
const GUEST_MAC: [u8; 6] = [2, 9, 9, 9, 9, 9];
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 1);

type End = fn(&mut Lab);

/// How a lease comes to its end while nobody looks.
const ENDS: [(&str, End); 3] = [
    ("frozen", |lab| lab.pass(LEASE)),
    // The owner's clock counts it, the monotonic one does not.
    ("asleep", |lab| {
        lab.now.owner.0 += secs(60);
        lab.now.jumps += 1;
    }),
    ("restored, or its clock set", |lab| {
        lab.now.unix_s += 3600;
        lab.now.jumps += 1;
    }),
];

/// An engine whose own address, and its name, are about to end.
fn each_end(mut check: impl FnMut(&str, &mut Lab)) {
    for (how, end) in ENDS {
        let mut lab = Lab::connected();
        lab.prove(secs(7200), &certificate(THEIRS, 1));
        lab.grant_name("node", LEASE);
        lab.forget();
        end(&mut lab);
        check(how, &mut lab);
    }
}

impl Lab {
    fn grant_name(&mut self, name: &str, dur: Duration) {
        if self.name_claims().is_empty() {
            self.engine.claim_own_name(self.now);
            self.settle();
        }
        let key = LeaseKey::Name(name.into());
        let outcome = Ok(lease(key, OwnerTime(self.now.owner.0 + dur)));
        let id = self.engine.pending.iter().find(|(_, why)| matches!(why, Pending::OwnName { .. })).map(|(id, _)| *id);
        self.overlay(dht::Event::Claimed { id: CommandId(id.unwrap()), outcome });
    }

    /// Binds a DHCP client's address.
    fn bind_guest(&mut self, dur: Duration) {
        let lease = lease(LeaseKey::Address(GUEST), OwnerTime(self.now.owner.0 + dur));
        self.engine.hosts.leases.insert(GUEST, lease.clone());
        let host =
            crate::hosts::Host { mac: GUEST_MAC, lease, name: None, own: false, origin: crate::hosts::Origin::Dhcp };
        self.engine.bind(GUEST, host, self.now);
        self.engine.handle_endpoints(Vec::new(), Vec::new(), self.now);
        self.settle();
        self.forget();
    }

    /// The machine behind the TAP asks at which hardware address `target` is.
    fn arp(&mut self, (mac, ip): ([u8; 6], Ipv4Addr), target: Ipv4Addr) {
        let head = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        let frame = [&head[..], &mac, &ip.octets(), &[0; 6], &target.octets()].concat();
        self.engine.handle_frame(&frame, Offload::default(), self.now);
        self.settle();
    }

    fn udp(&mut self, (mac, from): ([u8; 6], Ipv4Addr), (to, port): (Ipv4Addr, u16), payload: &[u8]) {
        let mut bytes = packet(from, to)[..20].to_vec();
        let udp = u16::try_from(8 + payload.len()).unwrap();
        bytes[2..4].copy_from_slice(&(20 + udp).to_be_bytes());
        bytes[10..12].fill(0);
        let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        bytes[10..12].copy_from_slice(&(!sum).to_be_bytes());
        let source: u16 = if port == 67 { 68 } else { 5000 };
        let ports = [source.to_be_bytes(), port.to_be_bytes(), udp.to_be_bytes(), [0, 0]].concat();
        let to_mac = if to.is_broadcast() { [0xff; 6] } else { GATEWAY_MAC };
        let frame = [&to_mac[..], &mac, &[8, 0], &bytes, &ports, payload].concat();
        self.engine.handle_frame(&frame, Offload::default(), self.now);
        self.settle();
    }

    /// Asks our DNS server for the address of a name in the zone.
    fn dns(&mut self, asker: ([u8; 6], Ipv4Addr), name: &str) {
        let labels: Vec<u8> = [name, "lab", "internal", ""]
            .iter()
            .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
            .collect();
        let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &labels, &[0, 1, 0, 1]].concat();
        self.udp(asker, (SERVICE, 53), &question);
    }
}

#[test]
fn nothing_is_forwarded_from_an_address_that_has_ended() {
    each_end(|how, lab| {
        assert!(!lab.engine.snapshot().is_usable(&lab.now), "{how}");
        lab.frame(THEIRS);
        assert!(lab.heard.iter().all(|(kind, _)| *kind == Kind::Control), "{how}");
        assert!(lab.resolves().is_empty(), "{how}");
        assert!(lab.events.iter().any(|event| matches!(event, Event::AddressLost { ip: OURS, .. })), "{how}");
    });
}

#[test]
fn nothing_is_delivered_to_an_address_that_has_ended() {
    each_end(|how, lab| {
        let me = key(1).peer_id();
        // Sealed, as the packet threads hand it over from a snapshot that is not usable...
        lab.peer.send(me, Kind::Packet, &packet(THEIRS, OURS), lab.now.mono);
        lab.settle();
        assert!(lab.frames.is_empty(), "{how}");
        assert!(lab.engine.hosts.own().is_none(), "{how}");
        // ...and opened, if the snapshot was fetched before.
        lab.opened(Kind::Packet, &packet(THEIRS, OURS));
        assert!(lab.frames.is_empty(), "{how}");
    });
}

#[test]
fn no_arp_question_is_answered_for_an_address_that_has_ended() {
    each_end(|how, lab| {
        lab.arp((TAP_MAC, OURS), THEIRS);
        assert!(lab.frames.is_empty(), "{how}");
    });
    // While the lease runs there is an answer.
    let mut lab = Lab::connected();
    lab.prove(secs(7200), &certificate(THEIRS, 1));
    lab.forget();
    lab.arp((TAP_MAC, OURS), THEIRS);
    assert_eq!(lab.frames.len(), 1);
    // For a peer's address the same, when the peer's proof has ended.
    let mut lab = Lab::connected();
    lab.prove(secs(20), &certificate(THEIRS, 1));
    lab.forget();
    lab.pass(secs(20));
    lab.arp((TAP_MAC, OURS), THEIRS);
    assert!(lab.frames.is_empty());
    assert_eq!(lab.resolves().len(), 1);
}

#[test]
fn no_name_is_answered_with_an_address_that_has_ended() {
    let asked = |lab: &Lab| lab.commands.iter().any(|command| matches!(command, Command::ResolveName { .. }));
    let mut lab = Lab::connected();
    lab.grant_name("node", LEASE * 2);
    lab.bind_guest(LEASE * 2);
    lab.dns((GUEST_MAC, GUEST), "node");
    assert!(lab.frames.len() == 1 && !asked(&lab));
    lab.pass(LEASE);
    lab.forget();
    lab.dns((GUEST_MAC, GUEST), "node");
    assert!(lab.frames.is_empty() && asked(&lab));
}

#[test]
fn no_name_is_answered_for_whose_own_lease_has_ended() {
    let asked = |lab: &Lab| lab.commands.iter().any(|command| matches!(command, Command::ResolveName { .. }));
    let mut lab = Lab::connected();
    lab.grant_name("node", LEASE / 2);
    lab.dns((TAP_MAC, OURS), "node");
    assert!(lab.frames.len() == 1 && !asked(&lab));
    lab.pass(LEASE / 2);
    lab.forget();
    lab.dns((TAP_MAC, OURS), "node");
    assert!(lab.frames.is_empty() && asked(&lab));
    // It was renewed meanwhile.
    let mut lab = Lab::connected();
    lab.grant_name("node", LEASE / 2);
    let until = OwnerTime(lab.now.owner.0 + LEASE);
    lab.overlay(dht::Event::LeaseChanged { lease: lease(LeaseKey::Name("node".into()), until) });
    lab.pass(LEASE / 2);
    lab.forget();
    lab.dns((TAP_MAC, OURS), "node");
    assert!(lab.frames.len() == 1 && !asked(&lab));
}

#[test]
fn no_dhcp_client_is_told_that_it_has_an_address_that_has_ended() {
    let request = |ip: Ipv4Addr| {
        let head =
            [&[1, 1, 6, 0, 0, 0, 0, 9, 0, 0, 0, 0][..], &ip.octets(), &[0; 12], &GUEST_MAC, &[0; 10 + 192]].concat();
        [&head[..], &[0x63, 0x82, 0x53, 0x63, 53, 1, 3, 255]].concat()
    };
    let acks = |lab: &Lab| {
        let ack = |frame: &Vec<u8>| frame.windows(3).any(|option| option == [53, 1, 5]);
        lab.frames.iter().filter(|frame| ack(frame)).count()
    };
    for (how, end) in ENDS {
        let mut lab = Lab::connected();
        lab.bind_guest(LEASE);
        end(&mut lab);
        lab.udp((GUEST_MAC, GUEST), (SERVICE, 67), &request(GUEST));
        assert_eq!(acks(&lab), 0, "{how}");
        assert!(lab.engine.hosts.bound.is_empty(), "{how}");
    }
}

#[test]
fn a_peers_packets_are_taken_no_longer_than_it_has_proven() {
    let mut lab = Lab::connected();
    lab.prove(secs(20), &certificate(THEIRS, 1));
    assert!(lab.takes_from_peer() && lab.engine.snapshot().is_usable(&lab.now));
    lab.forget();
    lab.pass(secs(20));
    assert!(!lab.engine.snapshot().is_usable(&lab.now));
    lab.opened(Kind::Packet, &packet(THEIRS, OURS));
    assert!(lab.frames.is_empty() && !lab.takes_from_peer());
    assert!(lab.engine.snapshot().is_usable(&lab.now));
    // After a sleep nobody's proof counts, however long it was to last.
    let mut lab = Lab::connected();
    lab.prove(secs(3000), &certificate(THEIRS, 1));
    lab.now.jumps += 1;
    lab.opened(Kind::Packet, &packet(THEIRS, OURS));
    assert!(lab.frames.is_empty());
    assert_eq!(lab.engine.bridge.local().route(THEIRS), None);
}

#[test]
fn what_lapsed_in_a_sleep_is_claimed_again() {
    let mut lab = Lab::connected();
    lab.now.jumps += 1;
    lab.wait(secs(0));
    assert!(lab.engine.hosts.own().is_none() && lab.claims().is_empty());
    lab.wait(secs(1));
    lab.grant_address();
    assert_eq!(lab.engine.status(lab.now).state, State::Bound);
    assert!(lab.engine.snapshot().is_usable(&lab.now));
}
