//! The log's tail in memory, as the consensus library reads it.
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::RwLock;
use raft::prelude::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use straightway_buffer::{Reason, count_copied};

use super::{LogMark, Recovered};
use crate::error::ClusterError;

/// Entries behind the last cut, hard state and members: what [`raft::RawNode`] asks for. Clones are handles to the same.
///
/// Bytes of entries are shared, not copied. It is changed when Raft hands entries out, before they are on the disk: Raft is
/// told of that separately.
#[derive(Debug, Clone)]
pub struct RaftStorage(Arc<RwLock<Tail>>);

#[derive(Debug, Default)]
struct Tail {
    hard_state: HardState,
    conf_state: ConfState,
    /// The entry before the first one that is kept, and its term.
    base: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    bytes: u64,
    snapshot: Option<Snapshot>,
    /// Raft asked for a snapshot that there was not.
    wanted: bool,
}

impl RaftStorage {
    /// Of a log that holds nothing but a mark: a new cluster's first member begins with one.
    pub fn new(mark: &LogMark) -> Self {
        let mut tail = Tail::default();
        tail.install(mark);
        Self(Arc::new(RwLock::new(tail)))
    }

    /// Of what a log held. The state machine holds everything through `applied`, whose members are taken; `None`: nothing.
    ///
    /// The commit index is not written whenever it changes: what was applied was committed.
    pub fn recover(recovered: Recovered, applied: Option<LogMark>) -> Result<Self, ClusterError> {
        let Recovered { hard_state, snapshot, entries, .. } = recovered;
        let mark = snapshot.unwrap_or_default();
        let storage = Self::new(&mark);
        storage.append(&entries)?;
        let mut tail = storage.0.write();
        tail.hard_state = hard_state;
        tail.hard_state.commit = tail.hard_state.commit.max(mark.index);
        tail.hard_state.term = tail.hard_state.term.max(mark.term);
        if let Some(LogMark { index, term, conf_state }) = applied {
            let remedy =
                "remove this node from the cluster, empty its data folder and let it join again";
            let last = tail.last();
            let reason = match tail.term(index) {
                None if index > last => {
                    format!("it ends with entry {last}, and entry {index} was applied; {remedy}")
                }
                Some(other) if other != term => {
                    format!(
                        "its entry {index} is of term {other}, and the one of term {term} was applied; {remedy}"
                    )
                }
                _ => String::new(),
            };
            if !reason.is_empty() {
                return Err(ClusterError::Invalid { what: "the log", reason });
            }
            tail.hard_state.commit = tail.hard_state.commit.max(index);
            tail.conf_state = conf_state;
        }
        drop(tail);
        Ok(storage)
    }

    /// Adds entries; those that are there from the first one's index on go.
    pub fn append(&self, entries: &[Entry]) -> Result<(), ClusterError> {
        let Some(first) = entries.first() else { return Ok(()) };
        let mut tail = self.0.write();
        let invalid = |reason| ClusterError::Invalid { what: "entries for the log", reason };
        if first.index <= tail.base || first.index > tail.last() + 1 {
            let reason = format!(
                "entry {} does not follow on {} to {}",
                first.index,
                tail.base,
                tail.last()
            );
            return Err(invalid(reason));
        }
        if entries.iter().zip(first.index..).any(|(entry, index)| entry.index != index) {
            return Err(invalid("they are not in order".to_owned()));
        }
        tail.truncate(first.index);
        tail.bytes += entries.iter().map(held).sum::<u64>();
        tail.entries.extend(entries.iter().cloned());
        Ok(())
    }

    /// Takes a hard state over.
    pub fn set_hard_state(&self, hard_state: HardState) {
        self.0.write().hard_state = hard_state;
    }

    /// Takes the members over.
    pub fn set_conf_state(&self, conf_state: ConfState) {
        self.0.write().conf_state = conf_state;
    }

    /// Replaces everything by an installed snapshot.
    pub fn apply_snapshot(&self, snapshot: &Snapshot) -> Result<(), ClusterError> {
        let mark = &LogMark::of(snapshot);
        let mut tail = self.0.write();
        if mark.index <= tail.base {
            let reason = format!(
                "it ends with entry {}, and the log begins behind {}",
                mark.index, tail.base
            );
            return Err(ClusterError::Invalid { what: "a snapshot", reason });
        }
        tail.install(mark);
        Ok(())
    }

    /// Drops entries through `through`. The mark of the last one of them is for [`super::LogStore::compact`]; `None`: there
    /// was nothing to drop.
    pub fn cut(&self, through: u64) -> Option<LogMark> {
        let mut tail = self.0.write();
        let index = through.min(tail.last());
        let term = tail.term(index).filter(|_| index > tail.base)?;
        while tail.entries.front().is_some_and(|entry| entry.index <= index) {
            let entry = tail.entries.pop_front()?;
            tail.bytes -= held(&entry);
        }
        (tail.base, tail.base_term) = (index, term);
        Some(LogMark { index, term, conf_state: tail.conf_state.clone() })
    }

    /// Whether Raft asked for a snapshot that there was not, since this was last asked.
    pub fn take_snapshot_request(&self) -> bool {
        std::mem::take(&mut self.0.write().wanted)
    }

