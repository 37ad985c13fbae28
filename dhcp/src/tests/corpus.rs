//! Messages as real clients send them, byte by byte, whole and damaged.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path};

use super::lab::{NONE, ip};
use crate::{
    DropReason, fuzz,
    request::{Commit, Kind, Request},
};

/// Damage beyond the fixed fields that nothing reads.
const UNREAD: std::ops::Range<usize> = 44..236;

fn corpus() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/message");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    let corpus: BTreeMap<_, _> = fs::read_dir(folder).unwrap().map(read).collect();
    assert!(corpus.len() >= 20, "the corpus is there");
    corpus
}

/// How much of a message is not padding.
fn written(message: &[u8]) -> usize {
    message.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn parsed(name: &str) -> Request {
    Request::parse(&corpus()[name]).unwrap()
}

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 77);

#[test]
fn every_message_of_every_client_is_what_it_is_meant_to_be() {
    let offered = Kind::Discover { want: None, commit: Commit::Offered };
    let rapid = Kind::Discover { want: None, commit: Commit::Rapid };
    let expected = [
        ("dhclient-discover", Kind::Discover { want: Some(ADDRESS), commit: Commit::Offered }),
        ("dhclient-request", Kind::Select { ip: ADDRESS }),
        ("dhclient-reboot", Kind::Reboot { ip: ADDRESS }),
        ("dhclient-renew", Kind::Renew { ip: ADDRESS }),
        ("dhclient-release", Kind::Release { ip: ADDRESS }),
        ("dhclient-decline", Kind::Decline { ip: ADDRESS }),
        ("dhcpcd-discover", rapid),
        ("dhcpcd-request", Kind::Select { ip: ADDRESS }),
        ("dhcpcd-inform", Kind::Inform { ip: ADDRESS }),
        ("udhcpc-discover", offered),
        ("udhcpc-request", Kind::Select { ip: ADDRESS }),
        ("udhcpc-renew", Kind::Renew { ip: ADDRESS }),
        ("udhcpc-release", Kind::Release { ip: ADDRESS }),
        ("networkd-discover", offered),
        ("networkd-rapid", rapid),
        ("networkd-request", Kind::Select { ip: ADDRESS }),
        ("networkd-renew", Kind::Renew { ip: ADDRESS }),
        ("windows-discover", offered),
        ("windows-request", Kind::Select { ip: ADDRESS }),
        ("ipxe-discover", offered),
        ("overloaded-request", Kind::Select { ip: ADDRESS }),
        ("long-identifier", offered),
        ("relay-information", offered),
    ];
    for (name, kind) in expected {
        assert_eq!(parsed(name).kind, kind, "{name}");
    }
    assert_eq!(Request::parse(&corpus()["bootp"]), Err(DropReason::Bootp));
    assert_eq!(Request::parse(&corpus()["offer-of-a-server"]), Err(DropReason::NotDhcp));
}

#[test]
fn the_names_and_identities_of_clients_are_read() {
    assert_eq!(parsed("dhclient-discover").hostname.as_deref(), Some("debian"));
    assert_eq!(parsed("windows-request").hostname.as_deref(), Some("desktop-1a2b3c"));
    assert_eq!(parsed("udhcpc-discover").client, parsed("dhclient-discover").client);
    assert_eq!(parsed("udhcpc-discover").client, parsed("ipxe-discover").client);
    assert_ne!(parsed("networkd-discover").client, parsed("dhclient-discover").client);
    assert_eq!(parsed("long-identifier").client.as_bytes(), b"\0first half, second half");
    assert_eq!(parsed("relay-information").relay_information.unwrap().len(), 14);
    assert_eq!(parsed("windows-discover").flags, 0x8000);
    assert_eq!((parsed("udhcpc-discover").room, parsed("networkd-discover").room), (548, 1444));
}

#[test]
fn every_client_goes_from_discover_to_ack_with_its_own_messages() {
    for client in ["dhclient", "dhcpcd", "udhcpc", "networkd", "windows"] {
        let mut lab = super::lab::Lab::new();
        lab.pool = 77..78;
        let corpus = corpus();
        let mac = parsed(&format!("{client}-discover")).mac;
        for step in ["discover", "request", "reboot", "renew"] {
            let Some(message) = corpus.get(&format!("{client}-{step}")) else {
                continue;
            };
            let replies = lab.send_bytes(mac, message);
            assert_eq!(super::lab::reply(&replies).yiaddr(), ip(77), "{client} {step}");
        }
        assert_eq!(lab.bound(), [ADDRESS], "{client}");
        if let Some(release) = corpus.get(&format!("{client}-release")) {
            lab.send_bytes(mac, release);
            assert_eq!(lab.bound(), NONE, "{client}");
        }
    }
}

#[test]
fn the_corpus_whole_and_cut_harms_nobody() {
    for message in corpus().values() {
        fuzz::message(message);
        for end in (0..44).chain(236..written(message)) {
            fuzz::message(&message[..end]);
        }
    }
}

#[test]
fn the_corpus_with_bits_flipped_harms_nobody() {
    for message in corpus().values() {
        for at in (0..written(message)).filter(|at| !UNREAD.contains(at)) {
            let mut damaged = message.clone();
            // The ends of each byte and one in between, another one in each byte: all eight take seconds.
            for bit in [0, 1 + at % 6, 7] {
                damaged[at] = message[at] ^ 1 << bit;
                fuzz::message(&damaged);
            }
        }
    }
}
