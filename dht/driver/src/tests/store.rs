//! The store as a file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use dht::Write;

use super::scratch;
use crate::{Store, StoreError};

fn one_write() -> Vec<Write> {
    vec![Write { key: b"key".to_vec(), value: Some(b"value".to_vec()) }]
}

fn created(name: &str) -> PathBuf {
    let path = scratch(name).join("store");
    drop(Store::create(&path, &one_write()).unwrap());
    path
}

#[test]
fn a_store_holds_after_opening_what_was_committed() {
    let path = created("reopen");
    let (store, image) = Store::open(&path).unwrap();
    assert_eq!(image.get(b"key".as_slice()), Some(&b"value".to_vec()));
    store.commit(&[Write { key: b"key".to_vec(), value: None }]).unwrap();
    drop(store);
    assert!(Store::open(&path).unwrap().1.is_empty());
}

#[test]
fn only_its_owner_may_read_a_store() {
    let path = created("mode");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_store_is_neither_created_over_another_nor_opened_out_of_nothing() {
    let path = created("exists");
    assert!(matches!(Store::create(&path, &[]), Err(StoreError::Exists(_))));
    assert!(matches!(Store::open(&path.with_file_name("other")), Err(StoreError::Missing(_))));
    assert!(!path.with_file_name("other").exists());
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let path = created("busy");
    let (_store, _) = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Busy(_))));
}

#[test]
fn an_empty_file_is_damaged_and_not_a_new_store() {
    let path = created("empty");
    fs::write(&path, b"").unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_file_cut_short_or_of_another_kind_is_damaged_and_stays_as_it_is() {
    let path = created("cut");
    let whole = fs::read(&path).unwrap();
    for length in [1, 8, 100, 4096, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Store::open(&path).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{length}: {error}");
        assert_eq!(fs::read(&path).unwrap(), whole[..length], "{length}");
    }
    fs::write(&path, b"not a database at all, whatever its name says").unwrap();
    let error = Store::open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("store is damaged"), "{error}");
}

#[test]
fn a_flipped_bit_is_found_or_does_not_matter() {
    let path = created("bit");
    let (store, image) = Store::open(&path).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut found = 0;
    for at in (0..whole.len()).filter(|at| whole[*at] != 0).step_by(101) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        match Store::open(&path) {
            Ok((_, held)) => assert_eq!(held, image, "byte {at}"),
            Err(error) => {
                found += 1;
                assert!(matches!(error, StoreError::Damaged { .. }), "byte {at}: {error}");
                assert_eq!(fs::read(&path).unwrap(), flipped, "byte {at}");
            }
        }
    }
    assert!(found > 0);
}
