//! Puts consecutive segments of one flow together again, so that the kernel takes them in one call.
//!
//! As the kernel's own receive offload does (`tcp_gro_receive`, `udp_gro_receive`): what is put together can be cut
//! again into the very packets that came, except that packets which may not be fragmented may get other
//! identifications, which mean nothing there (RFC 6864 section 4.1). So only what agrees in everything else is:
//!
//! - IPv4 without options and with the right checksum, the same addresses, TOS, TTL and flags; the identification counts up
//!   where packets may be fragmented.
//! - TCP with the same ports, acknowledgement, window, urgent pointer and options, the sequence without a gap, ACK
//!   and no flags but PSH and FIN, which end a train, ECE, the same in all, and CWR, in the first only.
//! - UDP with the same ports.
//! - All but the last carry equally much, the last at most that; of TCP, as much as the kernel takes for a segment.
//!   Super-frames of such segments, as they come where a datagram has room for several, are added as they are.
//! - The checksum of each is left to the receiver, as it crossed the tunnel, or was complete and is right.
//!
//! Within a flow nothing overtakes anything.

use std::ops::Range;

use crate::checksum::{fold, sum};
use crate::headers::{
    ACK, CWR, ECE, FIN, MAX_HEADERS, PSH, TCP_FLAGS, is_complete, put, read_u16, read_u32, set_lengths,
};
use crate::ipv4::MIN_HEADER;
use crate::offload::{ETHERNET, GSO_ECN, GSO_TCPV4, GSO_UDP_L4, Kind, Layout, MIN_TCP_SEGMENT, NEEDS_CSUM, Offload};

/// Flows that are put together at the same time.
const OPEN: usize = 8;
/// Kernels before 6.9 take no more datagrams in one super-frame (`UDP_MAX_SEGMENTS`).
const MOST_SEGMENTS: usize = 64;
/// The longest IPv4 packet.
const MOST_BYTES: usize = 65_535;
const DONT_FRAGMENT: u8 = 0x40;

/// One frame for the TAP, in parts that follow one another.
#[derive(Debug)]
pub struct Frame<'f, 'p> {
    /// What is left to the kernel.
    pub offload: Offload,
    /// Ethernet header, and all others of a super-frame.
    pub head: &'f [u8],
    /// What follows: at most 64 parts.
    pub parts: &'f [&'p [u8]],
}

/// Collects packets that lie in a buffer of the caller's, and gives them back as frames.
#[derive(Default)]
pub struct Coalescer<'p> {
    /// Those in use first, in the order in which they began. The others keep their memory.
    trains: Vec<Train<'p>>,
    open: usize,
}

impl<'p> Coalescer<'p> {
    /// Takes one packet. What can go on no longer is handed to `out`.
    ///
    /// `ethernet` is the header to put in front; `offload` is what the packet's sender said of it, and was checked.
    pub fn push(
        &mut self,
        ethernet: [u8; ETHERNET],
        offload: Offload,
        packet: &'p [u8],
        out: &mut dyn FnMut(Frame<'_, 'p>),
    ) {
        let segment = Segment { ethernet, offload, packet };
        let Some(layout) = segment.mergeable() else {
            self.flush_before(packet, out);
            return out(Frame { offload, head: &ethernet, parts: &[packet] });
        };
        let open = self.trains[..self.open].iter().rposition(|train| train.is_flow(packet, layout));
        match open {
            Some(at) if self.trains[at].add(&segment) => {
                if self.trains[at].over {
                    self.close(at, out);
                }
                return;
            }
            Some(at) => self.close(at, out),
            None if self.open == OPEN => self.close(0, out),
            None => {}
        }
        self.begin(&segment, layout);
        if self.trains[self.open - 1].over {
            self.close(self.open - 1, out);
        }
    }

    /// Hands over all that is left.
    pub fn flush(&mut self, out: &mut dyn FnMut(Frame<'_, 'p>)) {
        for train in &mut self.trains[..self.open] {
            train.emit(out);
        }
        self.open = 0;
    }

    /// An empty one, for packets that live elsewhere, with the same memory.
    pub fn recycle<'q>(self) -> Coalescer<'q> {
        Coalescer { trains: self.trains.into_iter().map(Train::recycle).collect(), open: 0 }
    }

