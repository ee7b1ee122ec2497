//! Raft's log: a durable one in segments, its tail in memory as the consensus library reads it, and one for simulations.
//!
//! A batch is all that is flushed together, and all of it or nothing of it survives a crash. `docs/format.md` has the bytes.
mod header;
mod memory;
mod prepare;
mod record;
mod recover;
mod shape;
mod storage;
mod volume;
mod wal;

use std::fmt::Debug;

use raft::prelude::{ConfState, Entry, HardState, Snapshot};

pub use memory::MemoryLog;
pub use storage::{RaftStorage, detach};
pub use wal::SegmentLog;

use crate::error::ClusterError;
use crate::ids::StorageId;

/// A durable log. One thread owns it.
pub trait LogStore: Send + Debug {
    /// Writes the batch with one flush. An entry that is there already makes those from it on void. An empty batch writes
    /// nothing.
    ///
    /// [`ClusterError::File`] and [`ClusterError::Invalid`] mean that nothing was written, and it can be tried again;
    /// [`ClusterError::Poisoned`] that nothing will be written any more.
    fn append(&mut self, batch: Batch<'_>) -> Result<Synced, ClusterError>;

    /// Makes the mark of an entry that is in the log durable, and gives back room that only entries before it needed.
    fn compact(&mut self, mark: &LogMark) -> Result<(), ClusterError>;

    /// What was done since it was opened.
    fn stats(&self) -> LogStats;
}

/// What is written together. The mark comes first, then the entries, then the hard state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Batch<'a> {
    /// Each follows on the one before or replaces an earlier one.
    pub entries: &'a [Entry],
    /// Term, vote and commit.
    pub hard_state: Option<&'a HardState>,
    /// If its entry is in the log, with this term, what follows it stays; otherwise it stands for the whole log (a snapshot
    /// was installed).
    pub snapshot: Option<&'a LogMark>,
}

impl Batch<'_> {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.hard_state.is_none() && self.snapshot.is_none()
    }
}

/// The state machine holds everything through this entry, durably: the log can do without it, and without those before it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogMark {
    /// The entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The members then, or later.
    pub conf_state: ConfState,
}

impl LogMark {
    /// The mark of an installed snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let meta = snapshot.get_metadata();
        Self { index: meta.index, term: meta.term, conf_state: meta.get_conf_state().clone() }
    }

    /// A snapshot without data.
    pub fn to_snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (self.index, self.term);
        meta.set_conf_state(self.conf_state.clone());
        snapshot
    }
}

/// Proof that a batch is on the disk: only a flush makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is not known to be on the disk must not be acknowledged"]
pub struct Synced {
    last_index: u64,
}

impl Synced {
    fn through(last_index: u64) -> Self {
        Self { last_index }
    }

    /// The last entry of the log, on the disk with all before it.
    pub fn last_index(self) -> u64 {
        self.last_index
    }
}

/// How a log is opened.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Whose log it is; another's is refused.
    pub storage: StorageId,
    /// How long a segment is. A batch that is longer has a segment of its own.
    pub segment_bytes: u64,
    /// Whether a folder without a log is an error: a member that lost its log must not come back as the same one.
    pub must_exist: bool,
}

impl LogOptions {
    /// Segments of 64 MiB; a log is made where there is none.
    pub fn new(storage: StorageId) -> Self {
        Self { storage, segment_bytes: 64 << 20, must_exist: false }
    }
}

/// What a log held when it was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// Term, vote and commit; all 0 if none was written.
    pub hard_state: HardState,
    /// The last mark.
    pub snapshot: Option<LogMark>,
    /// All behind the mark, without gaps.
    pub entries: Vec<Entry>,
    /// Bytes of a batch that was under way when the node stopped, and is gone.
    pub torn_bytes: u64,
}

impl Recovered {
    /// What a log that held this holds after `batch`.
    pub fn apply(&mut self, batch: &Batch<'_>) {
        if let Some(mark) = batch.snapshot {
            let same = self.term(mark.index) == Some(mark.term);
            self.entries.retain(|entry| same && entry.index > mark.index);
            self.snapshot = Some(mark.clone());
        }
        for entry in batch.entries {
            self.entries.retain(|old| old.index < entry.index);
            self.entries.push(entry.clone());
        }
        if let Some(state) = batch.hard_state {
            self.hard_state = state.clone();
        }
    }

    /// The term of an entry, or of the mark.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        let base = self.snapshot.as_ref().map_or((0, 0), |mark| (mark.index, mark.term));
        if index == base.0 {
            return Some(base.1);
        }
        self.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
    }
}

/// What a log did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches written.
    pub batches: u64,
    /// Flushes of them: as many, or it failed.
    pub syncs: u64,
    /// Calls that wrote them.
    pub writes: u64,
    /// Entries written.
    pub entries: u64,
    /// Bytes of entries, all written from where they lay.
    pub payload_bytes: u64,
    /// Bytes written, with all records around them.
    pub file_bytes: u64,
    /// Segments that hold something.
    pub segments: u64,
    /// Times that a new segment was begun.
    pub rolled: u64,
    /// How many of them were used before.
    pub recycled: u64,
    /// Times that a batch waited for a segment to be made.
    pub waited: u64,
    /// Whether writing failed.
    pub poisoned: bool,
}

#[cfg(test)]
mod tests;
