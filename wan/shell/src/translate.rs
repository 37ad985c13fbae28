//! A translator of the model ([`wan::Nat`]) in a cable: frames of one machine, whose address outside is another one.
//!
//! Pure. The machine is at the first end, and behaves as if it were on the network at the second one: the translator has no
//! address of its own, and ARP passes it like everything else. UDP is translated as the model says, TCP by another one of the
//! same kind with the timers of RFC 5382; whatever else there is does not pass.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bridge::Offload;
use bridge::offload::ETHERNET;
use wan::{Edge, Nat, Passage, Timers};

use crate::piece::{fold, read16, write16};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where the addresses are, in a frame with ARP and in one with IPv4.
const ARP_SENDER: usize = ETHERNET + 14;
const ARP_TARGET: usize = ETHERNET + 24;
const SOURCE: usize = ETHERNET + 12;
const DESTINATION: usize = ETHERNET + 16;

/// RFC 5382, REQ-5.
const OF_TCP: Timers = Timers {
    unanswered: Duration::from_secs(4 * 60),
    answered: Duration::from_secs(2 * 3600 + 4 * 60),
    inbound_refreshes: true,
};

/// Which translator, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// How it behaves.
    pub edge: Edge,
    /// The machine's address.
    pub inside: Ipv4Addr,
    /// The one that others see; the same where the edge does not translate.
    pub outside: Ipv4Addr,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Pass,
    /// It goes back to where it came from.
    Back,
    /// It does not.
    Drop,
}

/// The translator.
pub(crate) struct Translator {
    settings: Translation,
    udp: Nat,
    tcp: Nat,
}

/// Where the parts of a TCP or UDP packet are.
struct Parts {
    protocol: u8,
    transport: usize,
    from: SocketAddrV4,
    to: SocketAddrV4,
}

impl Translator {
    pub(crate) fn new(settings: Translation, seed: u64) -> Self {
        let udp = settings.edge.settings();
        let tcp = wan::Settings { timers: OF_TCP, ..udp };
        let nat = |settings_of, seed| Nat::new(settings_of, settings.outside, seed);
        Self { settings, udp: nat(udp, seed), tcp: nat(tcp, seed.wrapping_add(1)) }
    }

    /// A frame from the machine.
    pub(crate) fn outbound(&mut self, frame: &mut [u8], offload: Offload, now: Duration) -> Verdict {
        let Translation { inside, outside, .. } = self.settings;
        if ethertype(frame) == Some(ARP) {
            return translate_arp(frame, inside, outside);
        }
        let Some(parts) = Parts::of(frame) else { return Verdict::Drop };
        let to_many = parts.to.ip().is_multicast() || parts.to.ip().is_broadcast();
        if *parts.from.ip() != inside || to_many {
            return Verdict::Drop;
        }
        let passage = self.nat(&parts).outbound(parts.from, parts.to, now);
        apply(passage, &parts, frame, offload)
    }

    /// A frame to the machine.
    pub(crate) fn inbound(&mut self, frame: &mut [u8], offload: Offload, now: Duration) -> Verdict {
        let Translation { inside, outside, .. } = self.settings;
        if ethertype(frame) == Some(ARP) {
            return translate_arp(frame, outside, inside);
        }
        let Some(parts) = Parts::of(frame) else { return Verdict::Drop };
        if *parts.to.ip() != outside {
            return Verdict::Drop;
        }
        let passage = self.nat(&parts).inbound(parts.from, parts.to, now);
        apply(passage, &parts, frame, offload)
    }

    fn nat(&mut self, parts: &Parts) -> &mut Nat {
        if parts.protocol == TCP { &mut self.tcp } else { &mut self.udp }
    }
}

impl Parts {
    /// Those of an unfragmented packet.
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET..)?;
        if ethertype(frame) != Some(IPV4) || packet.len() < 20 || read16(packet, 6) & 0x3fff != 0 {
            return None;
        }
        let (protocol, transport) = (packet[9], ETHERNET + usize::from(packet[0] & 0x0f) * 4);
        let shortest = match protocol {
            TCP => 20,
            UDP => 8,
            _ => return None,
        };
        if transport < ETHERNET + 20 || frame.len() < transport + shortest {
            return None;
        }
        let from = SocketAddrV4::new(address(frame, SOURCE), read16(frame, transport));
        let to = SocketAddrV4::new(address(frame, DESTINATION), read16(frame, transport + 2));
        Some(Self { protocol, transport, from, to })
    }
}

