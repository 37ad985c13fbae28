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

    #[test]
    fn random_packets_are_put_together(data in vec(any::<u8>(), 0..400)) {
        fuzz::coalesce(&data);
    }
}

#[test]
fn the_corpus_and_its_neighbours_are_survived() {
    // The headers are where it matters.
    replay("frame", fuzz::frame, 54);
    replay("packet", fuzz::packet, 54);
    replay("coalesce", fuzz::coalesce, 240);
}

/// Runs every file, and truncates it and flips every single bit in so many bytes.
fn replay(name: &str, harness: fn(&[u8]), depth: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let data = std::fs::read(entry.unwrap().path()).unwrap();
        harness(&data);
        files += 1;
        for len in 0..data.len().min(depth + 10) {
            harness(&data[..len]);
        }
        for bit in 0..data.len().min(depth) * 8 {
            let mut flipped = data.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            harness(&flipped);
        }
    }
    assert!(files >= 8, "the corpus of {name} is there");
}
