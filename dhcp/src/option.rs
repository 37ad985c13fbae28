//! The options of a message, gathered from wherever they stand.
//!
//! Input is read here and not by `dhcproto`, whose decoder knows no overloading, stops at the first option it cannot
//! read, and asserts lengths that a stranger chooses.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::DropReason;

/// Where the options begin: the fixed fields of RFC 2131 §2 and the magic cookie.
pub(crate) const OPTIONS_AT: usize = 240;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

pub(crate) const SUBNET_MASK: u8 = 1;
pub(crate) const DNS_SERVER: u8 = 6;
pub(crate) const HOST_NAME: u8 = 12;
pub(crate) const DOMAIN_NAME: u8 = 15;
pub(crate) const INTERFACE_MTU: u8 = 26;
pub(crate) const BROADCAST_ADDRESS: u8 = 28;
pub(crate) const REQUESTED_ADDRESS: u8 = 50;
pub(crate) const LEASE_TIME: u8 = 51;
pub(crate) const OVERLOAD: u8 = 52;
pub(crate) const MESSAGE_TYPE: u8 = 53;
pub(crate) const SERVER_IDENTIFIER: u8 = 54;
pub(crate) const PARAMETER_LIST: u8 = 55;
pub(crate) const MAX_MESSAGE_SIZE: u8 = 57;
pub(crate) const CLIENT_IDENTIFIER: u8 = 61;
pub(crate) const RAPID_COMMIT: u8 = 80;
pub(crate) const CLIENT_FQDN: u8 = 81;
pub(crate) const RELAY_INFORMATION: u8 = 82;
pub(crate) const DOMAIN_SEARCH: u8 = 119;
const PAD: u8 = 0;
const END: u8 = 255;

/// The options of one message; parts of one option are joined (RFC 3396).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Reads the options field, then `file` and `sname` if option 52 says that they hold options (RFC 2132 §9.3); this
    /// is the order in which RFC 3396 §5 joins them.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, DropReason> {
        let mut options = Self::default();
        options.gather(message.get(OPTIONS_AT..).ok_or(DropReason::BadLength)?)?;
        let overload = match options.0.remove(&OVERLOAD).as_deref() {
            None => 0,
            Some([bits @ 1..=3]) => *bits,
            Some(_) => return Err(DropReason::BadOption),
        };
        if overload & 1 != 0 {
            options.gather(message.get(FILE).ok_or(DropReason::BadLength)?)?;
        }
        if overload & 2 != 0 {
            options.gather(message.get(SNAME).ok_or(DropReason::BadLength)?)?;
        }
        // An overload option inside an overloaded field means nothing.
        options.0.remove(&OVERLOAD);
        Ok(options)
    }

    /// A field without end option ends with its last byte: some clients save it.
    fn gather(&mut self, mut field: &[u8]) -> Result<(), DropReason> {
        loop {
            match *field {
                [] | [END, ..] => return Ok(()),
                [PAD, ref rest @ ..] => field = rest,
                [code, length, ref rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(length.into()).ok_or(DropReason::BadOption)?;
                    self.0.entry(code).or_default().extend_from_slice(value);
                    field = rest;
                }
                [_] => return Err(DropReason::BadOption),
            }
        }
    }

    /// The options as one options field, for the harness that reads them again.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (code, value) in &self.0 {
            push(&mut out, *code, value);
        }
        out.push(END);
        out
    }

    /// The value of an option of any length.
    pub(crate) fn bytes(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    /// The value of an option that has exactly `N` bytes by definition.
    pub(crate) fn fixed<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, DropReason> {
        self.bytes(code).map(|value| value.try_into().map_err(|_| DropReason::BadOption)).transpose()
    }

    /// The value of an option that is one address.
    pub(crate) fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, DropReason> {
        Ok(self.fixed::<4>(code)?.map(Ipv4Addr::from))
    }
}

/// Appends an option, in several parts if it is longer than one can be (RFC 3396).
pub(crate) fn push(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    if value.is_empty() {
        out.extend_from_slice(&[code, 0]);
    }
    for part in value.chunks(255) {
        out.push(code);
        out.push(u8::try_from(part.len()).expect("a chunk has at most 255 bytes"));
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS_AT];
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn parts_of_an_option_are_joined_across_the_fields_in_the_order_options_file_sname() {
        let mut bytes = message(&[61, 2, b'a', b'b', 52, 1, 3, 255]);
        bytes[FILE][..5].copy_from_slice(&[0, 61, 1, b'c', 255]);
        bytes[SNAME][..4].copy_from_slice(&[61, 1, b'd', 255]);
        let options = Options::parse(&bytes).unwrap();
        assert_eq!(options.bytes(61), Some(&b"abcd"[..]));
    }

    #[test]
    fn fields_that_are_not_overloaded_are_not_read() {
        let mut bytes = message(&[61, 1, b'a', 255]);
        bytes[FILE][..4].copy_from_slice(&[12, 1, b'x', 255]);
        assert_eq!(Options::parse(&bytes).unwrap().bytes(12), None);
    }

    #[test]
    fn an_overload_option_inside_an_overloaded_field_does_not_open_another_one() {
        let mut bytes = message(&[52, 1, 1, 255]);
        bytes[FILE][..4].copy_from_slice(&[52, 1, 3, 255]);
        bytes[SNAME][..4].copy_from_slice(&[12, 1, b'x', 255]);
        assert_eq!(Options::parse(&bytes).unwrap(), Options::default());
    }

    #[test]
    fn an_overload_of_neither_field_or_of_unknown_ones_is_refused() {
        for bad in [&[52, 1, 0][..], &[52, 1, 4], &[52, 0], &[52, 2, 1, 1]] {
            assert_eq!(Options::parse(&message(bad)), Err(DropReason::BadOption), "{bad:?}");
        }
    }

    #[test]
    fn pads_and_a_missing_end_are_fine_but_an_option_beyond_the_end_is_not() {
        assert_eq!(Options::parse(&message(&[0, 0, 53, 1, 1, 0])).unwrap().bytes(53), Some(&[1][..]));
        assert_eq!(Options::parse(&message(&[53, 2, 1])), Err(DropReason::BadOption));
        assert_eq!(Options::parse(&message(&[53])), Err(DropReason::BadOption));
    }

    #[test]
    fn nothing_is_read_after_the_end() {
        assert_eq!(Options::parse(&message(&[255, 53, 9])).unwrap(), Options::default());
    }

    #[test]
    fn a_long_option_is_split_and_joined_again() {
        let value: Vec<u8> = (0..=255).chain(0..=255).collect();
        let mut field = Vec::new();
        push(&mut field, 43, &value);
        assert_eq!(field.len(), value.len() + 3 * 2);
        assert_eq!(Options::parse(&message(&field)).unwrap().bytes(43), Some(&value[..]));
    }

    #[test]
    fn a_fixed_option_of_another_length_is_refused() {
        let options = Options::parse(&message(&[50, 3, 1, 2, 3])).unwrap();
        assert_eq!(options.address(50), Err(DropReason::BadOption));
    }
}
