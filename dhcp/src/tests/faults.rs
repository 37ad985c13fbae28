//! Messages that are wrong, each with the reason it is counted under.

use dhcproto::{Encodable, v4::MessageType};

use super::lab::{Host, Lab, ip, kind, reply};
use crate::DropReason;

fn discover() -> Vec<u8> {
    Host::new(1).discover().to_vec().unwrap()
}

/// The message with its options replaced.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut bytes = discover();
    bytes.truncate(240);
    bytes.extend_from_slice(options);
    bytes
}

fn changed(at: usize, value: u8) -> Vec<u8> {
    let mut bytes = discover();
    bytes[at] = value;
    bytes
}

#[track_caller]
fn refused(message: &[u8], reason: DropReason) {
    let mut lab = Lab::new();
    assert_eq!(lab.send_bytes([2, 0, 0, 0, 0, 1], message), []);
    assert_eq!(lab.server.drops().iter().collect::<Vec<_>>(), [(&reason, &1)]);
    assert_eq!(lab.events(), []);
}

#[test]
fn too_short_and_too_long() {
    refused(&[], DropReason::BadLength);
    refused(&discover()[..239], DropReason::BadLength);
    refused(&with_options(&[0; 2048]), DropReason::BadLength);
}

#[test]
fn replies_and_messages_without_the_cookie() {
    refused(&changed(0, 2), DropReason::NotDhcp);
    refused(&changed(0, 0), DropReason::NotDhcp);
    refused(&changed(236, 0), DropReason::NotDhcp);
}

#[test]
fn a_relayed_message() {
    refused(&changed(27, 1), DropReason::Relayed);
}

#[test]
fn hardware_that_is_not_ethernet_or_not_one_machine() {
    refused(&changed(1, 32), DropReason::BadHardware);
    for length in [0, 5, 7, 16, 17, 255] {
        refused(&changed(2, length), DropReason::BadHardware);
    }
    refused(&changed(28, 3), DropReason::BadHardware);
    let mut zero = discover();
    zero[28..34].fill(0);
    refused(&zero, DropReason::BadHardware);
}

#[test]
fn a_message_without_type_is_bootp() {
    refused(&with_options(&[255]), DropReason::Bootp);
    refused(&with_options(&[]), DropReason::Bootp);
}

#[test]
fn types_that_are_not_for_a_server() {
    for code in [0, 2, 5, 6, 9, 10, 13, 18, 255] {
        refused(&with_options(&[53, 1, code, 255]), DropReason::NotForServer);
    }
}

#[test]
fn options_that_are_cut_or_of_the_wrong_length() {
    let bad: [&[u8]; 12] = [
        &[53, 0, 255],
        &[53, 2, 1, 1, 255],
        &[53, 1, 1, 53, 1, 3, 255],
        &[53, 1, 1, 61, 200, 1],
        &[53, 1, 1, 61],
        &[53, 1, 1, 50, 3, 1, 2, 3, 255],
        &[53, 1, 1, 54, 5, 1, 2, 3, 4, 5, 255],
        &[53, 1, 1, 57, 1, 2, 255],
        &[53, 1, 1, 51, 2, 0, 0, 255],
        &[53, 1, 1, 80, 1, 0, 255],
        &[53, 1, 1, 52, 1, 4, 255],
        &[53, 1, 1, 52, 1, 1, 255],
    ];
    for (at, options) in bad.iter().enumerate() {
        let mut message = with_options(options);
        if at == 11 {
            // An overloaded file field whose option runs out of it.
            message[234..236].copy_from_slice(&[12, 9]);
        }
        refused(&message, DropReason::BadOption);
    }
}

#[test]
fn an_identifier_too_long_to_echo() {
    let mut options = vec![53, 1, 1];
    crate::option::push(&mut options, 61, &[7; 256]);
    refused(&with_options(&options), DropReason::BadOption);
}

#[test]
fn requests_about_no_address() {
    for options in [&[53, 1, 3][..], &[53, 1, 3, 54, 4, 10, 64, 0, 1], &[53, 1, 3, 50, 4, 0, 0, 0, 0], &[53, 1, 4]] {
        refused(&with_options(options), DropReason::NoAddress);
    }
    for code in [7, 8] {
        refused(&with_options(&[53, 1, code]), DropReason::NoAddress);
    }
}

#[test]
fn odd_but_valid_messages_are_served() {
    let odd: [&[u8]; 6] = [
        &[53, 1, 1],                                          // no end
        &[0, 0, 0, 53, 1, 1, 0, 0, 255, 9, 9, 9],             // pads, bytes after the end
        &[53, 1, 1, 61, 0, 255],                              // an empty identifier is none
        &[53, 1, 1, 61, 1, 9, 255],                           // a short one is one
        &[53, 1, 1, 12, 2, 0xff, 0xfe, 255],                  // a name that is no text
        &[53, 1, 1, 81, 1, 0, 82, 0, 151, 0, 121, 1, 0, 255], // options of lengths that cannot be
    ];
    for options in odd {
        let mut lab = Lab::new();
        let offer = reply(&lab.send_bytes([2, 0, 0, 0, 0, 1], &with_options(options)));
        assert_eq!((kind(&offer), offer.yiaddr()), (MessageType::Offer, ip(2)), "{options:?}");
    }
}

#[test]
fn options_that_stand_in_file_and_sname_are_read() {
    let mut message = with_options(&[53, 1, 3, 52, 1, 3, 255]);
    message[108..114].copy_from_slice(&[50, 4, 10, 64, 0, 66]);
    message[44..50].copy_from_slice(&[54, 4, 10, 64, 0, 1]);
    let mut lab = Lab::new();
    let ack = reply(&lab.send_bytes([2, 0, 0, 0, 0, 1], &message));
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, ip(66)));
}

#[test]
fn every_reason_has_its_own_name() {
    use DropReason::*;
    let all = [
        BadLength,
        NotDhcp,
        BadOption,
        Bootp,
        NotForServer,
        BadHardware,
        Relayed,
        NoAddress,
        OtherServer,
        NotHolder,
        Foreign,
        DeclineLoop,
        ClientsFull,
        OffersFull,
        ClaimsFull,
        NoneFree,
        Unavailable,
        TooShort,
        ClaimTimedOut,
        LateOutcome,
        WrongGrant,
        Unencodable,
    ];
    let names: std::collections::BTreeSet<_> = all.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), all.len());
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
}
