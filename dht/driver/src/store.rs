//! The one file that remembers: an ordered map, changed by whole transactions that are on disk when they return.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dht::{Image, Write};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use thiserror::Error;

use crate::snapshot;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// What the state machine wrote.
const STATE: Table = TableDefinition::new("state");
/// What the driver itself remembers: addresses of peers. Losing it loses nothing.
const CONTACTS: Table = TableDefinition::new("contacts");

/// Why the store cannot be used. It is never replaced by an empty one: a replica that forgot what it promised, or an
/// owner that forgot its counter, would break what others rely on.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is none.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// There is one already.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    Busy(PathBuf),
    /// Its contents do not hold together.
    #[error("{path} is damaged ({detail}); restore it from a backup, or leave with --forget and join anew")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// The store of one namespace. Only this process has it open.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens a store and reads all of it.
    pub fn open(path: &Path) -> Result<(Self, Image), StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(path.to_owned())),
            Err(error) => return Err(io(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).map_err(io)?;
        let damaged = |detail| StoreError::Damaged { path: path.to_owned(), detail };
        if contents.is_empty() {
            // redb would lay out a new database in it.
            return Err(damaged("it is empty".to_owned()));
        }
        snapshot::check(contents).map_err(damaged)?;
        // redb takes the same lock itself.
        file.unlock().map_err(io)?;
        let database = Database::builder().create_file(file).map_err(|error| from_database(path, error))?;
        Self::with_image(database, path)
    }

    /// Creates a store that holds these first writes. It appears under its name complete or not at all.
    pub fn create(path: &Path, writes: &[Write]) -> Result<(Self, Image), StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        if path.try_exists().map_err(io)? {
            return Err(StoreError::Exists(path.to_owned()));
        }
        let unfinished = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(io)?;
        let database = Database::builder().create_file(file).map_err(|error| from_database(path, error))?;
        let (store, _) = Self::with_image(database, path)?;
        store.commit(writes)?;
        std::fs::rename(&unfinished, path).map_err(io)?;
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
        let image = store.image()?;
        Ok((store, image))
    }

    /// Opens or creates a store on something else than a file, for tests.
    #[doc(hidden)]
    pub fn on_backend(backend: impl StorageBackend) -> Result<(Self, Image), StoreError> {
        let path = Path::new("(memory)");
        let database = Database::builder().create_with_backend(backend).map_err(|error| from_database(path, error))?;
        Self::with_image(database, path)
    }

    /// Makes all of these changes or none. They are on disk when this returns.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.commit_all(writes, &[])
    }

    /// Everything in it.
    pub fn image(&self) -> Result<Image, StoreError> {
        self.read(STATE).map_err(|error| from_redb(&self.path, error))
    }

    /// As [`commit`](Self::commit), and what the driver itself remembers, with one sync for both.
    pub(crate) fn commit_all(&self, state: &[Write], contacts: &[Write]) -> Result<(), StoreError> {
        self.write([(STATE, state), (CONTACTS, contacts)]).map_err(|error| from_redb(&self.path, error))
    }

    pub(crate) fn contacts(&self) -> Result<Image, StoreError> {
        self.read(CONTACTS).map_err(|error| from_redb(&self.path, error))
    }

    fn with_image(database: Database, path: &Path) -> Result<(Self, Image), StoreError> {
        let store = Self { database, path: path.to_owned() };
        let image = store.image()?;
        Ok((store, image))
    }

    fn write(&self, all: [(Table, &[Write]); 2]) -> Result<(), redb::Error> {
        let all = all.into_iter().filter(|(_, writes)| !writes.is_empty());
        let mut all = all.peekable();
        if all.peek().is_none() {
            return Ok(());
        }
        let mut transaction = self.database.begin_write()?;
        // With one phase, a commit whose pages rot before the next clean shutdown looks like one that never was.
        transaction.set_two_phase_commit(true);
        for (table, writes) in all {
            let mut table = transaction.open_table(table)?;
            for Write { key, value } in writes {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                    None => table.remove(key.as_slice())?,
                };
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&self, table: Table) -> Result<Image, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(table) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Image::new()),
            Err(error) => return Err(error.into()),
        };
        let mut image = Image::new();
        for entry in table.iter()? {
            let (key, value) = entry?;
            image.insert(key.value().to_owned(), value.value().to_owned());
        }
        Ok(image)
    }
}

fn from_database(path: &Path, error: DatabaseError) -> StoreError {
    from_redb(path, error.into())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "redb's enum; all the rest is about what the file says")]
fn from_redb(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::Busy(path),
        // An error about what the file says, not about reading it.
        redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged { path, detail: source.to_string() }
        }
        redb::Error::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged { path, detail: "it was cut short".to_owned() }
        }
        redb::Error::Io(source) => StoreError::Io { path, source },
        redb::Error::PreviousIo => StoreError::Io { path, source: io::Error::other("an earlier write has failed") },
        other => StoreError::Damaged { path, detail: other.to_string() },
    }
}
