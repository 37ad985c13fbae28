//! Replays the committed corpus of every decoder: as it is, truncated at every byte, and with every bit flipped.

use std::path::Path;

use crate::fuzz;

fn replay(name: &str, harness: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        harness(&bytes);
        (0..bytes.len()).for_each(|len| harness(&bytes[..len]));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            harness(&flipped);
        }
        files += 1;
    }
    assert!(files > 0, "no corpus in {}", folder.display());
}

#[test]
fn init_payload() {
    replay("init_payload", fuzz::init_payload);
}

#[test]
fn resp_payload() {
    replay("resp_payload", fuzz::resp_payload);
}

#[test]
fn control() {
    replay("control", fuzz::control);
}

#[test]
fn fragment_header() {
    replay("fragment_header", fuzz::fragment_header);
}

#[test]
fn message() {
    replay("message", fuzz::message);
}

#[test]
fn datagram() {
    replay("message", fuzz::datagram);
}
