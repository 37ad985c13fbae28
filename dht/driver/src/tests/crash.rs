//! A disk that stops at any write or sync, and keeps any part of what was not synced.

use std::io;
use std::sync::{Arc, Mutex};

use dht::{Image, Write};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;

use crate::Store;

/// The disk: what is safe, what is only in the cache, and how many operations it still does.
#[derive(Debug)]
struct Disk {
    safe: Vec<u8>,
    cached: Vec<Change>,
    left: Option<u64>,
    done: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

#[derive(Clone, Debug)]
struct Handle(Arc<Mutex<Disk>>);

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => return Err(io::Error::other("the power is off")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.done += 1;
        Ok(())
    }

    fn contents(&self) -> Vec<u8> {
        let mut bytes = self.safe.clone();
        self.cached.iter().for_each(|change| apply(&mut bytes, change));
        bytes
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Bytes(offset, data) => {
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(data);
        }
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().contents().len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let contents = self.0.lock().unwrap().contents();
        let bytes = contents.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.cached.push(Change::Length(length as usize));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.safe = disk.contents();
        disk.cached.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.cached.push(Change::Bytes(offset as usize, data.to_vec()));
        Ok(())
    }
}

fn disk(safe: Vec<u8>, left: Option<u64>) -> Handle {
    Handle(Arc::new(Mutex::new(Disk { safe, cached: Vec::new(), left, done: 0 })))
}

/// The commits of the test: each changes, adds and removes keys, some of them longer than a page.
fn commits() -> Vec<Vec<Write>> {
    let write = |key: &[u8], value: Option<&[u8]>| Write { key: key.to_vec(), value: value.map(<[u8]>::to_vec) };
    (0u8..4)
        .map(|n| {
            vec![
                write(b"counter", Some(&[n])),
                write(&[b'k', n], Some(&[n; 6000])),
                write(b"same", Some(&[n; 100])),
                write(&[b'k', n.wrapping_sub(2)], None),
            ]
        })
        .collect()
}

/// What the store holds after the first `n` commits.
fn after(n: usize) -> Image {
    let mut image = Image::new();
    for Write { key, value } in commits().into_iter().take(n).flatten() {
        match value {
            Some(value) => image.insert(key, value),
            None => image.remove(&key),
        };
    }
    image
}

/// Runs all commits on a disk that stops after `left` operations. Gives the disk and how many commits returned.
fn run_until(start: &[u8], left: Option<u64>) -> (Handle, usize) {
    let handle = disk(start.to_vec(), left);
    let mut done = 0;
    if let Ok((store, _)) = Store::on_backend(handle.clone()) {
        for writes in commits() {
            if store.commit(&writes).is_err() {
                break;
            }
            done += 1;
        }
    }
    (handle, done)
}

fn empty_store() -> Vec<u8> {
    let handle = disk(Vec::new(), None);
    drop(Store::on_backend(handle.clone()).unwrap());
    let disk = handle.0.lock().unwrap();
    disk.contents()
}

#[test]
fn after_a_crash_at_any_operation_the_store_holds_whole_commits_and_all_that_returned() {
    let start = empty_store();
    let (whole, done) = run_until(&start, None);
    assert_eq!(done, commits().len());
    let operations = whole.0.lock().unwrap().done;
    assert!(operations > 20, "{operations}");
    let mut rng = ChaCha8Rng::from_seed([3; 32]);
    for left in 0..operations {
        let (handle, done) = run_until(&start, Some(left));
        let (safe, cached) = {
            let disk = handle.0.lock().unwrap();
            (disk.safe.clone(), disk.cached.clone())
        };
        for attempt in 0..4 {
            let mut survived = safe.clone();
            for change in &cached {
                // Nothing, everything, or any part of what was not synced reaches the disk.
                if attempt == 1 || (attempt > 1 && rng.random_bool(0.5)) {
                    apply(&mut survived, change);
                }
            }
            let (_, image) = Store::on_backend(disk(survived, None))
                .unwrap_or_else(|error| panic!("crash after {left} operations, attempt {attempt}: {error}"));
            let held = (0..=commits().len()).find(|n| after(*n) == image);
            let held = held.unwrap_or_else(|| panic!("crash after {left} operations left a mixture"));
            assert!(held == done || held == done + 1, "crash after {left}: {done} commits returned, {held} are there");
        }
    }
}

#[test]
fn a_store_whose_disk_failed_says_so_from_then_on() {
    let start = empty_store();
    let handle = disk(start, None);
    let (store, _) = Store::on_backend(handle.clone()).unwrap();
    store.commit(&commits()[0]).unwrap();
    handle.0.lock().unwrap().left = Some(0);
    assert!(store.commit(&commits()[1]).is_err());
    handle.0.lock().unwrap().left = None;
    assert!(store.commit(&commits()[1]).is_err(), "what a failed sync left behind is not known");
}