    fn begin(&mut self, segment: &Segment<'p>, layout: Layout) {
        if self.open == self.trains.len() {
            self.trains.push(Train::empty());
        }
        self.trains[self.open].begin(segment, layout);
        self.open += 1;
    }

    fn close(&mut self, at: usize, out: &mut dyn FnMut(Frame<'_, 'p>)) {
        self.trains[at].emit(out);
        self.trains[at..self.open].rotate_left(1);
        self.open -= 1;
    }

    /// What is not put together lets nothing wait that came before it. Of a fragment, say, the flow cannot be seen.
    fn flush_before(&mut self, packet: &[u8], out: &mut dyn FnMut(Frame<'_, 'p>)) {
        let layout = Layout::of(packet).ok().filter(|layout| layout.transport == MIN_HEADER);
        let is_before = |train: &Train<'p>| match layout {
            Some(layout) => train.is_flow(packet, layout),
            None => packet.get(12..20) == Some(&train.first[12..20]),
        };
        while let Some(at) = self.trains[..self.open].iter().position(is_before) {
            self.close(at, out);
        }
    }
}

/// One packet as it came.
struct Segment<'p> {
    ethernet: [u8; ETHERNET],
    offload: Offload,
    packet: &'p [u8],
}

impl Segment<'_> {
    /// Where the headers lie, if this is a packet that others may follow or that may follow others.
    fn mergeable(&self) -> Option<Layout> {
        let layout = Layout::of(self.packet).ok()?;
        let flags_allow = match layout.kind {
            Kind::Tcp => {
                let flags = self.packet[layout.transport + TCP_FLAGS];
                flags & ACK != 0 && flags & !(ACK | PSH | FIN | ECE | CWR) == 0
            }
            Kind::Udp => usize::from(read_u16(self.packet, layout.transport + 4)) == self.packet.len() - MIN_HEADER,
        };
        let plain = layout.transport == MIN_HEADER && self.packet.len() > layout.payload;
        // A wrong checksum of the header would come out right.
        let intact = flags_allow && plain && fold(sum(&self.packet[..MIN_HEADER])) == 0xffff;
        intact.then_some(layout)
    }

    /// How much each segment of it carries, but for the last.
    fn size(&self, layout: Layout) -> usize {
        if self.offload.is_super_frame() { self.offload.gso_size.into() } else { self.packet.len() - layout.payload }
    }

    fn is_proven(&self, layout: Layout) -> bool {
        self.offload.needs_checksum() || is_complete(self.packet, layout)
    }
}

/// Segments of one flow that follow one another.
struct Train<'p> {
    ethernet: [u8; ETHERNET],
    offload: Offload,
    layout: Layout,
    /// The first packet, whole.
    first: &'p [u8],
    /// The payloads.
    parts: Vec<&'p [u8]>,
    /// Of all of them together.
    bytes: usize,
    segments: usize,
    /// What each segment carries, but for the last.
    size: usize,
    /// The TCP flags of all of them together.
    flags: u8,
    /// Nothing can follow.
    over: bool,
}

impl<'p> Train<'p> {
    fn empty() -> Self {
        let layout = Layout { kind: Kind::Udp, transport: 0, payload: 0 };
        let offload = Offload::default();
        let ethernet = [0; ETHERNET];
        Self {
            ethernet,
            offload,
            layout,
            first: &[],
            parts: Vec::new(),
            bytes: 0,
            segments: 0,
            size: 1,
            flags: 0,
            over: false,
        }
    }

    fn recycle<'q>(mut self) -> Train<'q> {
        self.parts.clear();
        Train { parts: self.parts.into_iter().map_while(|_| None).collect(), ..Train::empty() }
    }

    fn begin(&mut self, segment: &Segment<'p>, layout: Layout) {
        (self.ethernet, self.offload, self.layout) = (segment.ethernet, segment.offload, layout);
        self.first = segment.packet;
        self.parts.clear();
        (self.bytes, self.segments, self.size) = (0, 0, segment.size(layout).max(1));
        (self.flags, self.over) = (0, false);
        self.append(segment.packet);
    }

    /// Whether the packet is of the same flow. Of one flow there is one train at a time.
    fn is_flow(&self, packet: &[u8], layout: Layout) -> bool {
        let ports = MIN_HEADER..MIN_HEADER + 4;
        self.layout.kind == layout.kind
            && self.first[12..20] == packet[12..20]
            && self.first[ports.clone()] == packet[ports]
    }

