//! The other end of a snapshot's way: see [`snapshot`](super::snapshot) for what it is like.
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redb::{Durability, WriteTransaction};

use super::disk::{Base, begin, failed, open, put};
use super::rows::{self, FORMAT_KEY, STATE_KEY, Table, VALUE};
use super::snapshot::{
    CatalogueMark, END, HEADER_BYTES, MAGIC, Manifest, ROW_HEADER_BYTES, SUM_BYTES, VERSION,
    invalid, mark_of,
};
use super::{Shared, limits};
use crate::error::ClusterError;
use crate::ids::ClusterId;

/// What is received is committed whenever so much has come, so that it is never all in memory.
const COMMIT_BYTES: usize = 8 << 20;

/// Keeps others from receiving at the same time, and removes what was received when it goes without being installed.
#[derive(Debug)]
pub(super) struct Slot(pub(super) Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        // What remains is removed when the catalogue is opened again.
        if let Err(error) = self.0.place.clear_beside() {
            tracing::warn!(%error, "a snapshot that is not used cannot be removed");
        }
        self.0.receiving.store(false, Ordering::Release);
    }
}

/// Receives a snapshot. Blocks on the disk: not for a thread of the runtime.
pub struct SnapshotReader {
    /// Declared first: what is written is given up before the slot removes the file.
    txn: Option<WriteTransaction>,
    db: Base,
    slot: Slot,
    pending: Vec<u8>,
    hasher: blake3::Hasher,
    taken: u64,
    uncommitted: usize,
    begun: bool,
    ended: bool,
    table: Table,
    found: Option<(CatalogueMark, Option<ClusterId>)>,
    blake3: [u8; SUM_BYTES],
}

impl std::fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// Where a row is in the bytes that have come.
struct Place {
    table: Table,
    key: Range<usize>,
    value: Range<usize>,
}

