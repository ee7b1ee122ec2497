//! The state as a stream: the rows of one read transaction, while writing goes on.
//!
//! ```text
//!  0  "SWCATSNP"   8 version u16   10 format of the rows (10 bytes)
//! 20  rows { table u8, key length u16, value length u32, key, value }, in the order of tables and keys
//!     0xFF   BLAKE3 of all before (32 bytes)
//! ```
//! Integers are little-endian. Whoever receives writes into a database beside the one in use, and puts it in its place
//! only when the sum is right and all of it could be read.
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase};

use super::disk::{Base, TORN, failed, guarded};
use super::rows::{self, STATE_KEY, Table};
use super::state::Meta;
use crate::error::ClusterError;

/// Bytes of a chunk; only the last one is shorter.
pub const CHUNK: usize = 64 * 1024;
pub(super) const MAGIC: [u8; 8] = *b"SWCATSNP";
pub(super) const VERSION: u16 = 1;
pub(super) const HEADER_BYTES: usize = 20;
pub(super) const ROW_HEADER_BYTES: usize = 7;
pub(super) const END: u8 = 0xFF;
pub(super) const SUM_BYTES: usize = 32;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueMark {
    /// Index of the last command in it.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Encoded Raft configuration.
    pub conf_state: Bytes,
}

/// A whole snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it is of.
    pub mark: CatalogueMark,
    /// Its length in bytes, sum included.
    pub len: u64,
    /// BLAKE3 of all but the sum itself.
    pub blake3: [u8; SUM_BYTES],
}

pub(super) fn mark_of(meta: Meta) -> CatalogueMark {
    CatalogueMark {
        index: meta.applied.index,
        term: meta.applied.term,
        conf_state: meta.conf_state,
    }
}

type Range = redb::Range<'static, &'static [u8], &'static [u8]>;

/// Sends a snapshot. Blocks on the disk: not for a thread of the runtime. Pages that it may still read are not reused
/// while it lives.
pub struct SnapshotWriter {
    rows: Option<(Table, Range)>,
    txn: ReadTransaction,
    /// Closed when nobody reads it any more, even when another one has taken its place.
    _db: Arc<Base>,
    mark: CatalogueMark,
    ready: Vec<u8>,
    hasher: blake3::Hasher,
    sent: u64,
    manifest: Option<Manifest>,
}

impl std::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter")
            .field("mark", &self.mark)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

impl SnapshotWriter {
    pub(super) fn new(db: Arc<Base>) -> Result<Self, ClusterError> {
        let txn = db.get()?.begin_read().map_err(failed("read"))?;
        let meta = txn.open_table(Table::Meta.definition()).map_err(failed("read"))?;
        let mark = meta
            .get(STATE_KEY)
            .map_err(failed("read"))?
            .and_then(|row| rows::read_meta(rows::open(STATE_KEY, row.value())?))
            .map(|(meta, _)| mark_of(meta))
            .ok_or_else(|| invalid("the catalogue does not say what has been applied"))?;
        let mut ready = Vec::with_capacity(2 * CHUNK);
        ready.extend_from_slice(&MAGIC);
        ready.extend_from_slice(&VERSION.to_le_bytes());
        ready.extend_from_slice(&rows::format());
        let mut writer = Self {
            rows: None,
            txn,
            _db: db,
            mark,
            ready,
            hasher: blake3::Hasher::new(),
            sent: 0,
            manifest: None,
        };
        writer.turn_to(Table::Meta)?;
        Ok(writer)
    }

    /// What it is of: known before the first chunk.
    pub fn mark(&self) -> &CatalogueMark {
        &self.mark
    }

    /// What was sent; `None` before the end.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The next [`CHUNK`] bytes; the last chunk is shorter, then comes `None`.
    ///
    /// # Errors
    /// [`ClusterError::Catalogue`], if the database cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, ClusterError> {
        let torn = || ClusterError::Catalogue { act: "read", reason: TORN.into() };
        guarded(|| self.fill()).ok_or_else(torn)??;
        if self.ready.is_empty() {
            return Ok(None);
        }
        let rest = self.ready.split_off(self.ready.len().min(CHUNK));
        let mut chunk = std::mem::replace(&mut self.ready, rest);
        self.ready.reserve(2 * CHUNK);
        chunk.shrink_to_fit();
        Ok(Some(chunk.into()))
    }

    fn fill(&mut self) -> Result<(), ClusterError> {
        while self.ready.len() < CHUNK && self.manifest.is_none() {
            self.next_row()?;
        }
        Ok(())
    }

    fn turn_to(&mut self, table: Table) -> Result<(), ClusterError> {
        let open = self.txn.open_table(table.definition()).map_err(failed("read"))?;
        self.rows = Some((table, open.range::<&[u8]>(..).map_err(failed("read"))?));
        Ok(())
    }

    /// Appends one row, or what comes after the last one.
    fn next_row(&mut self) -> Result<(), ClusterError> {
        let from = if self.sent == 0 { 0 } else { self.ready.len() };
        let Some((table, rows)) = &mut self.rows else {
            return Ok(());
        };
        let table = *table;
        if let Some(row) = rows.next() {
            let (key, value) = row.map_err(failed("read"))?;
            let (key, value) = (key.value(), value.value());
            let too_long = |_| invalid("a row is longer than a snapshot can hold");
            let key_len = u16::try_from(key.len()).map_err(too_long)?;
            let value_len = u32::try_from(value.len()).map_err(too_long)?;
            self.ready.push(table as u8);
            self.ready.extend_from_slice(&key_len.to_le_bytes());
            self.ready.extend_from_slice(&value_len.to_le_bytes());
            self.ready.extend_from_slice(key);
            self.ready.extend_from_slice(value);
            self.count(from);
        } else if let Some(next) = Table::from_number(table as u8 + 1) {
            self.turn_to(next)?;
        } else {
            self.rows = None;
            self.ready.push(END);
            self.count(from);
            let blake3 = *self.hasher.finalize().as_bytes();
            self.ready.extend_from_slice(&blake3);
            let len = self.sent + SUM_BYTES as u64;
            self.manifest = Some(Manifest { mark: self.mark.clone(), len, blake3 });
        }
        Ok(())
    }

    /// Takes what was appended into the sum; the first time, the header too.
    fn count(&mut self, from: usize) {
        let appended = self.ready.get(from..).unwrap_or_default();
        self.hasher.update(appended);
        self.sent += appended.len() as u64;
    }
}

pub(super) fn invalid(reason: impl Into<String>) -> ClusterError {
    ClusterError::Invalid { what: "a snapshot", reason: reason.into() }
}