    /// Takes a packet of the flow, if it goes on where the last one ended.
    fn add(&mut self, segment: &Segment<'p>) -> bool {
        let packet = segment.packet;
        let Some(payload) = packet.len().checked_sub(self.layout.payload).filter(|payload| *payload > 0) else {
            return false;
        };
        let least = if self.layout.kind == Kind::Tcp { MIN_TCP_SEGMENT } else { 1 };
        let sized = match segment.offload.is_super_frame() {
            true => usize::from(segment.offload.gso_size) == self.size,
            false => payload <= self.size && self.size >= least,
        };
        let segments = self.segments + payload.div_ceil(self.size);
        let fits = sized && segments <= MOST_SEGMENTS && self.layout.payload + self.bytes + payload <= MOST_BYTES;
        if !fits || segment.ethernet != self.ethernet || !self.agrees(packet) {
            return false;
        }
        let first = Segment { ethernet: self.ethernet, offload: self.offload, packet: self.first };
        // Later ones were looked at when they were added.
        if (self.parts.len() == 1 && !first.is_proven(self.layout)) || !segment.is_proven(self.layout) {
            return false;
        }
        self.append(packet);
        true
    }

    /// Whether the headers say that it is the next one.
    fn agrees(&self, packet: &[u8]) -> bool {
        let same = |at: Range<usize>| self.first[at.clone()] == packet[at];
        let ip = same(0..2) && same(6..10) && self.is_next_id(packet);
        ip && match self.layout.kind {
            Kind::Udp => true,
            Kind::Tcp => {
                let at = self.layout.transport;
                let next = read_u32(self.first, at + 4).wrapping_add(self.bytes as u32);
                let flags = (self.first[at + TCP_FLAGS] & !CWR) ^ packet[at + TCP_FLAGS];
                // The first byte of the flags is the length of the header, so the options are equally long.
                let header = same(at + 8..at + 13) && same(at + 14..at + 16) && same(at + 18..self.layout.payload);
                read_u32(packet, at + 4) == next && flags & !(PSH | FIN) == 0 && header
            }
        }
    }

    /// In packets that may not be fragmented the identification means nothing, so that what was lost between them, or was never one
    /// flow's own count, does not matter.
    fn is_next_id(&self, packet: &[u8]) -> bool {
        let counts = read_u16(packet, 4) == read_u16(self.first, 4).wrapping_add(self.segments as u16);
        counts || packet[6] & DONT_FRAGMENT != 0
    }

    fn append(&mut self, packet: &'p [u8]) {
        let payload = &packet[self.layout.payload..];
        self.parts.push(payload);
        self.bytes += payload.len();
        self.segments += payload.len().div_ceil(self.size);
        let ends = match self.layout.kind {
            Kind::Tcp => {
                let flags = packet[self.layout.transport + TCP_FLAGS];
                self.flags |= flags;
                flags & (PSH | FIN) != 0
            }
            Kind::Udp => false,
        };
        self.over = ends || !payload.len().is_multiple_of(self.size) || self.segments >= MOST_SEGMENTS;
    }

    fn emit(&self, out: &mut dyn FnMut(Frame<'_, 'p>)) {
        if self.parts.len() == 1 {
            return out(Frame { offload: self.offload, head: &self.ethernet, parts: &[self.first] });
        }
        let mut head = [0; ETHERNET + MAX_HEADERS];
        let head = &mut head[..ETHERNET + self.layout.payload];
        let (ethernet, headers) = head.split_at_mut(ETHERNET);
        ethernet.copy_from_slice(&self.ethernet);
        headers.copy_from_slice(&self.first[..self.layout.payload]);
        let gso_type = match self.layout.kind {
            Kind::Tcp => {
                put(headers, self.layout.transport + TCP_FLAGS, [self.flags]);
                if self.flags & CWR == 0 { GSO_TCPV4 } else { GSO_TCPV4 | GSO_ECN }
            }
            Kind::Udp => GSO_UDP_L4,
        };
        set_lengths(headers, self.layout, self.bytes);
        let offload = Offload {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: (ETHERNET + self.layout.payload) as u16,
            gso_size: self.size as u16,
            csum_start: (ETHERNET + self.layout.transport) as u16,
            csum_offset: self.layout.kind.checksum_offset(),
        };
        out(Frame { offload, head, parts: &self.parts });
    }
}
