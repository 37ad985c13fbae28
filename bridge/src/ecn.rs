//! Congestion notification through the tunnel (RFC 3168), in the normal mode of RFC 6040.
//!
//! What the sender of a packet says of it stands on the outside of its datagram, too, and what a router on the way says there
//! comes back into the packet. The DSCP beside it does not: it means what the network it was set in means by it, and would tell
//! observers what is inside, so datagrams leave with none, and packets arrive with their own (RFC 2983, the pipe model).

use crate::DropReason;
use crate::checksum::{fold, sum};
use crate::headers::put;
use crate::ipv4::Ipv4;

const TOS: usize = 1;
const MASK: u8 = 0b11;

/// What the two bits of an IP header say (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Its ends know nothing of it: congestion is told by loss.
    #[default]
    NotCapable = 0b00,
    /// ECT(1).
    CapableOne = 0b01,
    /// ECT(0).
    Capable = 0b10,
    /// There was congestion.
    Experienced = 0b11,
}

impl Ecn {
    /// The lower two bits of `tos`.
    pub fn from_tos(tos: u8) -> Self {
        match tos & MASK {
            0b01 => Self::CapableOne,
            0b10 => Self::Capable,
            0b11 => Self::Experienced,
            _ => Self::NotCapable,
        }
    }

    /// What a packet says.
    pub fn of(packet: &[u8]) -> Self {
        Ipv4::parse(packet).map_or(Self::NotCapable, |ipv4| Self::from_tos(ipv4.bytes()[TOS]))
    }

    /// Brings what the outside of a datagram says into its packet (RFC 6040 section 4.2, figure 4).
    ///
    /// # Errors
    /// There was congestion, and the packet's ends would not understand: it has to be lost.
    pub fn enter(self, packet: &mut [u8]) -> Result<(), DropReason> {
        match (Self::of(packet), self) {
            (Self::NotCapable, Self::Experienced) => return Err(DropReason::Congested),
            (Self::Capable | Self::CapableOne, Self::Experienced) => set(packet, Self::Experienced),
            (Self::Capable, Self::CapableOne) => set(packet, Self::CapableOne),
            (Self::NotCapable | Self::Experienced, _) | (_, Self::NotCapable | Self::Capable) => {}
            (Self::CapableOne, Self::CapableOne) => {}
        }
        Ok(())
    }

    /// Has a packet say that there was congestion, if its ends understand that.
    pub fn mark(packet: &mut [u8]) -> bool {
        match Self::of(packet) {
            Self::NotCapable => false,
            Self::Experienced => true,
            Self::Capable | Self::CapableOne => {
                set(packet, Self::Experienced);
                true
            }
        }
    }
}

fn set(packet: &mut [u8], ecn: Ecn) {
    let Ok(header_len) = Ipv4::parse(packet).map(Ipv4::header_len) else { return };
    packet[TOS] = packet[TOS] & !MASK | ecn as u8;
    put(packet, 10, [0, 0]);
    let checksum = !fold(sum(&packet[..header_len]));
    put(packet, 10, checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Ecn; 4] = [Ecn::NotCapable, Ecn::CapableOne, Ecn::Capable, Ecn::Experienced];

    fn packet(tos: u8) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 24, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 64, 0, 9, 10, 64, 0, 7, 1, 2, 3, 4];
        let checksum = !fold(sum(&packet[..20]));
        put(&mut packet, 10, checksum.to_be_bytes());
        packet
    }

    #[test]
    fn both_headers_become_one_as_in_figure_4_of_rfc_6040() {
        use Ecn::{Capable, CapableOne, Experienced, NotCapable};
        let lost = None;
        let table = [
            (NotCapable, [Some(NotCapable), Some(NotCapable), Some(NotCapable), lost]),
            (CapableOne, [Some(CapableOne), Some(CapableOne), Some(CapableOne), Some(Experienced)]),
            (Capable, [Some(Capable), Some(CapableOne), Some(Capable), Some(Experienced)]),
            (Experienced, [Some(Experienced); 4]),
        ];
        for (inner, row) in table {
            for (outer, expected) in ALL.into_iter().zip(row) {
                let dscp = 0b1011_1000;
                let mut arriving = packet(dscp | inner as u8);
                let result = outer.enter(&mut arriving);
                assert_eq!(result.is_ok(), expected.is_some(), "{inner:?} in {outer:?}");
                let seen = expected.unwrap_or(inner);
                assert_eq!(arriving, packet(dscp | seen as u8), "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn only_those_that_understand_are_marked() {
        for inner in ALL {
            let mut marked = packet(inner as u8);
            assert_eq!(Ecn::mark(&mut marked), inner != Ecn::NotCapable);
            let expected = if inner == Ecn::NotCapable { inner } else { Ecn::Experienced };
            assert_eq!(marked, packet(expected as u8));
        }
    }

    #[test]
    fn what_is_no_packet_stays_as_it_is() {
        for mut bytes in [vec![], vec![0x45], vec![0x60; 40]] {
            let before = bytes.clone();
            assert_eq!(Ecn::of(&bytes), Ecn::NotCapable);
            let _ = Ecn::Capable.enter(&mut bytes);
            assert_eq!(bytes, before);
        }
    }
}
