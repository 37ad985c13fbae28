//! Packets that are put together and cut again.
//!
//! ```text
//! packet:  what to do with it 1 | length 2 | what its sender says of it 8 | the packet
//! ```

use std::collections::BTreeMap;

use super::{GATEWAY, HOST};
use crate::checksum::{fold, pseudo_header, sum};
use crate::headers::{address, put};
use crate::ipv4::{Ipv4, MIN_HEADER};
use crate::offload::{ETHERNET, Layout};
use crate::{Coalescer, Frame, Offload, complete_checksum, segment};

/// The bit for: nothing comes for a moment, and then in other memory.
pub(crate) const PAUSE: u8 = 1;
/// The bit for: completes the checksum that the packet's sender has left undone.
pub(crate) const COMPLETE: u8 = 2;
/// The bit for: comes from another station.
pub(crate) const ELSEWHERE: u8 = 4;
/// Bytes before each packet.
const HEAD: usize = 1 + 2 + 8;
/// The most parts of a frame, and its longest packet.
const MOST: (usize, usize) = (64, 65_535);

/// Puts packets together. What comes out, cut again, is what went in, in each flow in the same order.
pub fn coalesce(data: &[u8]) {
    let packets = read(data);
    let mut seen = Seen::default();
    let mut coalescer = Coalescer::default();
    for given in &packets {
        if given.pause {
            coalescer.flush(&mut |frame| seen.take(&frame));
            assert_eq!(seen.came, seen.went);
            coalescer = coalescer.recycle();
        }
        let (ethernet, packet) = given.frame.split_at(ETHERNET);
        let mut header = [0; ETHERNET];
        header.copy_from_slice(ethernet);
        let flow = Flow::of(packet);
        seen.give(given);
        coalescer.push(header, given.offload, packet, &mut |frame| seen.take(&frame));
        // Whose flow cannot be seen is overtaken by nothing and overtakes nothing.
        if flow.ports.is_none() {
            assert_eq!(seen.between(&seen.went, flow.addresses), seen.between(&seen.came, flow.addresses));
        }
    }
    coalescer.flush(&mut |frame| seen.take(&frame));
    assert_eq!(seen.came, seen.went);
}

/// A packet behind its Ethernet header.
struct Given {
    pause: bool,
    offload: Offload,
    frame: Vec<u8>,
}

/// Leaves out what an honest receiver would not have got so far.
fn read(mut data: &[u8]) -> Vec<Given> {
    let mut packets = Vec::new();
    while let Some((&[what, high, low, ref said @ ..], rest)) = data.split_first_chunk::<HEAD>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (packet, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        data = rest;
        let Ok(mut offload) = Offload::from_wire(*said, packet) else { continue };
        let station = if what & ELSEWHERE == 0 { GATEWAY.0 } else { [2, 0, 0, 0, 0, 2] };
        let mut frame = [&HOST.0[..], &station, &[8, 0], packet].concat();
        repair(&mut frame);
        if what & COMPLETE != 0 && !offload.is_super_frame() && complete_checksum(&mut frame, offload).is_ok() {
            offload = Offload::default();
        }
        packets.push(Given { pause: what & PAUSE != 0, offload, frame });
    }
    packets
}

/// Makes the header's checksum right, as it is in all that a kernel sends: it is not looked at, and not kept if it is wrong.
fn repair(frame: &mut [u8]) {
    let packet = &mut frame[ETHERNET..];
    if let Ok(length) = Ipv4::parse(packet).map(Ipv4::header_len) {
        put(packet, 10, [0, 0]);
        let checksum = !fold(sum(&packet[..length]));
        put(packet, 10, checksum.to_be_bytes());
    }
}

/// Between whom a packet goes, as far as it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    addresses: Option<[u8; 8]>,
    /// Protocol and ports.
    ports: Option<(u8, [u8; 4])>,
}

impl Flow {
    fn of(packet: &[u8]) -> Self {
        let addresses = packet.get(12..20).and_then(|bytes| bytes.try_into().ok());
        let plain = Layout::of(packet).is_ok_and(|layout| layout.transport == MIN_HEADER);
        let ports = packet.get(MIN_HEADER..MIN_HEADER + 4).filter(|_| plain);
        let ports = ports.and_then(|ports| Some((packet[9], ports.try_into().ok()?)));
        Self { addresses, ports }
    }
}

/// Whole packets by flow, with their Ethernet headers.
type Packets = BTreeMap<Flow, Vec<Vec<u8>>>;

#[derive(Default)]
struct Seen {
    went: Packets,
    came: Packets,
}

impl Seen {
    fn give(&mut self, given: &Given) {
        note(&mut self.went, &given.frame, given.offload);
    }

    fn take(&mut self, frame: &Frame<'_, '_>) {
        let whole = [frame.head, &frame.parts.concat()].concat();
        assert!(frame.parts.len() <= MOST.0 && whole.len() <= ETHERNET + MOST.1);
        assert_eq!(frame.offload.check(&whole[ETHERNET..]), Ok(frame.offload));
        note(&mut self.came, &whole, frame.offload);
    }

    fn between(&self, packets: &Packets, addresses: Option<[u8; 8]>) -> usize {
        let theirs = packets.iter().filter(|(flow, _)| flow.addresses == addresses);
        theirs.map(|(_, packets)| packets.len()).sum()
    }
}

/// Notes what a kernel makes of a frame.
fn note(packets: &mut Packets, frame: &[u8], offload: Offload) {
    let flow = Flow::of(&frame[ETHERNET..]);
    let of_flow = packets.entry(flow).or_default();
    // No two segments fit into this.
    let one = Layout::of(&frame[ETHERNET..]).map_or(MOST.1, |layout| layout.payload + usize::from(offload.gso_size));
    let cut = segment(frame, offload, one, &mut |head, payload, offload| {
        let mut whole = [head, payload].concat();
        begin_anew(&mut whole, offload);
        let packet = &mut whole[ETHERNET..];
        // Where the packet may not be fragmented, its identification means nothing.
        if Ipv4::parse(packet).is_ok_and(|packet| packet.dont_fragment() && flow.ports.is_some()) {
            put(packet, 4, [0, 0]);
        }
        repair(&mut whole);
        of_flow.push(whole);
    });
    assert_eq!(cut, Ok(()));
}

/// Completes the checksum, whatever it began with: no kernel looks at that.
fn begin_anew(frame: &mut [u8], offload: Offload) {
    let packet = &mut frame[ETHERNET..];
    if let (true, Ok(layout)) = (offload.needs_checksum(), Layout::of(packet)) {
        let segment = packet.len() - layout.transport;
        let begun = pseudo_header(address(packet, 12), address(packet, 16), layout.kind.protocol(), segment);
        put(packet, layout.transport + usize::from(layout.kind.checksum_offset()), fold(begun).to_be_bytes());
    }
    assert_eq!(complete_checksum(frame, offload), Ok(()));
}
