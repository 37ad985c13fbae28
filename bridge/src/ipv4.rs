//! A checked view of an IPv4 packet: constructed only over bytes whose lengths agree (RFC 791 section 3.1).

use std::net::Ipv4Addr;

use crate::DropReason;

pub(crate) const ICMP: u8 = 1;
pub(crate) const IGMP: u8 = 2;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The shortest header.
pub(crate) const MIN_HEADER: usize = 20;

/// One IPv4 packet, without anything that followed it in its frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv4<'p>(&'p [u8]);

impl<'p> Ipv4<'p> {
    /// Takes the packet at the start of `bytes`; Ethernet padding behind it is cut off.
    pub(crate) fn parse(bytes: &'p [u8]) -> Result<Self, DropReason> {
        let Some(header) = bytes.first_chunk::<MIN_HEADER>() else {
            return Err(DropReason::BadIpv4);
        };
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < MIN_HEADER || total_len < header_len {
            return Err(DropReason::BadIpv4);
        }
        let packet = bytes.get(..total_len).ok_or(DropReason::BadIpv4)?;
        Ok(Self(packet))
    }

    pub(crate) fn bytes(self) -> &'p [u8] {
        self.0
    }

    pub(crate) fn header_len(self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }

    pub(crate) fn header(self) -> &'p [u8] {
        &self.0[..self.header_len()]
    }

    pub(crate) fn payload(self) -> &'p [u8] {
        &self.0[self.header_len()..]
    }

    pub(crate) fn protocol(self) -> u8 {
        self.0[9]
    }

    pub(crate) fn source(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15])
    }

    pub(crate) fn destination(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[16], self.0[17], self.0[18], self.0[19])
    }

    pub(crate) fn dont_fragment(self) -> bool {
        self.0[6] & 0x40 != 0
    }

    /// A piece of a packet, the first one included.
    pub(crate) fn is_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }

    /// A piece that does not begin with the transport header.
    pub(crate) fn is_later_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x1fff != 0
    }

    /// Source and destination port, where the packet has them.
    pub(crate) fn ports(self) -> Option<(u16, u16)> {
        if self.is_later_fragment() || !matches!(self.protocol(), TCP | UDP) {
            return None;
        }
        let [a, b, c, d] = *self.payload().first_chunk::<4>()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}
