use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::fuzz;

proptest! {
    #[test]
    fn random_frames_are_survived(data in vec(any::<u8>(), 0..200)) {
        fuzz::frame(&data);
    }

    #[test]
    fn random_packets_are_survived(data in vec(any::<u8>(), 0..200)) {
        fuzz::packet(&data);
    }
}

#[test]
fn the_corpus_and_its_neighbours_are_survived() {
    replay("frame", fuzz::frame);
    replay("packet", fuzz::packet);
}

/// Runs every file, every truncation of it, and every single bit flipped.
fn replay(name: &str, harness: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let data = std::fs::read(entry.unwrap().path()).unwrap();
        harness(&data);
        files += 1;
        // The headers are where it matters.
        for len in 0..data.len().min(64) {
            harness(&data[..len]);
        }
        for bit in 0..data.len().min(54) * 8 {
            let mut flipped = data.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            harness(&flipped);
        }
    }
    assert!(files >= 8, "the corpus of {name} is there");
}
