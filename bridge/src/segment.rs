//! Cuts super-frames and finishes checksums, for whoever cannot leave that to a kernel.

use crate::DropReason;
use crate::checksum::{fold, sum};
use crate::headers::{CWR, FIN, MAX_HEADERS, PSH, TCP_FLAGS, put, read_u16, read_u32, set_lengths};
use crate::ipv4::{Ipv4, MIN_HEADER};
use crate::offload::{ETHERNET, GSO_ECN, GSO_NONE, Kind, Layout, Offload};

/// Cuts a super-frame into frames whose packets are at most `max_packet` bytes, with the checksum of TCP or UDP
/// still partial. Each is handed over in two parts: its own headers, and a piece of the super-frame's payload.
/// Where several segments fit into `max_packet`, the frames are smaller super-frames. A frame that is none is handed
/// over as it is.
///
/// As the kernel cuts (`tcp_gso_segment`, `__udp_gso_segment`): the IP identification counts up, FIN and PSH stay
/// with the last segment, CWR with the first. TCP is a stream and may be cut smaller than `gso_size` says;
/// datagrams may not, and are refused if they do not fit.
pub fn segment<E: FnMut(&[u8], &[u8], Offload)>(
    frame: &[u8],
    offload: Offload,
    max_packet: usize,
    each: &mut E,
) -> Result<(), DropReason> {
    if !offload.is_super_frame() {
        each(frame, &[], offload);
        return Ok(());
    }
    let (_, rest) = frame.split_at_checked(ETHERNET).ok_or(DropReason::ShortFrame)?;
    let packet = Ipv4::parse(rest)?.bytes();
    let offload = offload.check(packet)?;
    let layout = Layout::of(packet)?;
    let size = segment_size(packet, offload, layout, max_packet)?;
    let together = (max_packet.saturating_sub(layout.payload) / size).max(1);
    let payload = &packet[layout.payload..];
    let plan = Plan { layout, size, together, last: payload.len().div_ceil(size * together).saturating_sub(1) };
    let mut head = [0; ETHERNET + MAX_HEADERS];
    let (head, headers) = (&mut head[..ETHERNET + layout.payload], &frame[..ETHERNET + layout.payload]);
    for (index, piece) in payload.chunks(size * together).enumerate() {
        head.copy_from_slice(headers);
        plan.adjust(index, &mut head[ETHERNET..], piece.len());
        each(head, piece, plan.offload(index, offload, piece.len()));
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
    put(packet, field, checksum.to_be_bytes());
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
    /// Segments in each frame.
    together: usize,
    /// The number of the last frame.
    last: usize,
}

impl Plan {
    /// What is left to do to one frame.
    fn offload(&self, index: usize, whole: Offload, payload: usize) -> Offload {
        if payload <= self.size {
            return Offload { gso_type: GSO_NONE, gso_size: 0, hdr_len: 0, ..whole };
        }
        let gso_type = if index == 0 { whole.gso_type } else { whole.gso_type & !GSO_ECN };
        Offload { gso_type, gso_size: self.size as u16, ..whole }
    }

    /// Turns a copy of the super-frame's headers into those of one frame.
    fn adjust(&self, index: usize, headers: &mut [u8], payload: usize) {
        let before = index * self.together;
        let id = read_u16(headers, 4).wrapping_add(before as u16);
        put(headers, 4, id.to_be_bytes());
        if self.layout.kind == Kind::Tcp {
            let transport = self.layout.transport;
            let sequence = read_u32(headers, transport + 4).wrapping_add((before * self.size) as u32);
            put(headers, transport + 4, sequence.to_be_bytes());
            let flags = &mut headers[transport + TCP_FLAGS];
            if index > 0 {
                *flags &= !CWR;
            }
            if index < self.last {
                *flags &= !(FIN | PSH);
            }
        }
        set_lengths(headers, self.layout, payload);
    }
}
