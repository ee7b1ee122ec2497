//! The rows in redb. What is written together holds the applied index too: whatever a crash leaves behind is the state
//! after some entry, the last that was made durable or a later one.
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError,
    TableError, WriteTransaction,
};

use super::changes::Changes;
use super::rows::{Counts, FORMAT_KEY, Loader, Row, STATE_KEY, Table, node_key, request_key};
use super::state::{Meta, State};
use crate::error::ClusterError;

/// The file, in the data folder.
pub const FILE: &str = "catalogue.redb";
/// A snapshot that is being received, beside it.
const FILE_BESIDE: &str = "catalogue.redb.new";
/// Pages that redb keeps: reads are answered from the index, so that this is what writing needs.
const PAGE_CACHE: usize = 32 << 20;

/// Where the database is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Folder(PathBuf),
    Memory,
}

impl Place {
    /// What messages call it.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(FILE),
            Self::Memory => PathBuf::from("the catalogue in memory"),
        }
    }

    fn damaged(&self, reason: String) -> ClusterError {
        ClusterError::Corrupt { path: self.path(), offset: 0, reason }
    }

    /// An empty database beside the one in use.
    pub(super) fn beside(&self) -> Result<Base, ClusterError> {
        let Self::Folder(folder) = self else {
            return self.open_database();
        };
        self.clear_beside()?;
        self.make(&folder.join(FILE_BESIDE))
    }

    /// Removes what is beside the database in use.
    pub(super) fn clear_beside(&self) -> Result<(), ClusterError> {
        let Self::Folder(folder) = self else {
            return Ok(());
        };
        let path = folder.join(FILE_BESIDE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ClusterError::file("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes what is beside the database the one in use; from here on it is what is opened after a crash.
    pub(super) fn replace(&self) -> Result<(), ClusterError> {
        let Self::Folder(folder) = self else {
            return Ok(());
        };
        let (from, to) = (folder.join(FILE_BESIDE), folder.join(FILE));
        File::open(&from)
            .and_then(|file| file.sync_all())
            .map_err(ClusterError::file("flush", &from))?;
        fs::rename(&from, &to).map_err(ClusterError::file("rename", &from))?;
        sync_folder(folder)
    }

    fn open_database(&self) -> Result<Base, ClusterError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(FILE);
                let new = !path.exists();
                let db = self.make(&path)?;
                if new {
                    sync_folder(folder)?;
                }
                Ok(db)
            }
            Self::Memory => Builder::new()
                .set_cache_size(PAGE_CACHE)
                .create_with_backend(InMemoryBackend::new())
                .map(Base::new)
                .map_err(failed("made")),
        }
    }

    fn make(&self, path: &Path) -> Result<Base, ClusterError> {
        Builder::new().set_cache_size(PAGE_CACHE).create(path).map(Base::new).map_err(|error| {
            match error {
                DatabaseError::DatabaseAlreadyOpen => ClusterError::Locked { path: path.into() },
                DatabaseError::Storage(StorageError::Corrupted(reason)) => self.damaged(reason),
                DatabaseError::Storage(StorageError::Io(error))
                    if matches!(
                        error.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    self.damaged(error.to_string())
                }
                DatabaseError::Storage(StorageError::Io(error)) => {
                    ClusterError::file("open", path)(error)
                }
                other => failed("opened")(other),
            }
        })
    }
}

fn sync_folder(folder: &Path) -> Result<(), ClusterError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(ClusterError::file("flush", folder))
}

/// Turns what redb says into a message.
pub(super) fn failed<E: Into<redb::Error>>(act: &'static str) -> impl Fn(E) -> ClusterError {
    move |error| ClusterError::Catalogue { act, reason: error.into().to_string() }
}

/// A database whose closing is guarded as all else is: redb writes then, too.
#[derive(Debug)]
pub(super) struct Base(Option<Database>);

impl Base {
    fn new(db: Database) -> Self {
        Self(Some(db))
    }

