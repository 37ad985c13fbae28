//! The header the kernel puts before each frame of a TAP with `IFF_VNET_HDR`, and what it means.
//!
//! Its layout is the legacy `virtio_net_hdr` of ten bytes (VIRTIO 1.2 section 5.1.6), little-endian because the
//! TAP is opened with `TUNSETVNETLE`. Two nodes hand each other a packet with its meaning, not with its header:
//! eight bytes, relative to the IP packet, that the receiver believes only as far as the packet itself agrees.

use crate::DropReason;
use crate::ipv4::{Ipv4, TCP, UDP};

/// The checksum field holds the sum over the pseudo header only.
pub const NEEDS_CSUM: u8 = 1;
/// The checksum was verified on the way; says nothing about the bytes in the field.
pub const DATA_VALID: u8 = 2;
/// Not a super-frame.
pub const GSO_NONE: u8 = 0;
/// A TCP super-frame.
pub const GSO_TCPV4: u8 = 1;
/// A UDP super-frame: many datagrams of one size, the last may be shorter.
pub const GSO_UDP_L4: u8 = 5;
/// Beside [`GSO_TCPV4`]: congestion was signalled, the flag CWR goes on the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// Bytes of an Ethernet header, which all offsets of the kernel count.
pub const ETHERNET: usize = 14;

/// Linux accepts no smaller segments from TCP (`TCP_MIN_SND_MSS`). A peer that names smaller ones wants us to cut.
pub(crate) const MIN_TCP_SEGMENT: usize = 48;
/// Linux puts no more datagrams into one super-frame (`UDP_MAX_SEGMENTS`).
const MAX_UDP_SEGMENTS: usize = 128;

/// What is left to do to a frame. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`], [`GSO_TCPV4`] perhaps with [`GSO_ECN`], or [`GSO_UDP_L4`].
    pub gso_type: u8,
    /// Bytes of all headers of a super-frame. Only a hint where the kernel says it.
    pub hdr_len: u16,
    /// Payload bytes of each segment of a super-frame.
    pub gso_size: u16,
    /// Where the checksum begins to add.
    pub csum_start: u16,
    /// Where the result goes, from `csum_start` on.
    pub csum_offset: u16,
}

impl Offload {
    /// Bytes before each frame.
    pub const LEN: usize = 10;

    /// Reads the kernel's header from the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let Some(&[flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1]) = bytes.first_chunk() else {
            return Err(DropReason::BadOffload);
        };
        Ok(Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([s0, s1]),
            csum_start: u16::from_le_bytes([c0, c1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        })
    }

    /// The kernel's header.
    pub fn emit(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [s0, s1] = self.gso_size.to_le_bytes();
        let [c0, c1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, s0, s1, c0, c1, o0, o1]
    }

    /// Whether the frame is complete as it is.
    pub fn is_plain(self) -> bool {
        !self.needs_checksum() && !self.is_super_frame()
    }

    /// Whether the checksum of TCP or UDP is only begun.
    pub fn needs_checksum(self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Whether the frame stands for several.
    pub fn is_super_frame(self) -> bool {
        self.gso_type != GSO_NONE
    }

    /// Eight bytes that say the same of the IP packet: flags, kind, segment size, where the checksum starts and
    /// where it goes (big-endian), and a zero. The length of the headers is not said: the packet has it.
    pub fn to_wire(self) -> [u8; 8] {
        if self.is_plain() {
            return [0; 8];
        }
        let [s0, s1] = self.gso_size.to_be_bytes();
        let [c0, c1] = self.csum_start.saturating_sub(ETHERNET as u16).to_be_bytes();
        let offset = u8::try_from(self.csum_offset).unwrap_or(u8::MAX);
        [self.flags & NEEDS_CSUM, self.gso_type, s0, s1, c0, c1, offset, 0]
    }

    /// Believes what a peer says about `packet` as far as the packet's own headers agree.
    pub fn from_wire(bytes: [u8; 8], packet: &[u8]) -> Result<Self, DropReason> {
        let [flags, gso_type, s0, s1, c0, c1, csum_offset, zero] = bytes;
        let said = Self {
            flags,
            gso_type,
            hdr_len: 0,
            gso_size: u16::from_be_bytes([s0, s1]),
            csum_start: u16::from_be_bytes([c0, c1]).checked_add(ETHERNET as u16).ok_or(DropReason::BadOffload)?,
            csum_offset: u16::from(csum_offset),
        };
        if bytes == [0; 8] {
            return Ok(Self::default());
        }
        // Whatever is not plain needs a checksum: the kernel makes no super-frame without.
        if zero != 0 || flags != NEEDS_CSUM {
            return Err(DropReason::BadOffload);
        }
        said.check(packet)
    }

    /// Holds the meaning against the packet, and returns it in its one spelling: `hdr_len` as the headers have it,
    /// and no super-frame where one segment would do.
    pub fn check(self, packet: &[u8]) -> Result<Self, DropReason> {
        if self.is_plain() {
            return Ok(Self::default());
        }
        let layout = Layout::of(packet)?;
        let partial = Self {
            flags: NEEDS_CSUM,
            csum_start: (ETHERNET + layout.transport) as u16,
            csum_offset: layout.kind.checksum_offset(),
            ..Self::default()
        };
        if !self.needs_checksum() || self.csum_start != partial.csum_start || self.csum_offset != partial.csum_offset {
            return Err(DropReason::BadOffload);
        }
        if !self.is_super_frame() {
            return if self.gso_size == 0 { Ok(partial) } else { Err(DropReason::BadOffload) };
        }
        let size = usize::from(self.gso_size);
        let payload = packet.len() - layout.payload;
        let allowed = match layout.kind {
            Kind::Tcp => self.gso_type & !GSO_ECN == GSO_TCPV4 && size >= MIN_TCP_SEGMENT,
            Kind::Udp => self.gso_type == GSO_UDP_L4 && size > 0 && payload.div_ceil(size) <= MAX_UDP_SEGMENTS,
        };
        if !allowed {
            return Err(DropReason::BadOffload);
        }
        if payload <= size {
            return Ok(partial);
        }
        Ok(Self {
            gso_type: self.gso_type,
            gso_size: self.gso_size,
            hdr_len: (ETHERNET + layout.payload) as u16,
            ..partial
        })
    }
}

/// The transports that can be left unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    pub(crate) fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Where the headers of an unfragmented TCP or UDP packet lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) kind: Kind,
    /// Where the transport header begins, in the packet.
    pub(crate) transport: usize,
    /// Where its payload begins.
    pub(crate) payload: usize,
}

impl Layout {
    /// Reads the headers of a packet that fills `packet` exactly.
    pub(crate) fn of(packet: &[u8]) -> Result<Self, DropReason> {
        let ipv4 = Ipv4::parse(packet)?;
        if ipv4.bytes().len() != packet.len() || ipv4.is_fragment() {
            return Err(DropReason::BadOffload);
        }
        let transport = ipv4.header_len();
        let segment = ipv4.payload();
        let (kind, header_len) = match ipv4.protocol() {
            TCP => {
                let offset = segment.get(12).ok_or(DropReason::BadOffload)?;
                (Kind::Tcp, usize::from(offset >> 4) * 4)
            }
            UDP => (Kind::Udp, 8),
            _ => return Err(DropReason::BadOffload),
        };
        let shortest = match kind {
            Kind::Tcp => 20,
            Kind::Udp => 8,
        };
        if header_len < shortest || segment.len() < header_len {
            return Err(DropReason::BadOffload);
        }
        Ok(Self { kind, transport, payload: transport + header_len })
    }
}
