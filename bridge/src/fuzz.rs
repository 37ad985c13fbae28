//! One function per decoder, for whoever feeds it random bytes: total, and asserting what must always hold.

mod coalesce;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use libp2p_identity::PeerId;
use smoltcp::wire::EthernetAddress;

use crate::ipv4::Ipv4;
use crate::offload::ETHERNET;
use crate::{Bridge, Config, Inbound, Mode, Offload, Outbound, Resolution, complete_checksum, segment};

pub use coalesce::coalesce;
#[cfg(test)]
pub(crate) use coalesce::{COMPLETE, ELSEWHERE, PAUSE};

/// The virtual MAC in all that follows.
pub const GATEWAY: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
/// The host behind the TAP.
pub const HOST: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);
/// Its address; the service is at 10.64.0.1 in 10.64.0.0/16.
pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 9);
/// The address of a member elsewhere.
pub const MEMBER_IP: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 7);

/// Some member: an inlined Ed25519 key, though of nobody.
pub fn peer(number: u8) -> PeerId {
    let bytes = [&[0, 36, 8, 1, 18, 32][..], &[number; 32]].concat();
    PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a peer id")
}

/// The kernel's header, then a frame from the TAP.
pub fn frame(data: &[u8]) {
    let Ok(offload) = Offload::parse(data) else {
        return assert!(data.len() < Offload::LEN);
    };
    assert_eq!(offload.emit(), data[..Offload::LEN]);
    let frame = &data[Offload::LEN..];
    let (mut bridge, member, now) = bridge();
    if let Outbound::Forward { peer, packet } = bridge.local().outbound(frame) {
        assert_eq!(peer, member);
        assert!(frame[ETHERNET..].starts_with(packet));
    }
    bridge.handle_frame(frame, offload, now);
    drain(&mut bridge, now);
    bridge.handle_timeout(now + Duration::from_secs(1));
    bridge.handle_timeout(now + Duration::from_secs(60));
    drain(&mut bridge, now + Duration::from_secs(60));
}

/// What a peer says about a packet, then the packet.
pub fn packet(data: &[u8]) {
    let Some((said, packet)) = data.split_first_chunk::<8>() else {
        return;
    };
    let (mut bridge, member, now) = bridge();
    if let Inbound::Deliver(header) = bridge.local().inbound(&member, packet) {
        assert_eq!(header[..6], HOST.0);
        assert!(Ipv4::parse(packet).is_ok());
    }
    let Ok(offload) = Offload::from_wire(*said, packet) else {
        return;
    };
    assert_eq!(Offload::from_wire(offload.to_wire(), packet), Ok(offload));
    let frame = [&[0; ETHERNET], packet].concat();
    cut(&frame, offload, 1400);
    cut(&frame, offload, 100);
    bridge.handle_packet(member, packet, offload, now);
    bridge.handle_packet(peer(2), packet, offload, now);
    drain(&mut bridge, now);
    bridge.handle_timeout(now + Duration::from_secs(4));
    drain(&mut bridge, now);
}

/// Cuts a super-frame: every piece is a whole packet that fits, and the payloads make up the whole.
fn cut(frame: &[u8], offload: Offload, max_packet: usize) {
    let mut pieces = 0;
    let outcome = segment(frame, offload, max_packet, &mut |head, payload, offload| {
        pieces += 1;
        let mut whole = [head, payload].concat();
        if offload.is_plain() {
            return;
        }
        if offload.is_super_frame() {
            assert!(whole.len() <= ETHERNET + max_packet);
            return cut(&whole, offload, usize::from(offload.hdr_len) - ETHERNET + usize::from(offload.gso_size));
        }
        let packet = &whole[ETHERNET..];
        assert_eq!(Ipv4::parse(packet).map(|p| p.bytes().len()), Ok(packet.len()));
        assert_eq!(offload.check(packet), Ok(offload));
        assert_eq!(complete_checksum(&mut whole, offload), Ok(()));
    });
    assert_eq!(outcome.is_ok(), pieces > 0);
}

/// Everything that comes out is well formed, and every question can be answered.
fn drain(bridge: &mut Bridge, now: Instant) {
    while let Some(event) = bridge.poll_event() {
        if let crate::Event::Resolve { ip } = event {
            bridge.handle_resolved(ip, Resolution::Peer(peer(2)), now);
        }
    }
    while let Some(frame) = bridge.poll_frame() {
        assert!(frame.bytes.len() >= ETHERNET);
        assert_eq!(frame.bytes[6..12], GATEWAY.0);
    }
    while let Some(out) = bridge.poll_packet() {
        assert_eq!(Ipv4::parse(&out.packet).map(Ipv4::source), Ok(HOST_IP));
        let arrived = Offload::from_wire(out.offload.to_wire(), &out.packet);
        assert_eq!(arrived, Ok(out.offload));
    }
}

fn bridge() -> (Bridge, PeerId, Instant) {
    #[expect(clippy::disallowed_methods, reason = "the harness needs one real instant as origin")]
    let now = Instant::now();
    let service = Ipv4Addr::new(10, 64, 0, 1);
    // A router's bridge does all that a workstation's does, and more.
    let range = Ipv4Net::new_assert(service, 16).trunc();
    let config = Config { mode: Mode::Router, range, service, gateway_mac: GATEWAY, mtu: 1400 };
    let mut bridge = Bridge::new(config, [7; 32], now);
    let member = peer(1);
    bridge.set_host(HOST_IP, HOST);
    bridge.permit(member, MEMBER_IP);
    (bridge, member, now)
}