impl SnapshotReader {
    pub(super) fn new(slot: Slot) -> Result<Self, ClusterError> {
        let db = slot.0.place.beside()?;
        let txn = begin(&db, Durability::None)?;
        for table in Table::ALL {
            open(&txn, table)?;
        }
        Ok(Self {
            txn: Some(txn),
            db,
            slot,
            pending: Vec::new(),
            hasher: blake3::Hasher::new(),
            taken: 0,
            uncommitted: 0,
            begun: false,
            ended: false,
            table: Table::Meta,
            found: None,
            blake3: [0; SUM_BYTES],
        })
    }

    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`], if they are no snapshot of this version; [`ClusterError::Catalogue`], if they cannot be
    /// written. Drop it then.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), ClusterError> {
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(chunk);
        let (mut at, mut rows) = (0, Vec::new());
        while let Some(taken) = self.step(bytes.get(at..).unwrap_or_default(), at, &mut rows)? {
            at += taken;
        }
        self.store(&bytes, &rows)?;
        self.taken += at as u64;
        bytes.drain(..at);
        self.pending = bytes;
        if self.ended && !self.pending.is_empty() {
            return Err(invalid("bytes follow its end"));
        }
        if self.uncommitted >= COMMIT_BYTES {
            self.commit(Durability::None)?;
        }
        Ok(())
    }

    /// Takes the header, one row or the end; answers with its length, or `None` when it is not all there.
    fn step(
        &mut self,
        bytes: &[u8],
        at: usize,
        rows: &mut Vec<Place>,
    ) -> Result<Option<usize>, ClusterError> {
        if self.ended {
            return Ok(None);
        }
        let whole = if self.begun { self.row(bytes, at, rows)? } else { self.header(bytes)? };
        let Some(len) = whole else {
            return Ok(None);
        };
        if !self.ended {
            self.hasher.update(bytes.get(..len).unwrap_or_default());
        }
        Ok(Some(len))
    }

    fn header(&mut self, bytes: &[u8]) -> Result<Option<usize>, ClusterError> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        if head[..8] != MAGIC {
            return Err(invalid("it does not begin like a snapshot"));
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version != VERSION {
            return Err(invalid(format!("its version is {version}, this build reads {VERSION}")));
        }
        rows::check_format(&head[10..]).map_err(invalid)?;
        self.begun = true;
        Ok(Some(HEADER_BYTES))
    }

    fn row(
        &mut self,
        bytes: &[u8],
        at: usize,
        rows: &mut Vec<Place>,
    ) -> Result<Option<usize>, ClusterError> {
        if bytes.first() == Some(&END) {
            return self.end(bytes);
        }
        let Some((&[table, k0, k1, v0, v1, v2, v3], rest)) =
            bytes.split_first_chunk::<ROW_HEADER_BYTES>()
        else {
            return Ok(None);
        };
        let key_len = usize::from(u16::from_le_bytes([k0, k1]));
        let value_len = usize::try_from(u32::from_le_bytes([v0, v1, v2, v3])).unwrap_or(usize::MAX);
        if key_len > limits::KEY || value_len > VALUE {
            return Err(invalid("a row is longer than rows are"));
        }
        let table = Table::from_number(table)
            .filter(|table| *table >= self.table)
            .ok_or_else(|| invalid("a row is of no table that may follow"))?;
        let (Some(key), Some(value)) =
            (rest.get(..key_len), rest.get(key_len..key_len + value_len))
        else {
            return Ok(None);
        };
        self.table = table;
        self.check(table, key, value)?;
        let key = at + ROW_HEADER_BYTES..at + ROW_HEADER_BYTES + key_len;
        let value = key.end..key.end + value_len;
        rows.push(Place { table, key, value });
        Ok(Some(ROW_HEADER_BYTES + key_len + value_len))
    }

    fn check(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), ClusterError> {
        let archive = rows::open(key, value)
            .ok_or_else(|| invalid(format!("a row of table {} is damaged", table.name())))?;
        if (table, key) == (Table::Meta, STATE_KEY) {
            let (meta, _) = rows::read_meta(archive)
                .ok_or_else(|| invalid("what it says of itself is damaged"))?;
            let cluster = meta.cluster;
            self.found = Some((mark_of(meta), cluster));
        }
        if (table, key) == (Table::Meta, FORMAT_KEY) {
            rows::check_format(archive).map_err(invalid)?;
        }
        Ok(())
    }

    /// Writes rows that were found in `bytes`, table by table.
    fn store(&mut self, bytes: &[u8], rows: &[Place]) -> Result<(), ClusterError> {
        if self.txn.is_none() {
            self.txn = Some(begin(&self.db, Durability::None)?);
        }
        let Some(txn) = &self.txn else {
            return Ok(());
        };
        for of_one in rows.chunk_by(|a, b| a.table == b.table) {
            let Some(first) = of_one.first() else {
                continue;
            };
            let mut table = open(txn, first.table)?;
            for Place { key, value, .. } in of_one {
                self.uncommitted += key.len() + value.len();
                let key = bytes.get(key.clone()).unwrap_or_default();
                put(&mut table, key, bytes.get(value.clone()))?;
            }
        }
        Ok(())
    }

    fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ClusterError> {
        let Some(found) = bytes.get(1..=SUM_BYTES) else {
            return Ok(None);
        };
        self.hasher.update(&[END]);
        let sum = self.hasher.finalize();
        if sum.as_bytes() != found {
            return Err(invalid("its sum is wrong: it was damaged on its way"));
        }
        self.blake3 = *sum.as_bytes();
        self.ended = true;
        Ok(Some(1 + SUM_BYTES))
    }

    fn commit(&mut self, durability: Durability) -> Result<(), ClusterError> {
        self.uncommitted = 0;
        let Some(txn) = self.txn.take() else {
            return Ok(());
        };
        let mut txn = txn;
        txn.set_durability(durability).map_err(failed("written"))?;
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        txn.commit().map_err(failed("committed"))
    }

    /// Ends it, and makes what was received durable.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`], if it is not whole; [`ClusterError::Catalogue`], if it cannot be written.
    pub fn finish(mut self) -> Result<Verified, ClusterError> {
        let Some((mark, cluster)) = self.found.take().filter(|_| self.ended) else {
            return Err(invalid(format!("it ends after {} bytes, in the middle", self.taken)));
        };
        if self.txn.is_none() {
            self.txn = Some(begin(&self.db, Durability::Immediate)?);
        }
        self.commit(Durability::Immediate)?;
        let manifest = Manifest { mark, len: self.taken, blake3: self.blake3 };
        Ok(Verified { manifest, cluster, db: self.db, slot: self.slot })
    }
}

/// A snapshot that was received whole, and is not in use yet. Dropped, it is gone.
pub struct Verified {
    manifest: Manifest,
    pub(super) cluster: Option<ClusterId>,
    pub(super) db: Base,
    pub(super) slot: Slot,
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl Verified {
    /// What it is. Compare it with what was announced.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}
