//! The log against a model, crashes, damage and failing disks.
mod basics;
mod crash;
mod damage;
mod disk;
mod faults;
mod kill;
mod model;
mod tail;

use std::sync::Arc;

use bytes::Bytes;
use raft::prelude::{ConfState, Entry, EntryType, HardState};

use self::disk::Disk;
use super::{Batch, LogMark, LogOptions, LogStore as _, Recovered, SegmentLog};
use crate::ClusterError;
use crate::ids::StorageId;

const STORAGE: StorageId = StorageId([5; 16]);

fn tiny() -> LogOptions {
    LogOptions { segment_bytes: 4096, ..LogOptions::new(STORAGE) }
}

fn open(disk: &Disk) -> Result<(SegmentLog, Recovered), ClusterError> {
    SegmentLog::open_on(Arc::new(disk.clone()), tiny())
}

/// What a log holds that must open.
fn held(disk: &Disk) -> Recovered {
    image(open(disk).unwrap().1)
}

fn image(recovered: Recovered) -> Recovered {
    Recovered { torn_bytes: 0, ..recovered }
}

fn entry(index: u64, term: u64, data: impl Into<Bytes>) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (index, term, data.into());
    entry
}

/// Entries of these indices whose bytes follow from index and term.
fn entries(indices: impl IntoIterator<Item = u64>, term: u64, len: usize) -> Vec<Entry> {
    let fill = |index: u64| (index.wrapping_mul(31) ^ term).to_le_bytes()[0];
    indices.into_iter().map(|index| entry(index, term, vec![fill(index); len])).collect()
}

/// One with every field set.
fn full(index: u64) -> Entry {
    let mut entry = entry(index, 7, &b"change"[..]);
    entry.entry_type = EntryType::EntryConfChangeV2;
    entry.context = Bytes::from_static(b"whose");
    entry.sync_log = true;
    entry
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

fn mark(index: u64, term: u64) -> LogMark {
    let mut conf_state = ConfState::from((vec![1, 2, 3], vec![index + 4]));
    conf_state.voters_outgoing = vec![9, 8];
    conf_state.learners_next = vec![8];
    conf_state.auto_leave = index % 2 == 1;
    LogMark { index, term, conf_state }
}

/// Appends what must be taken.
fn append(log: &mut SegmentLog, batch: Batch<'_>) -> u64 {
    log.append(batch).unwrap().last_index()
}

fn of(entries: &[Entry]) -> Batch<'_> {
    Batch { entries, ..Batch::default() }
}

/// A log whose active segment has been used before, and so has older records behind its end.
fn recycled() -> (Disk, SegmentLog) {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    for index in (1..=160).step_by(4) {
        append(&mut log, of(&entries(index..index + 4, 1, 100)));
        log.compact(&mark(index + 3, 1)).unwrap();
        log.settle();
    }
    assert!(log.stats().recycled > 2);
    (disk, log)
}
