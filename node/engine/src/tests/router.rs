//! A router's engine: several machines on its segment, none of which knows of it.

use bridge::Outbound;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use super::*;
use crate::Mode;
use crate::hosts::Origin;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 1);
const STATIC_MAC: [u8; 6] = [2, 5, 5, 5, 5, 5];
const STATIC_IP: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 55);

/// A router without an address of its own, so that all commands are for hosts.
fn router() -> Lab {
    let mut lab =
        Lab::with(Config { mode: Mode::Router, ..config(Addressing::Clients, Hostname::Default("router".into())) });
    lab.forget();
    lab
}

fn mac(n: u8) -> [u8; 6] {
    [2, 9, 9, 9, 9, n]
}

fn arp(operation: u8, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &mac, &[8, 6]].concat();
    let packet = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac, &sender.octets(), &[0; 6], &target.octets()].concat();
    [ethernet, packet].concat()
}

fn dhcp(mac: [u8; 6], kind: DhcpMessageType, ip: Option<Ipv4Addr>, server: bool) -> Vec<u8> {
    let in_use = ip.filter(|_| kind == DhcpMessageType::Release);
    let repr = DhcpRepr {
        message_type: kind,
        transaction_id: u32::from(mac[5]) + 1,
        secs: 0,
        client_hardware_address: EthernetAddress(mac),
        client_ip: in_use.unwrap_or(Ipv4Addr::UNSPECIFIED),
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: true,
        requested_ip: ip.filter(|_| in_use.is_none()),
        client_identifier: None,
        server_identifier: server.then_some(SERVICE),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
    udp_broadcast(mac, &bytes)
}

/// From port 68 to 67, without a checksum of UDP.
fn udp_broadcast(mac: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let length = |extra: usize| u16::try_from(payload.len() + extra).unwrap().to_be_bytes();
    let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    header[2..4].copy_from_slice(&length(28));
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    [&[0xff; 6][..], &mac, &[8, 0], &header, &[0, 68, 0, 67], &length(8), &[0, 0], payload].concat()
}

impl Lab {
    fn hear(&mut self, frame: &[u8]) {
        self.engine.handle_frame(frame, Offload::default(), self.now);
        self.settle();
    }

    /// Takes out the claims that are under way, and answers each with a lease of what it wants, or of `or`.
    fn grant_all(&mut self, or: Ipv4Addr, lasting: Duration) -> Vec<(Ipv4Addr, ClientId)> {
        let mut granted = Vec::new();
        for command in std::mem::take(&mut self.commands) {
            let Command::ClaimAddress { id, client, want, .. } = command else {
                self.commands.push(command);
                continue;
            };
            let ip = want.unwrap_or(or);
            let until = OwnerTime(self.now.owner.0 + lasting);
            let lease = Lease { client, ..lease(LeaseKey::Address(ip), until) };
            // As the register tells it: first that there is a lease, then whose claim that was.
            self.overlay(dht::Event::LeaseChanged { lease: lease.clone() });
            self.overlay(dht::Event::Claimed { id, outcome: Ok(lease) });
            granted.push((ip, client));
        }
        granted
    }

    /// DISCOVER to ACK.
    fn lease_by_dhcp(&mut self, n: u8) -> Ipv4Addr {
        let ip = Ipv4Addr::new(10, 70, 0, 100 + n);
        self.hear(&dhcp(mac(n), DhcpMessageType::Discover, None, false));
        self.grant_all(ip, secs(60));
        self.hear(&dhcp(mac(n), DhcpMessageType::Request, Some(ip), true));
        self.grant_all(ip, LEASE);
        assert_eq!(self.origin(ip), Some(Origin::Dhcp));
        ip
    }

    fn origin(&self, ip: Ipv4Addr) -> Option<Origin> {
        self.engine.hosts.bound.get(&ip).map(|host| host.origin)
    }

    /// The ARP questions that were sent since this was asked last.
    fn questions(&mut self) -> Vec<Ipv4Addr> {
        let frames = std::mem::take(&mut self.frames);
        let asked = frames.iter().filter(|frame| frame[12..14] == [8, 6] && frame[20..22] == [0, 1]);
        let asked = asked.filter(|frame| frame[28..32] == SERVICE.octets());
        asked.map(|frame| Ipv4Addr::new(frame[38], frame[39], frame[40], frame[41])).collect()
    }

    /// Lets time pass, stopping wherever the engine wants to be called.
    fn live(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some((at, _)) = self.engine.poll_timeout(self.now).filter(|(at, _)| *at <= end) {
            let step = at.saturating_duration_since(self.now.mono);
            self.wait(step.max(Duration::from_millis(1)));
        }
        let rest = end.saturating_duration_since(self.now.mono);
        self.wait(rest);
    }

    fn released(&self, ip: Ipv4Addr) -> bool {
        self.commands.iter().any(|command| matches!(command, Command::ReleaseAddress { ip: gone, .. } if *gone == ip))
    }
}

#[test]
fn each_machine_has_a_lease_of_its_own_and_may_send_from_nothing_else() {
    let mut lab = router();
    let ips: Vec<Ipv4Addr> = (1..=4).map(|n| lab.lease_by_dhcp(n)).collect();
    let status = lab.engine.status(lab.now);
    assert_eq!((status.mode.as_str(), status.hosts.len()), ("router", 4));
    assert!(status.hosts.iter().all(|host| host.origin == "dhcp"));
    let local = lab.engine.snapshot();
    for (n, ip) in (1..=4).zip(&ips) {
        for (other, from) in (1..=4).zip(&ips) {
            let frame = [&GATEWAY_MAC[..], &mac(n), &[8, 0], &packet(*from, THEIRS)].concat();
            let forged = matches!(local.local.outbound(&frame), Outbound::Drop(_));
            assert_eq!(forged, other != n, "{n} as {from}, which is {ip}'s neighbour");
        }
    }
}

#[test]
fn a_released_address_is_given_back_at_once() {
    let mut lab = router();
    let ip = lab.lease_by_dhcp(1);
    lab.hear(&dhcp(mac(1), DhcpMessageType::Release, Some(ip), true));
    assert!(lab.released(ip) && lab.origin(ip).is_none());
    assert!(lab.engine.segment.poll_timeout().is_none(), "nobody is asked for any more");
}

#[test]
fn a_client_that_forgets_to_renew_keeps_its_address_for_as_long_as_it_answers() {
    let mut lab = router();
    let ip = lab.lease_by_dhcp(1);
    lab.forget();
    lab.live(LEASE / 8 * 7 - secs(1));
    assert_eq!((lab.questions(), lab.claims().len()), (vec![], 0));
    lab.live(secs(1));
    assert_eq!(lab.questions(), [ip]);
    lab.hear(&arp(2, mac(1), ip, SERVICE));
    assert_eq!(lab.grant_all(ip, LEASE).len(), 1);
    // DHCP ends; the machine still answers.
    lab.live(LEASE / 8 + secs(1));
    assert!(lab.questions().contains(&ip));
    assert!(!lab.released(ip));
    lab.hear(&arp(2, mac(1), ip, SERVICE));
    lab.grant_all(ip, LEASE);
    assert_eq!(lab.origin(ip), Some(Origin::Kept));
    // It goes; its lease runs out at its end and not before.
    lab.live(LEASE - secs(10));
    assert_eq!(lab.origin(ip), Some(Origin::Kept));
    assert!(lab.questions().len() >= 3);
    lab.live(secs(20));
    assert_eq!(lab.origin(ip), None);
}

#[test]
fn a_client_that_is_gone_when_its_time_ends_is_let_go_after_three_questions() {
    let mut lab = router();
    let ip = lab.lease_by_dhcp(1);
    // The register's lease goes on, as after a renewal whose ACK was lost.
    lab.live(secs(100));
    let until = OwnerTime(lab.now.owner.0 + LEASE);
    lab.overlay(dht::Event::LeaseChanged { lease: lease(LeaseKey::Address(ip), until) });
    lab.forget();
    lab.live(LEASE - secs(100) - secs(1));
    lab.questions();
    assert_eq!(lab.origin(ip), Some(Origin::Dhcp));
    lab.live(secs(10));
    assert_eq!(lab.questions(), [ip; 3]);
    assert!(lab.released(ip) && lab.origin(ip).is_none());
}

#[test]
fn a_machine_with_a_static_address_is_claimed_for_and_renewed_while_it_answers() {
    let mut lab = router();
    lab.hear(&arp(1, STATIC_MAC, STATIC_IP, STATIC_IP));
    let [Command::ClaimAddress { want: Some(STATIC_IP), only_wanted: true, keep: false, .. }] = lab.commands[..] else {
        panic!("{:?}", lab.commands)
    };
    lab.grant_all(STATIC_IP, LEASE);
    let status = lab.engine.status(lab.now);
    assert_eq!((status.hosts[0].origin.as_str(), status.hosts[0].ip), ("static", STATIC_IP));
    let frame = [&GATEWAY_MAC[..], &STATIC_MAC, &[8, 0], &packet(STATIC_IP, THEIRS)].concat();
    assert_eq!(lab.engine.snapshot().local.outbound(&frame), Outbound::Control, "its first packet looks for a way");
    for _ in 0..3 {
        lab.live(LEASE / 2);
        assert_eq!(lab.questions(), [STATIC_IP]);
        lab.hear(&arp(2, STATIC_MAC, STATIC_IP, SERVICE));
        assert_eq!(lab.grant_all(STATIC_IP, LEASE).len(), 1);
    }
    lab.live(LEASE + secs(1));
    assert!(lab.origin(STATIC_IP).is_none(), "a machine that is gone leaks no lease");
}

#[test]
fn a_static_address_of_another_member_is_refused_told_and_defended() {
    let mut lab = router();
    lab.hear(&arp(1, STATIC_MAC, STATIC_IP, STATIC_IP));
    let [id] = lab.claims()[..] else { panic!("{:?}", lab.commands) };
    let outcome = Err(ClaimError::Taken { owner: peer(), remaining: LEASE });
    lab.overlay(dht::Event::Claimed { id, outcome });
    let defence = lab.frames.last().unwrap();
    assert_eq!((&defence[6..12], &defence[28..32]), (&GATEWAY_MAC[..], &STATIC_IP.octets()[..]));
    let [crate::TurnedAwayStatus { ip: STATIC_IP, why, .. }] = &lab.engine.status(lab.now).turned_away[..] else {
        panic!("{:?}", lab.engine.status(lab.now).turned_away)
    };
    assert_eq!(why, "another member has the address");
    let told = |lab: &Lab| lab.events.iter().filter(|event| matches!(event, Event::TurnedAway { .. })).count();
    assert_eq!(told(&lab), 1);
    // It goes on for an hour: told once.
    for _ in 0..60 {
        lab.live(secs(60));
        lab.hear(&arp(1, STATIC_MAC, STATIC_IP, STATIC_IP));
        if let Some(id) = lab.claims().last().copied() {
            let outcome = Err(ClaimError::Taken { owner: peer(), remaining: LEASE });
            lab.overlay(dht::Event::Claimed { id, outcome });
        }
    }
    assert_eq!(told(&lab), 1);
    lab.live(secs(200));
    assert!(lab.engine.status(lab.now).turned_away.is_empty());
}

#[test]
fn a_router_that_may_hold_no_more_says_so_and_forwards_nothing() {
    let mut lab = router();
    lab.hear(&arp(1, STATIC_MAC, STATIC_IP, STATIC_IP));
    let [id] = lab.claims()[..] else { panic!("{:?}", lab.commands) };
    let why = "this member holds as much as its invite allows";
    lab.overlay(dht::Event::Claimed { id, outcome: Err(ClaimError::Refused(why)) });
    assert_eq!(lab.engine.status(lab.now).turned_away[0].why, why);
    assert!(lab.frames.is_empty(), "nobody else has it, so nobody defends it");
    let frame = [&GATEWAY_MAC[..], &STATIC_MAC, &[8, 0], &packet(STATIC_IP, THEIRS)].concat();
    assert!(matches!(lab.engine.snapshot().local.outbound(&frame), Outbound::Drop(_)));
}

#[test]
fn another_card_takes_a_hosts_place_only_once_the_host_is_silent() {
    let mut lab = router();
    lab.hear(&arp(1, STATIC_MAC, STATIC_IP, STATIC_IP));
    lab.grant_all(STATIC_IP, LEASE);
    for answers in [true, false] {
        lab.live(secs(11));
        lab.questions();
        lab.hear(&arp(1, mac(9), STATIC_IP, STATIC_IP));
        lab.wait(Duration::from_millis(1));
        assert_eq!(lab.questions(), [STATIC_IP]);
        if answers {
            lab.hear(&arp(2, STATIC_MAC, STATIC_IP, SERVICE));
        }
        lab.grant_all(STATIC_IP, LEASE);
        lab.live(secs(5));
        let now = if answers { STATIC_MAC } else { mac(9) };
        assert_eq!(lab.engine.hosts.bound[&STATIC_IP].mac, now, "answers: {answers}");
    }
}

#[test]
fn after_a_restart_hosts_are_found_by_asking_and_keep_their_addresses() {
    let mut lab = router();
    let ips: Vec<Ipv4Addr> = (0..40).map(|n| Ipv4Addr::new(10, 70, 0, 100 + n)).collect();
    for ip in &ips {
        let until = OwnerTime(lab.now.owner.0 + LEASE);
        lab.overlay(dht::Event::LeaseChanged { lease: lease(LeaseKey::Address(*ip), until) });
    }
    lab.live(secs(1));
    let mut asked = lab.questions();
    asked.sort();
    assert_eq!(asked, ips, "each is asked for once within a second");
    // One of them sleeps.
    for (n, ip) in (1..).zip(&ips[1..]) {
        lab.hear(&arp(2, mac(n), *ip, SERVICE));
        assert_eq!(lab.origin(*ip), Some(Origin::Kept));
    }
    assert!(lab.origin(ips[0]).is_none() && !lab.released(ips[0]));
    lab.live(secs(600));
    lab.hear(&arp(1, mac(0), ips[0], ips[1]));
    assert_eq!(lab.origin(ips[0]), Some(Origin::Kept), "it wakes up");
    // Nobody but its user gets what is only offered.
    lab.hear(&dhcp(mac(77), DhcpMessageType::Discover, None, false));
    let offered = Ipv4Addr::new(10, 70, 0, 9);
    lab.grant_all(offered, secs(60));
    lab.hear(&arp(1, STATIC_MAC, offered, offered));
    assert!(lab.origin(offered).is_none());
    assert_eq!(lab.drops("heard-before-bound"), 1);
}

#[test]
fn a_workstation_claims_for_nobody() {
    let mut lab = Lab::new(Addressing::Clients, Hostname::Default("node".into()));
    lab.forget();
    lab.hear(&arp(1, STATIC_MAC, STATIC_IP, STATIC_IP));
    let until = OwnerTime(lab.now.owner.0 + LEASE);
    lab.overlay(dht::Event::LeaseChanged { lease: lease(LeaseKey::Address(OURS), until) });
    lab.live(secs(10));
    assert!(lab.commands.is_empty() && lab.questions().is_empty());
}

#[test]
fn a_router_proves_sixteen_addresses_at_once_and_the_one_that_is_asked_for_first() {
    let mut lab = Lab::connected();
    lab.engine.config.mode = Mode::Router;
    for n in 0..40 {
        let ip = Ipv4Addr::new(10, 70, 0, 100 + n);
        let until = OwnerTime(lab.now.owner.0 + LEASE);
        let lease = Lease { certificate: vec![n; 100], ..lease(LeaseKey::Address(ip), until) };
        let host = crate::hosts::Host { mac: mac(n), lease, name: None, own: false, origin: Origin::Dhcp };
        lab.engine.bind(ip, host, lab.now);
    }
    lab.wait(secs(1));
    let shown = |lab: &Lab| -> Vec<usize> {
        let leases = lab.heard.iter().filter(|(kind, payload)| *kind == Kind::Control && payload[0] == 16);
        leases.map(|(_, payload)| (payload.len() - 1) / 106).collect()
    };
    assert_eq!(shown(&lab), [1; 40], "each is told once");
    lab.forget();
    let asked = Ipv4Addr::new(10, 70, 0, 137);
    lab.opened(Kind::Control, &[&[17][..], &asked.octets()].concat());
    assert_eq!(shown(&lab), [16]);
    assert_eq!(lab.heard[0].1[7], 37, "the one that was asked for comes first");
}
