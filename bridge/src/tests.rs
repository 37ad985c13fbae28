//! Frames and packets in, frames, packets and events out.

mod arp;
mod coalesce;
mod dhcp;
mod dns_tcp;
mod fast_path;
mod fences;
mod lookups;
mod offload;
mod operations;
mod proofs;
mod random;
mod router;
mod routes;
mod segments;
mod service;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};

use crate::fuzz::{GATEWAY, HOST, HOST_IP};
use crate::{Bridge, Config, DropReason, Event, Mode, Offload, OutFrame, OutPacket};

#[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const SECOND: Duration = Duration::from_secs(1);
const PLAIN: Offload = Offload { flags: 0, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

fn config() -> Config {
    Config {
        mode: Mode::Workstation,
        range: Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 16),
        service: SERVICE,
        gateway_mac: GATEWAY,
        mtu: 1400,
    }
}

/// A bridge with one host behind it, and virtual time.
struct Bench {
    bridge: Bridge,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = origin();
        let mut bridge = Bridge::new(config(), [1; 32], now);
        bridge.set_host(HOST_IP, HOST);
        Self { bridge, now }
    }

    fn hear(&mut self, frame: &[u8]) {
        self.bridge.handle_frame(frame, PLAIN, self.now);
    }

    /// Lets time pass, stopping wherever the bridge wants to be called.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, _)) = self.bridge.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.bridge.handle_timeout(self.now);
            let still = self.bridge.poll_timeout();
            assert!(still.is_none_or(|(next, _)| next > self.now), "would spin: {still:?}");
        }
        self.now = end;
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.bridge.poll_frame())
            .map(|OutFrame { bytes, offload }| {
                assert_eq!(offload, PLAIN);
                bytes
            })
            .collect()
    }

    fn packets(&mut self) -> Vec<OutPacket> {
        std::iter::from_fn(|| self.bridge.poll_packet()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.bridge.poll_event()).collect()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.bridge.drops().get(&reason).copied().unwrap_or(0)
    }

    /// Nothing came out, and exactly this was counted.
    fn assert_only_drop(&mut self, reason: DropReason) {
        assert_eq!(self.frames(), Vec::<Vec<u8>>::new(), "{reason:?}");
        assert_eq!(self.packets(), vec![], "{reason:?}");
        assert_eq!(self.events(), vec![], "{reason:?}");
        assert_eq!(self.bridge.drops(), &[(reason, 1)].into());
    }
}

fn member(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, 0, last)
}

fn ethernet(to: EthernetAddress, from: EthernetAddress, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// A frame from our host to us.
fn outbound(packet: &[u8]) -> Vec<u8> {
    ethernet(GATEWAY, HOST, 0x0800, packet)
}

/// An IPv4 packet as smoltcp makes it: not cut, no identification.
fn ipv4(protocol: IpProtocol, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let repr =
        Ipv4Repr { src_addr: from, dst_addr: to, next_header: protocol, payload_len: payload.len(), hop_limit: 64 };
    let mut bytes = vec![0; repr.buffer_len() + payload.len()];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    repr.emit(&mut packet, &ChecksumCapabilities::default());
    packet.payload_mut().copy_from_slice(payload);
    bytes
}

/// A UDP datagram in its packet, as smoltcp makes it.
fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: from.1, dst_port: to.1 };
    let mut bytes = vec![0; repr.header_len() + payload.len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut bytes),
        &from.0.into(),
        &to.0.into(),
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    ipv4(IpProtocol::Udp, from.0, to.0, &bytes)
}

/// Some packet that carries a number, from our host.
fn numbered(to: Ipv4Addr, number: u8) -> Vec<u8> {
    udp((HOST_IP, 1000), (to, 2000), &[number])
}

/// Writes the header checksum after a test has changed the header.
fn fix_header(packet: &mut [u8]) {
    let mut view = Ipv4Packet::new_unchecked(packet);
    view.fill_checksum();
}

/// One's complement addition, word by word.
fn add(bytes: &[u8], start: u32) -> u32 {
    let mut sum = start;
    for (index, byte) in bytes.iter().enumerate() {
        sum += u32::from(*byte) << if index % 2 == 0 { 8 } else { 0 };
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum & 0xffff) + (sum >> 16)
}
