//! Checks a store on a copy in memory, before its file is opened.
//!
//! redb repairs what it opens, and where a checksum is wrong it goes back to an older state and goes on: a replica
//! would have forgotten promises at the next start, without a word. On a copy that costs nothing, and the damaged file
//! stays as it is for whoever wants to look.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use redb::{Database, DatabaseError, StorageBackend};

/// Says what is wrong with the contents of a store's file, if anything is.
pub(crate) fn check(contents: Vec<u8>) -> Result<(), String> {
    let open_and_check = || -> Result<bool, DatabaseError> {
        let copy = Copy(Mutex::new(contents));
        Database::builder().create_with_backend(copy)?.check_integrity()
    };
    // In its debug build redb walks the tree before it looks at checksums, and panics over a damaged one.
    match catch_unwind(AssertUnwindSafe(open_and_check)) {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("a checksum is wrong".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("its pages do not form a tree".to_owned()),
    }
}

#[derive(Debug)]
struct Copy(Mutex<Vec<u8>>);

impl Copy {
    fn with<T>(&self, use_bytes: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        use_bytes(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where `length` bytes from `offset` stand in memory, if that can be.
fn span(offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok();
    start
        .and_then(|start| Some(start..start.checked_add(length)?))
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

impl StorageBackend for Copy {
    fn len(&self) -> io::Result<u64> {
        self.with(|bytes| u64::try_from(bytes.len()).map_err(io::Error::other))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let span = span(offset, out.len())?;
        self.with(|bytes| {
            let found = bytes.get(span).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            out.copy_from_slice(found);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        // A damaged header may ask for any length. The repair of a sound file needs no more than that again.
        self.with(|bytes| {
            if length > bytes.len().saturating_mul(2).saturating_add(16 << 20) {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            bytes.resize(length, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let span = span(offset, data.len())?;
        self.with(|bytes| {
            let place = bytes.get_mut(span).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            place.copy_from_slice(data);
            Ok(())
        })
    }
}