    /// The database: there until it is dropped.
    pub(super) fn get(&self) -> Result<&Database, ClusterError> {
        let gone = || ClusterError::Stopped { reason: "has closed its catalogue".into() };
        self.0.as_ref().ok_or_else(gone)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if guarded(|| drop(self.0.take())).is_none() {
            tracing::error!("the catalogue cannot be closed: {TORN}");
        }
    }
}

/// The database in use.
#[derive(Debug)]
pub(super) struct Disk {
    db: Arc<Base>,
    place: Place,
    row: Row,
    /// What has been applied in memory and not written.
    pending: Changes,
    /// The first failure: since then memory may be ahead of the disk, and nothing is written any more.
    failure: Option<String>,
}

impl Disk {
    /// Opens or makes the database, and reads the state.
    pub(super) fn open(place: Place) -> Result<(Self, State), ClusterError> {
        if let Place::Folder(folder) = &place {
            fs::create_dir_all(folder).map_err(ClusterError::file("create", folder))?;
        }
        place.clear_beside()?;
        let db =
            guarded(|| place.open_database()).unwrap_or_else(|| Err(place.damaged(TORN.into())))?;
        let state = load(&db, &place)?;
        let new = state.is_none();
        let mut disk = Self {
            db: Arc::new(db),
            place,
            row: Row::default(),
            pending: Changes::default(),
            failure: None,
        };
        let state = state.unwrap_or_default();
        if new {
            disk.initialise(&state.meta)?;
        }
        Ok((disk, state))
    }

    /// Takes another database that was made beside, and is in its place now.
    pub(super) fn swap(&mut self, db: Base) {
        self.db = Arc::new(db);
        // It was of what the other one replaces.
        self.pending = Changes::default();
        self.failure = None;
    }

    /// What has been applied in memory and not written.
    pub(super) fn pending(&mut self) -> &mut Changes {
        &mut self.pending
    }

    pub(super) fn database(&self) -> Arc<Base> {
        Arc::clone(&self.db)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Fails if writing has failed before.
    pub(super) fn healthy(&self) -> Result<(), ClusterError> {
        match &self.failure {
            None => Ok(()),
            Some(first) => Err(ClusterError::Catalogue {
                act: "written since an earlier failure; see to the disk and start the node again",
                reason: first.clone(),
            }),
        }
    }

    /// Writes nothing any more.
    pub(super) fn fail(&mut self, error: &ClusterError) {
        self.failure = Some(error.to_string());
    }

    /// Writes what changed, and what has been applied, in one transaction.
    pub(super) fn write(
        &mut self,
        meta: &Meta,
        counts: Counts,
        changes: &Changes,
        durability: Durability,
    ) -> Result<(), ClusterError> {
        self.healthy()?;
        guarded(|| self.write_rows(meta, counts, changes, durability))
            .unwrap_or_else(|| Err(ClusterError::Catalogue { act: "written", reason: TORN.into() }))
            .inspect_err(|error| self.fail(error))
    }

    fn write_rows(
        &mut self,
        meta: &Meta,
        counts: Counts,
        changes: &Changes,
        durability: Durability,
    ) -> Result<(), ClusterError> {
        let row = &mut self.row;
        let txn = begin(&self.db, durability)?;
        if changes.cleared {
            txn.delete_table(Table::Entries.definition()).map_err(failed("cleared"))?;
        }
        if changes.cleared || !changes.entries.is_empty() {
            let mut table = open(&txn, Table::Entries)?;
            for (key, entry) in &changes.entries {
                put(&mut table, key.as_bytes(), entry.as_ref().map(|entry| row.entry(entry)))?;
            }
        }
        if !changes.members.is_empty() {
            let mut table = open(&txn, Table::Members)?;
            for (id, member) in &changes.members {
                let value = member.as_ref().map(|member| row.member(member));
                put(&mut table, &node_key(*id), value)?;
            }
        }
        if !changes.tickets.is_empty() {
            let mut table = open(&txn, Table::Tickets)?;
            for (hash, ticket) in &changes.tickets {
                put(&mut table, hash, ticket.as_ref().map(|ticket| row.ticket(ticket)))?;
            }
        }
        if !changes.windows.is_empty() {
            let mut table = open(&txn, Table::Windows)?;
            for (node, window) in &changes.windows {
                let value = window.map(|window| row.window(*node, window));
                put(&mut table, &node_key(*node), value)?;
            }
        }
        if !changes.answers.is_empty() {
            let mut table = open(&txn, Table::Answers)?;
            for (request, outcome) in &changes.answers {
                let value = outcome.map(|outcome| row.answer(*request, outcome));
                put(&mut table, &request_key(*request), value)?;
            }
        }
        put(&mut open(&txn, Table::Meta)?, STATE_KEY, Some(row.meta(meta, counts)))?;
        txn.commit().map_err(failed("committed"))
    }

    /// Makes all tables, and says what their rows are.
    fn initialise(&mut self, meta: &Meta) -> Result<(), ClusterError> {
        let txn = begin(&self.db, Durability::Immediate)?;
        for table in Table::ALL {
            open(&txn, table)?;
        }
        put(&mut open(&txn, Table::Meta)?, FORMAT_KEY, Some(self.row.format()))?;
        put(&mut open(&txn, Table::Meta)?, STATE_KEY, Some(self.row.meta(meta, [0; 5])))?;
        txn.commit().map_err(failed("committed"))
    }
}

/// A table of rows that is open for writing.
pub(super) type Rows<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

/// Begins to write.
pub(super) fn begin(db: &Base, durability: Durability) -> Result<WriteTransaction, ClusterError> {
    let mut txn = db.get()?.begin_write().map_err(failed("written"))?;
    txn.set_durability(durability).map_err(failed("written"))?;
    // Opening after a crash must not take longer the more there is.
    txn.set_quick_repair(matches!(durability, Durability::Immediate));
    Ok(txn)
}

/// Opens a table for writing.
pub(super) fn open(txn: &WriteTransaction, table: Table) -> Result<Rows<'_>, ClusterError> {
    txn.open_table(table.definition()).map_err(failed("opened"))
}

