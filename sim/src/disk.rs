//! A disk that survives crashes, except for what was not yet synced.

use dht::{Image, Write};

/// What a crash does to a transaction that was not yet synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// It had got there.
    Kept,
    /// It had not.
    Lost,
}

/// One node's store: what is safe, and the one transaction under way.
#[derive(Debug, Default)]
pub struct Disk {
    safe: Image,
    under_way: Vec<Write>,
}

impl Disk {
    /// What a process finds at its start.
    pub fn image(&self) -> &Image {
        &self.safe
    }

    /// Begins a transaction, which [`Disk::sync`] ends.
    pub fn begin(&mut self, writes: Vec<Write>) {
        self.under_way.extend(writes);
    }

    /// The transaction is safe.
    pub fn sync(&mut self) {
        for write in self.under_way.drain(..) {
            match write.value {
                Some(value) => self.safe.insert(write.key, value),
                None => self.safe.remove(&write.key),
            };
        }
    }

    /// The process or the machine ends here. A transaction is on disk as a whole or not at all.
    pub fn crash(&mut self, unsynced: Unsynced) {
        match unsynced {
            Unsynced::Kept => self.sync(),
            Unsynced::Lost => self.under_way.clear(),
        }
    }

    /// The lease store is gone, and its name with it unless it is kept; keys and membership are in files of their own.
    pub fn lose(&mut self, store_id: Option<[u8; 16]>) {
        self.under_way.clear();
        self.safe.retain(|key, _| key.starts_with(b"m/") && !key.starts_with(b"m/view/"));
        if let Some(store_id) = store_id {
            self.safe.insert(b"m/store-id".to_vec(), store_id.to_vec());
        }
    }

    /// All is as it was, as after a backup was restored.
    pub fn set_back(&mut self, image: Image) {
        self.under_way.clear();
        self.safe = image;
    }
}
