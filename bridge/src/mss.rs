//! The largest TCP segment that both ends agree upon (RFC 9293 section 3.7.1), lowered to what the tunnel carries whole.
//!
//! A host that ignores the MTU of its lease would send segments that are too big for the tunnel, and depend on ICMP errors
//! that many drop. What it says in its SYN goes through our hands anyway.

use crate::Offload;
use crate::ipv4::{Ipv4, MIN_HEADER, TCP};

const TCP_HEADER: usize = 20;
const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const CHECKSUM: usize = 16;
const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;

/// Whether the packet asks for larger segments than fit into `mtu`.
pub(crate) fn is_too_large(packet: &[u8], mtu: usize) -> bool {
    find(packet, mtu).is_some()
}

/// Lowers what the packet asks for to what fits into `mtu`. A checksum that is yet to be completed stays so.
pub(crate) fn clamp(packet: &mut [u8], offload: Offload, mtu: usize) {
    let Some(Found { transport, value, limit }) = find(packet, mtu) else { return };
    let before = [packet[value], packet[value + 1]];
    let after = limit.to_be_bytes();
    packet[value..value + 2].copy_from_slice(&after);
    if offload.needs_checksum() {
        return;
    }
    // RFC 1624 equation 3; at an odd offset both bytes of each word change places.
    let turn = |word: [u8; 2]| if (value - transport).is_multiple_of(2) { word } else { [word[1], word[0]] };
    let at = transport + CHECKSUM;
    let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
    let [before, after] = [before, after].map(|word| u16::from_be_bytes(turn(word)));
    let total = u32::from(!sum) + u32::from(!before) + u32::from(after);
    packet[at..at + 2].copy_from_slice(&(!crate::checksum::fold(total)).to_be_bytes());
}

/// Where the number stands, and what it has to be.
struct Found {
    transport: usize,
    value: usize,
    limit: u16,
}

fn find(packet: &[u8], mtu: usize) -> Option<Found> {
    let transport = usize::from(packet.first()? & 0x0f) * 4;
    if packet.get(9) != Some(&TCP) || packet.get(transport + FLAGS)? & SYN == 0 {
        return None;
    }
    let ipv4 = Ipv4::parse(packet).ok().filter(|ipv4| !ipv4.is_later_fragment())?;
    let limit = u16::try_from(mtu.checked_sub(MIN_HEADER + TCP_HEADER)?).ok()?;
    let end = transport + usize::from(ipv4.payload().get(FLAGS - 1)? >> 4) * 4;
    let options = packet.get(transport + TCP_HEADER..end.min(ipv4.bytes().len()))?;
    let mut at = 0;
    while let Some(kind) = options.get(at) {
        let length = match *kind {
            END => return None,
            NOTHING => 1,
            _ => usize::from(*options.get(at + 1)?),
        };
        if *kind == MSS && length == MSS_LEN {
            let asked = u16::from_be_bytes([*options.get(at + 2)?, *options.get(at + 3)?]);
            let value = transport + TCP_HEADER + at + 2;
            return (asked > limit).then_some(Found { transport, value, limit });
        }
        // A length below that of its own two bytes would never end.
        at += if *kind == NOTHING { 1 } else { length.max(2) };
    }
    None
}
