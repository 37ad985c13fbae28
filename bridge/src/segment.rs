//! Cuts super-frames and finishes checksums, for whoever cannot leave that to a kernel.

use std::ops::Range;

use crate::DropReason;
use crate::checksum::{fold, pseudo_header, sum};
use crate::ipv4::{Ipv4, MIN_HEADER};
use crate::offload::{ETHERNET, GSO_NONE, Kind, Layout, Offload};

const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Cuts a super-frame into frames whose packets are at most `max_packet` bytes, with the checksum of TCP or UDP
/// still partial. A frame that is none is handed over as it is.
///
/// As the kernel cuts (`tcp_gso_segment`, `__udp_gso_segment`): the IP identification counts up, FIN and PSH stay
/// with the last segment, CWR with the first. TCP is a stream and may be cut smaller than `gso_size` says;
/// datagrams may not, and are refused if they do not fit.
pub fn segment(
    frame: &[u8],
    offload: Offload,
    max_packet: usize,
    each: &mut dyn FnMut(&[u8], Offload),
) -> Result<(), DropReason> {
    if !offload.is_super_frame() {
        each(frame, offload);
        return Ok(());
    }
    let (ethernet, rest) = frame.split_at_checked(ETHERNET).ok_or(DropReason::ShortFrame)?;
    let packet = Ipv4::parse(rest)?.bytes();
    let offload = offload.check(packet)?;
    let layout = Layout::of(packet)?;
    let size = segment_size(packet, offload, layout, max_packet)?;
    let payload = &packet[layout.payload..];
    let plan = Plan { layout, last: payload.len().div_ceil(size).saturating_sub(1), size };
    let partial = Offload { gso_type: GSO_NONE, gso_size: 0, hdr_len: 0, ..offload };
    let mut out = Vec::with_capacity(ETHERNET + layout.payload + size);
    for (index, piece) in payload.chunks(size).enumerate() {
        out.clear();
        out.extend_from_slice(ethernet);
        out.extend_from_slice(&packet[..layout.payload]);
        out.extend_from_slice(piece);
        plan.adjust(index, &mut out[ETHERNET..]);
        each(&out, partial);
    }
    Ok(())
}

/// Writes the checksum that `offload` says is missing. The bytes that follow the packet in its frame do not count.
pub fn complete_checksum(frame: &mut [u8], offload: Offload) -> Result<(), DropReason> {
    let packet = frame.get_mut(ETHERNET..).ok_or(DropReason::ShortFrame)?;
    complete_packet(packet, offload)
}

/// Makes what the kernel left undone about a packet from the TAP something that a peer believes.
///
/// What [`Offload::check`] accepts is returned in its one spelling. Elsewhere the checksum is completed, as for the
/// inner packet of an IP tunnel through ours. A super-frame that is neither TCP nor UDP is refused.
pub fn settle(packet: &mut [u8], offload: Offload) -> Result<Offload, DropReason> {
    if let Ok(offload) = offload.check(packet) {
        return Ok(offload);
    }
    complete_packet(packet, offload)?;
    Ok(Offload::default())
}

fn complete_packet(packet: &mut [u8], offload: Offload) -> Result<(), DropReason> {
    if offload.is_super_frame() {
        return Err(DropReason::BadOffload);
    }
    if !offload.needs_checksum() {
        return Ok(());
    }
    let end = Ipv4::parse(packet)?.bytes().len();
    let start = usize::from(offload.csum_start).checked_sub(ETHERNET).ok_or(DropReason::BadOffload)?;
    let field = start + usize::from(offload.csum_offset);
    if start < MIN_HEADER || field + 2 > end {
        return Err(DropReason::BadOffload);
    }
    let checksum = match !fold(sum(&packet[start..end])) {
        // RFC 768: zero would mean that there is none. In TCP both spell the same number.
        0 => 0xffff,
        checksum => checksum,
    };
    write(packet, field..field + 2, &checksum.to_be_bytes());
    Ok(())
}

fn segment_size(packet: &[u8], offload: Offload, layout: Layout, max_packet: usize) -> Result<usize, DropReason> {
    let wanted =
        if offload.is_super_frame() { usize::from(offload.gso_size) } else { (packet.len() - layout.payload).max(1) };
    let room = max_packet.saturating_sub(layout.payload);
    match layout.kind {
        Kind::Tcp if room > 0 => Ok(wanted.min(room)),
        Kind::Udp if wanted <= room => Ok(wanted),
        Kind::Tcp | Kind::Udp => Err(DropReason::Oversize),
    }
}

/// How one super-frame is cut.
struct Plan {
    layout: Layout,
    size: usize,
    /// The number of the last segment.
    last: usize,
}

impl Plan {
    /// Turns a copy of the super-frame's headers before one segment's payload into that segment's own.
    fn adjust(&self, index: usize, packet: &mut [u8]) {
        self.adjust_ipv4(index, packet);
        let transport = self.layout.transport;
        match self.layout.kind {
            Kind::Tcp => {
                let sequence = read_u32(packet, transport + 4).wrapping_add((index * self.size) as u32);
                write(packet, transport + 4..transport + 8, &sequence.to_be_bytes());
                let flags = &mut packet[transport + TCP_FLAGS];
                if index > 0 {
                    *flags &= !CWR;
                }
                if index < self.last {
                    *flags &= !(FIN | PSH);
                }
            }
            Kind::Udp => {
                let len = (packet.len() - transport) as u16;
                write(packet, transport + 4..transport + 6, &len.to_be_bytes());
            }
        }
        self.begin_checksum(packet);
    }

    fn adjust_ipv4(&self, index: usize, packet: &mut [u8]) {
        let len = packet.len() as u16;
        let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(index as u16);
        write(packet, 2..4, &len.to_be_bytes());
        write(packet, 4..6, &id.to_be_bytes());
        write(packet, 10..12, &[0, 0]);
        let checksum = !fold(sum(&packet[..self.layout.transport]));
        write(packet, 10..12, &checksum.to_be_bytes());
    }

    fn begin_checksum(&self, packet: &mut [u8]) {
        let source = read_u32(packet, 12).into();
        let destination = read_u32(packet, 16).into();
        let kind = self.layout.kind;
        let len = packet.len() - self.layout.transport;
        let begun = fold(pseudo_header(source, destination, kind.protocol(), len));
        let field = self.layout.transport + usize::from(kind.checksum_offset());
        write(packet, field..field + 2, &begun.to_be_bytes());
    }
}

fn read_u32(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

fn write(packet: &mut [u8], at: Range<usize>, bytes: &[u8]) {
    packet[at].copy_from_slice(bytes);
}
