//! The tail in memory beside the library's own.
use proptest::prelude::*;
use raft::prelude::{Config, RawNode, Snapshot};
use raft::storage::MemStorage;
use raft::{GetEntriesContext, Storage as _, StorageError};

use super::*;
use crate::log::{RaftStorage, detach};

fn context() -> GetEntriesContext {
    GetEntriesContext::empty(false)
}

fn error<T>(result: raft::Result<T>) -> StorageError {
    match result {
        Err(raft::Error::Store(error)) => error,
        _ => panic!("no error"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn answers_as_the_librarys_own_storage(
        base in 1_u64..300,
        appends in proptest::collection::vec((0_u64..5, 1_u64..8, 0_usize..300), 1..10),
        cut in 0_u64..20,
        max in prop_oneof![Just(None), (0_u64..3000).prop_map(Some)],
    ) {
        let first = mark(base, 200);
        let theirs = MemStorage::new();
        theirs.wl().apply_snapshot(first.to_snapshot()).unwrap();
        let ours = RaftStorage::new(&first);
        for (term, (back, count, len)) in (200..).zip(appends) {
            let from = (ours.last() + 1).saturating_sub(back).max(ours.first());
            let mut new = entries(from..from + count, term, len);
            if let Some(last) = new.last_mut() {
                last.context = Bytes::from(vec![1; len / 3]);
                last.entry_type = EntryType::EntryConfChangeV2;
            }
            theirs.wl().append(&new).unwrap();
            ours.append(&new).unwrap();
        }
        let through = base + cut;
        if through < ours.last() {
            theirs.wl().compact(through + 1).unwrap();
            let term = ours.entry_term(through);
            let cut = ours.cut(through);
            prop_assert_eq!(cut.map(|mark| (mark.index, Some(mark.term))), (cut_is(through, base)).then_some((through, term)));
        }
        let (low, high) = (ours.first(), ours.last() + 1);
        prop_assert_eq!((low, high - 1), (theirs.first_index().unwrap(), theirs.last_index().unwrap()));
        for from in low..high {
            prop_assert_eq!(ours.term(from).unwrap(), theirs.term(from).unwrap());
            let mine = ours.entries(from, high, max, context()).unwrap();
            prop_assert_eq!(mine, theirs.entries(from, high, max, context()).unwrap());
        }
        prop_assert_eq!(error(ours.entries(low - 1, high, max, context())), StorageError::Compacted);
        prop_assert_eq!(error(ours.entries(low, high + 1, max, context())), StorageError::Unavailable);
        prop_assert_eq!(error(ours.term(high)), StorageError::Unavailable);
        let all = ours.entries(low, high, None, context()).unwrap();
        let held: usize = all.iter().map(|entry| size_of::<Entry>() + entry.data.len() + entry.context.len()).sum();
        prop_assert_eq!(ours.bytes(), held as u64);
    }
}

fn cut_is(through: u64, base: u64) -> bool {
    through > base
}

#[test]
fn entries_are_shared_and_small_ones_let_go_of_their_frame() {
    let frame = Bytes::from(vec![3; 8000]);
    let mut filling: Vec<Entry> =
        (0..60).map(|n| entry(n as u64 + 2, 1, frame.slice(n * 100..n * 100 + 100))).collect();
    assert_eq!(detach(&mut filling, frame.len()), 0, "together they fill their frame");
    let ours = RaftStorage::new(&mark(1, 1));
    ours.append(&filling).unwrap();
    let read = ours.entries(2, 62, None, context()).unwrap();
    assert!(read.iter().zip(&filling).all(|(a, b)| a.data.as_ptr() == b.data.as_ptr()));
    let mut small = [entry(62, 1, frame.slice(10..310)), entry(63, 1, frame.slice(400..800))];
    small[1].context = frame.slice(0..5);
    let before = small.clone();
    let counted = straightway_buffer::copied().gather;
    assert_eq!(detach(&mut small, frame.len()), 705);
    assert!(straightway_buffer::copied().gather >= counted + 705);
    assert_eq!(small, before);
    drop((filling, before, read, ours));
    assert!(frame.is_unique(), "nothing of it is kept");
    assert_eq!(detach(&mut [], 100), 0);
}

#[test]
fn a_snapshot_is_asked_for_and_kept_while_entries_follow_on_it() {
    let ours = RaftStorage::new(&mark(10, 1));
    ours.append(&entries(11..=20, 1, 1)).unwrap();
    assert!(!ours.take_snapshot_request());
    assert_eq!(error(ours.snapshot(0, 2)), StorageError::SnapshotTemporarilyUnavailable);
    assert!(ours.take_snapshot_request() && !ours.take_snapshot_request());
    ours.set_snapshot(mark(15, 1).to_snapshot());
    assert_eq!(ours.snapshot(0, 2).unwrap().get_metadata().index, 15);
    assert_eq!(error(ours.snapshot(16, 2)), StorageError::SnapshotTemporarilyUnavailable);
    ours.set_snapshot(mark(15, 1).to_snapshot());
    assert_eq!(ours.cut(15).unwrap().index, 15);
    assert!(ours.snapshot(0, 3).is_ok());
    ours.cut(16).unwrap();
    assert_eq!(error(ours.snapshot(0, 3)), StorageError::SnapshotTemporarilyUnavailable);
    assert_eq!(ours.cut(16), None);
    let installed: Snapshot = mark(30, 4).to_snapshot();
    ours.apply_snapshot(&installed).unwrap();
    assert_eq!((ours.first(), ours.last(), ours.bytes()), (31, 30, 0));
    assert_eq!(ours.conf_state(), mark(30, 4).conf_state);
    assert!(ours.apply_snapshot(&installed).is_err());
    assert!(ours.append(&entries([32], 4, 1)).is_err());
    assert!(ours.append(&entries([30], 4, 1)).is_err());
    assert!(ours.append(&entries([31, 33], 4, 1)).is_err());
}

#[test]
fn raft_starts_from_what_a_log_held_whatever_of_its_commit_index_was_written() {
    let only = LogMark { conf_state: ConfState::from((vec![1], vec![])), ..mark(5, 2) };
    let log = |commit| Recovered {
        hard_state: hard_state(2, 1, commit),
        snapshot: Some(only.clone()),
        entries: entries(6..=9, 2, 10),
        torn_bytes: 0,
    };
    let at = |index| (index > 0).then(|| LogMark { index, ..only.clone() });
    for (commit, applied, expected) in [(0, 0, 5), (7, 6, 7), (6, 8, 8)] {
        let storage = RaftStorage::recover(log(commit), at(applied)).unwrap();
        assert_eq!(storage.hard_state(), hard_state(2, 1, expected));
        let config = Config { id: 1, applied: applied.max(5), ..Config::default() };
        let node = RawNode::new(&config, storage, &slog()).unwrap();
        assert_eq!((node.raft.raft_log.committed, node.raft.raft_log.last_index()), (expected, 9));
    }
    let error = RaftStorage::recover(log(6), at(10)).unwrap_err().to_string();
    assert!(error.contains("it ends with entry 9, and entry 10 was applied"), "{error}");
    let later = ConfState::from((vec![1, 2], vec![]));
    let other = LogMark { term: 1, ..at(8).unwrap() };
    let error = RaftStorage::recover(log(6), Some(other)).unwrap_err().to_string();
    assert!(error.contains("its entry 8 is of term 2, and the one of term 1"), "{error}");
    let applied = LogMark { conf_state: later.clone(), ..at(6).unwrap() };
    let storage = RaftStorage::recover(log(6), Some(applied)).unwrap();
    assert_eq!(storage.conf_state(), later);
}

fn slog() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}