fn apply(passage: Passage, parts: &Parts, frame: &mut [u8], offload: Offload) -> Verdict {
    match passage {
        Passage::Through { from, to } => {
            rewrite(frame, parts, from, to, offload);
            Verdict::Pass
        }
        Passage::Back { from, to } => {
            rewrite(frame, parts, from, to, offload);
            let (one, other) = frame[..12].split_at_mut(6);
            one.swap_with_slice(other);
            Verdict::Back
        }
        Passage::Dropped(_) => Verdict::Drop,
    }
}

/// Other addresses and ports, and checksums to match (RFC 1624).
fn rewrite(frame: &mut [u8], parts: &Parts, from: SocketAddrV4, to: SocketAddrV4, offload: Offload) {
    let transport = parts.transport;
    let mut change = Change::default();
    for (at, ip) in [(SOURCE, from.ip()), (DESTINATION, to.ip())] {
        for (n, word) in ip.octets().chunks_exact(2).enumerate() {
            change.word(frame, at + n * 2, read16(word, 0));
        }
    }
    let header = !change.of(!read16(frame, ETHERNET + 10));
    write16(frame, ETHERNET + 10, header);
    let partial = offload.needs_checksum();
    let mut whole = change;
    whole.word(frame, transport, from.port());
    whole.word(frame, transport + 2, to.port());
    let field = transport + if parts.protocol == TCP { 16 } else { 6 };
    let old = read16(frame, field);
    let new = match (partial, parts.protocol, old) {
        // Only begun, with the pseudo header: the ports are not in it yet.
        (true, _, _) => change.of(old),
        (false, UDP, 0) => 0,
        (false, UDP, _) => Some(!whole.of(!old)).filter(|sum| *sum != 0).unwrap_or(0xffff),
        (false, _, _) => !whole.of(!old),
    };
    write16(frame, field, new);
}

/// What words that were replaced add to a sum.
#[derive(Clone, Copy, Default)]
struct Change(u64);

impl Change {
    fn word(&mut self, frame: &mut [u8], at: usize, new: u16) {
        self.0 += u64::from(!read16(frame, at)) + u64::from(new);
        write16(frame, at, new);
    }

    fn of(self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }
}

/// Whoever asks for or as one address does so for or as the other one.
fn translate_arp(frame: &mut [u8], from: Ipv4Addr, to: Ipv4Addr) -> Verdict {
    if frame.len() < ARP_TARGET + 4 {
        return Verdict::Drop;
    }
    for at in [ARP_SENDER, ARP_TARGET] {
        if address(frame, at) == from {
            frame[at..at + 4].copy_from_slice(&to.octets());
        }
    }
    Verdict::Pass
}

fn ethertype(frame: &[u8]) -> Option<u16> {
    (frame.len() >= ETHERNET).then(|| read16(frame, 12))
}

fn address(frame: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3])
}

#[cfg(test)]
mod tests {
    use bridge::offload::NEEDS_CSUM;

    use super::*;

    const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
    const SETTINGS: Translation = Translation { edge: Edge::HomeOtherPort, inside: INSIDE, outside: OUTSIDE };

    fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(ip, port)
    }

    /// A packet whose checksum is only begun.
    fn frame(protocol: u8, from: SocketAddrV4, to: SocketAddrV4) -> (Vec<u8>, Offload) {
        let payload = [1, 2, 3, 4, 5];
        let header: usize = if protocol == TCP { 20 } else { 8 };
        let octets = (20 + header + payload.len()) as u16;
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0, 0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(from.ip().octets());
        frame.extend(to.ip().octets());
        write16(&mut frame, 16, octets);
        let words = frame[14..34].chunks_exact(2).map(|word| u64::from(read16(word, 0))).sum();
        write16(&mut frame, 24, !fold(words));
        frame.extend(vec![0; header]);
        write16(&mut frame, 34, from.port());
        write16(&mut frame, 36, to.port());
        if protocol == TCP {
            frame[46] = 0x50
        } else {
            write16(&mut frame, 38, octets - 20)
        }
        let csum_offset = if protocol == TCP { 16 } else { 6 };
        let addresses: u64 = frame[26..34].chunks_exact(2).map(|word| u64::from(read16(word, 0))).sum();
        write16(&mut frame, 34 + csum_offset, fold(addresses + u64::from(protocol) + u64::from(octets - 20)));
        frame.extend(payload);
        (frame, Offload { flags: NEEDS_CSUM, csum_start: 34, csum_offset: csum_offset as u16, ..Offload::default() })
    }

    fn complete((mut frame, offload): (Vec<u8>, Offload)) -> Vec<u8> {
        bridge::complete_checksum(&mut frame, offload).expect("it is sound");
        frame
    }

    #[test]
    fn a_packet_goes_out_from_another_address_and_the_answer_comes_in() {
        for protocol in [UDP, TCP] {
            let mut translator = Translator::new(SETTINGS, 1);
            let now = Duration::ZERO;
            let (mut sent, offload) = frame(protocol, at(INSIDE, 4000), at(OTHER, 53));
            assert_eq!(translator.outbound(&mut sent, offload, now), Verdict::Pass);
            let port = read16(&sent, 34);
            assert_ne!(port, 4000);
            let wanted = frame(protocol, at(OUTSIDE, port), at(OTHER, 53));
            assert_eq!(complete((sent, offload)), complete(wanted));
            // With a checksum that is complete the result is the same.
            let mut sent = complete(frame(protocol, at(INSIDE, 4000), at(OTHER, 53)));
            translator.outbound(&mut sent, Offload::default(), now);
            assert_eq!(sent, complete(frame(protocol, at(OUTSIDE, port), at(OTHER, 53))));
            let (mut answer, offload) = frame(protocol, at(OTHER, 53), at(OUTSIDE, port));
            assert_eq!(translator.inbound(&mut answer, offload, now), Verdict::Pass);
            assert_eq!(complete((answer, offload)), complete(frame(protocol, at(OTHER, 53), at(INSIDE, 4000))));
        }
    }

    #[test]
    fn who_was_not_sent_to_is_kept_out_and_so_is_what_is_neither_tcp_nor_udp() {
        let mut translator = Translator::new(SETTINGS, 1);
        let now = Duration::ZERO;
        let (mut sent, offload) = frame(UDP, at(INSIDE, 4000), at(OTHER, 53));
        translator.outbound(&mut sent, offload, now);
        let (mut answer, offload) = frame(UDP, at(OTHER, 54), at(OUTSIDE, read16(&sent, 34)));
        assert_eq!(translator.inbound(&mut answer, offload, now), Verdict::Drop);
        let (mut foreign, offload) = frame(UDP, at(OUTSIDE, 4000), at(OTHER, 53));
        assert_eq!(translator.outbound(&mut foreign, offload, now), Verdict::Drop);
        let (mut echo, offload) = frame(UDP, at(INSIDE, 4000), at(OTHER, 53));
        echo[23] = 1;
        assert_eq!(translator.outbound(&mut echo, offload, now), Verdict::Drop);
        for length in 0..echo.len() {
            translator.outbound(&mut echo[..length], offload, now);
        }
    }

    #[test]
    fn who_asks_for_the_outside_address_is_answered_by_the_machine() {
        let mut translator = Translator::new(SETTINGS, 1);
        let mut asked = vec![0; 60];
        write16(&mut asked, 12, ARP);
        asked[28..32].copy_from_slice(&OTHER.octets());
        asked[38..42].copy_from_slice(&OUTSIDE.octets());
        assert_eq!(translator.inbound(&mut asked, Offload::default(), Duration::ZERO), Verdict::Pass);
        assert_eq!((address(&asked, 28), address(&asked, 38)), (OTHER, INSIDE));
        asked.copy_within(38..42, 28);
        assert_eq!(translator.outbound(&mut asked, Offload::default(), Duration::ZERO), Verdict::Pass);
        assert_eq!(address(&asked, 28), OUTSIDE);
    }
}
