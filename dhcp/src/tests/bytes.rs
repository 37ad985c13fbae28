//! Replies byte by byte, so that a change of any of them is seen.

use super::lab::{Host, Lab, Register, ip};
use crate::{Destination, Outcome};

/// The fields before the options: op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, then
/// sname and file, and the cookie.
fn head(ciaddr: [u8; 4], yiaddr: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, 0, 0, 0, 0x10, 0x07, 0, 0, 0, 0];
    bytes.extend_from_slice(&ciaddr);
    bytes.extend_from_slice(&yiaddr);
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 192]);
    bytes.extend_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    bytes
}

fn padded(mut bytes: Vec<u8>, options: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(options);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

const IDENTIFIER: [u8; 8] = [61, 6, 0xff, b'd', b'u', b'i', b'd', b'!'];

/// What a client is told that asks for nothing in particular.
const PARAMETERS: [u8; 52] = [
    1, 4, 255, 255, 0, 0, // mask
    6, 4, 10, 64, 0, 1, // DNS
    26, 2, 0x05, 0x78, // MTU 1400
    15, 12, b'l', b'a', b'b', b'.', b'i', b'n', b't', b'e', b'r', b'n', b'a', b'l', // domain
    28, 4, 10, 64, 255, 255, // broadcast
    119, 14, 3, b'l', b'a', b'b', 8, b'i', b'n', b't', b'e', b'r', b'n', b'a', b'l', 0, // search list
];

#[test]
fn offer_ack_and_nak_are_exactly_these_bytes() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::identified(7, b"\xffduid!");

    lab.send(&host, &host.discover());
    let claim = lab.only_claim();
    let offers = lab.answer(claim, Outcome::Granted { ip: ip(9), remaining: super::lab::secs(60) });
    let lead = [53, 1, 2, 54, 4, 10, 64, 0, 1, 51, 4, 0, 0, 0, 50, 58, 4, 0, 0, 0, 25, 59, 4, 0, 0, 0, 43];
    // 50 s are too short for the fuzz to show: T1 is 25, T2 43.
    assert_eq!(
        offers[0].message,
        padded(head([0; 4], [10, 64, 0, 9]), &[&lead[..], &IDENTIFIER, &PARAMETERS, &[255]].concat())
    );
    assert_eq!(offers[0].to, Destination::Unicast { mac: host.mac, ip: ip(9) });

    lab.send(&host, &host.renew(ip(9)));
    let claim = lab.only_claim();
    let acks = lab.answer(claim, Outcome::Granted { ip: ip(9), remaining: super::lab::secs(34) });
    let lead = [53, 1, 5, 54, 4, 10, 64, 0, 1, 51, 4, 0, 0, 0, 24, 58, 4, 0, 0, 0, 12, 59, 4, 0, 0, 0, 21];
    assert_eq!(
        acks[0].message,
        padded(head([10, 64, 0, 9], [10, 64, 0, 9]), &[&lead[..], &IDENTIFIER, &PARAMETERS, &[255]].concat())
    );

    let naks = lab.send(&host, &host.reboot([192, 168, 0, 1].into()));
    let mut lead = vec![53, 1, 6, 54, 4, 10, 64, 0, 1, 56, 27];
    lead.extend_from_slice(b"address not of this network");
    lead.extend_from_slice(&IDENTIFIER);
    lead.push(255);
    assert_eq!(naks[0].message, padded(head([0; 4], [0; 4]), &lead));
    assert_eq!(naks[0].to, Destination::Broadcast);
}