    /// A snapshot to be sent to whoever is too far behind, until entries behind it are cut.
    pub fn set_snapshot(&self, snapshot: Snapshot) {
        self.0.write().snapshot = Some(snapshot);
    }

    /// The first entry that is kept, or will be.
    pub fn first(&self) -> u64 {
        self.0.read().base + 1
    }

    /// The last entry.
    pub fn last(&self) -> u64 {
        self.0.read().last()
    }

    /// The term of an entry that is kept, or of the one before the first.
    #[cfg(test)]
    pub(crate) fn entry_term(&self, index: u64) -> Option<u64> {
        self.0.read().term(index)
    }

    /// What the entries take in memory.
    pub fn bytes(&self) -> u64 {
        self.0.read().bytes
    }

    /// Term, vote and commit.
    pub fn hard_state(&self) -> HardState {
        self.0.read().hard_state.clone()
    }

    /// The members.
    pub fn conf_state(&self) -> ConfState {
        self.0.read().conf_state.clone()
    }
}

/// An entry in memory.
fn held(entry: &Entry) -> u64 {
    (size_of::<Entry>() + entry.data.len() + entry.context.len()) as u64
}

/// As many bytes as the entry has as a message: Raft's limits count these.
fn encoded_len(entry: &Entry) -> u64 {
    let varint = |value: u64| u64::from((value | 1).ilog2() / 7 + 1);
    let number = |value: u64| if value == 0 { 0 } else { 1 + varint(value) };
    let bytes = |len: usize| if len == 0 { 0 } else { 1 + varint(len as u64) + len as u64 };
    number(entry.entry_type as u64)
        + number(entry.term)
        + number(entry.index)
        + bytes(entry.data.len())
        + bytes(entry.context.len())
        + number(u64::from(entry.sync_log))
}

impl Tail {
    fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Where an entry lies in the queue.
    fn place(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.base)?.checked_sub(1)?).ok()
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.base {
            return Some(self.base_term);
        }
        self.entries.get(self.place(index)?).map(|entry| entry.term)
    }

    fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|entry| entry.index >= from) {
            let gone = self.entries.pop_back();
            self.bytes -= gone.as_ref().map_or(0, held);
        }
    }

    fn install(&mut self, mark: &LogMark) {
        self.entries.clear();
        self.bytes = 0;
        (self.base, self.base_term) = (mark.index, mark.term);
        self.conf_state = mark.conf_state.clone();
        self.hard_state.commit = self.hard_state.commit.max(mark.index);
        self.hard_state.term = self.hard_state.term.max(mark.term);
    }

    fn slice(&self, range: Range<u64>, max: Option<u64>) -> Result<Vec<Entry>, StorageError> {
        if range.start <= self.base {
            return Err(StorageError::Compacted);
        }
        let (Some(low), Some(high)) = (self.place(range.start), self.place(range.end)) else {
            return Err(StorageError::Unavailable);
        };
        if low > high || high > self.entries.len() {
            return Err(StorageError::Unavailable);
        }
        let limit = max.unwrap_or(u64::MAX);
        let mut size = 0_u64;
        let fits = |entry: &&Entry| {
            let first = size == 0;
            size = size.saturating_add(encoded_len(entry));
            first || size <= limit
        };
        Ok(self.entries.range(low..high).take_while(fits).cloned().collect())
    }
}

impl Storage for RaftStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let tail = self.0.read();
        Ok(RaftState::new(tail.hard_state.clone(), tail.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        Ok(self.0.read().slice(low..high, max_size.into())?)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let tail = self.0.read();
        let missing =
            if index < tail.base { StorageError::Compacted } else { StorageError::Unavailable };
        Ok(tail.term(index).ok_or(missing)?)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let mut tail = self.0.write();
        // Entries must follow on it.
        let least = request_index.max(tail.base);
        let fits = |snapshot: &&Snapshot| snapshot.get_metadata().index >= least;
        if let Some(snapshot) = tail.snapshot.as_ref().filter(fits) {
            return Ok(snapshot.clone());
        }
        tail.snapshot = None;
        tail.wanted = true;
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

/// Gives entries memory of their own if together they are less than an eighth of the frame of `frame_len` bytes that they were
/// received in and would keep in memory. The number of bytes copied.
///
/// Together, not one by one: entries of one frame are cut from the log one soon after the other, so that sixty-four of them
/// that fill their frame waste nothing where they lie. `Bytes` does not know how much it keeps: whoever received the frame does.
pub fn detach(entries: &mut [Entry], frame_len: usize) -> usize {
    let parts = |entry: &Entry| entry.data.len() + entry.context.len();
    let len: usize = entries.iter().map(parts).sum();
    if len == 0 || len >= frame_len / 8 {
        return 0;
    }
    let mut room = BytesMut::with_capacity(len);
    for part in entries.iter().flat_map(|entry| [&entry.data, &entry.context]) {
        room.extend_from_slice(part);
    }
    count_copied(len, Reason::Gather);
    let mut room = room.freeze();
    for entry in entries {
        for part in [&mut entry.data, &mut entry.context] {
            *part = room.split_to(part.len());
        }
    }
    len
}
