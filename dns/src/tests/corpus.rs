use std::{fs, path::Path};

use proptest::prelude::*;

use crate::fuzz;

/// Every committed input as it is, cut at every length, and with every bit turned once.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let data = fs::read(entry.unwrap().path()).unwrap();
        files += 1;
        for length in 0..=data.len() {
            target(&data[..length]);
        }
        for bit in 0..data.len() * 8 {
            let mut data = data.clone();
            data[bit / 8] ^= 1 << (bit % 8);
            target(&data);
        }
    }
    assert!(files > 0, "the corpus {name} is there");
}

#[test]
fn queries() {
    replay("query", fuzz::query);
}

#[test]
fn replies_of_upstreams() {
    replay("forwarded", fuzz::forwarded);
}

#[test]
fn names() {
    replay("names", fuzz::names);
}

proptest! {
    #[test]
    fn random_bytes(data: Vec<u8>) {
        fuzz::query(&data);
        fuzz::forwarded(&data);
        fuzz::names(&data);
    }

    #[test]
    fn random_bytes_behind_a_sound_header(mut data: Vec<u8>) {
        data.splice(..0, *b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01");
        fuzz::query(&data);
        data[2] = 0x81;
        fuzz::forwarded(&data);
    }
}