/// Writes or removes a row.
pub(super) fn put(
    rows: &mut Rows<'_>,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), ClusterError> {
    match value {
        Some(value) => rows.insert(key, value).map(drop),
        None => rows.remove(key).map(drop),
    }
    .map_err(failed("written"))
}

/// What is said of a file whose pages made redb panic.
pub(super) const TORN: &str = "its pages do not hold together";

/// redb believes what its pages say of themselves, and panics where they lie: bytes from outside, so that this is an error
/// like others. `None`: it panicked. Nothing that `work` changed may be used again.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Reads the state; `None`: nothing was ever written.
pub(super) fn load(db: &Base, place: &Place) -> Result<Option<State>, ClusterError> {
    guarded(|| read(db, place)).unwrap_or_else(|| Err(place.damaged(TORN.into())))
}

fn read(db: &Base, place: &Place) -> Result<Option<State>, ClusterError> {
    let txn = db.get()?.begin_read().map_err(failed("read"))?;
    if txn.list_tables().map_err(failed("read"))?.next().is_none() {
        return Ok(None);
    }
    let mut loader = Loader::default();
    for table in Table::ALL {
        let rows = match txn.open_table(table.definition()) {
            Ok(rows) => rows,
            Err(TableError::Storage(error)) => return Err(unreadable(place)(error)),
            Err(other) => return Err(place.damaged(other.to_string())),
        };
        for row in rows.iter().map_err(unreadable(place))? {
            let (key, value) = row.map_err(unreadable(place))?;
            loader.row(table, key.value(), value.value()).map_err(|why| place.damaged(why))?;
        }
    }
    loader.finish().map(Some).map_err(|why| place.damaged(why))
}

fn unreadable(place: &Place) -> impl Fn(StorageError) -> ClusterError {
    let place = place.clone();
    move |error| match error {
        StorageError::Corrupted(reason) => place.damaged(reason),
        other => failed("read")(other),
    }
}
