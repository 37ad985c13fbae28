//! The Internet checksum (RFC 1071).

use std::net::Ipv4Addr;

/// Adds the 16-bit words of `bytes`; an odd last byte is padded with zero.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u64 = 0;
    for word in &mut words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_be_bytes([*last, 0]));
    }
    u32::from(fold64(total))
}

/// Folds the carries in: the sum that stands in a partial checksum field.
pub(crate) fn fold(sum: u32) -> u16 {
    fold64(u64::from(sum))
}

fn fold64(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum over the pseudo header of TCP and UDP (RFC 9293 section 3.1, RFC 768).
pub(crate) fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> u32 {
    sum(&source.octets())
        + sum(&destination.octets())
        + u32::from(protocol)
        + (len >> 16) as u32
        + (len & 0xffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
    }

    #[test]
    fn an_odd_last_byte_is_the_high_one() {
        assert_eq!(fold(sum(&[0x12])), 0x1200);
        assert_eq!(fold(sum(&[0xff, 0xff, 0x01])), 0x0100);
    }
}
