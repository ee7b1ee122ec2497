//! What is written is read again; who may open it; what is put away.
use super::*;

#[test]
fn everything_about_an_entry_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, found) = SegmentLog::open(dir.path(), tiny()).unwrap();
    assert_eq!(found, Recovered::default());
    let first = mark(1, 1);
    let state = hard_state(7, 2, 3);
    let batch = Batch { snapshot: Some(&first), ..Batch::default() };
    assert_eq!(append(&mut log, batch), 1);
    let written = [full(2), entry(3, 7, Bytes::new()), full(4), entry(5, 7, vec![9; 100])];
    let batch = Batch { entries: &written, hard_state: Some(&state), snapshot: None };
    assert_eq!(append(&mut log, batch), 5);
    assert_eq!(append(&mut log, Batch::default()), 5);
    assert_eq!((log.stats().batches, log.stats().syncs, log.stats().writes), (2, 2, 2));
    drop(log);
    let (_log, found) = SegmentLog::open(dir.path(), tiny()).unwrap();
    let expected = Recovered {
        hard_state: state,
        snapshot: Some(first),
        entries: written.to_vec(),
        torn_bytes: 0,
    };
    assert_eq!(found, expected);
}

#[test]
fn a_log_of_many_segments_is_cut_and_its_files_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentLog::open(dir.path(), tiny()).unwrap();
    let mut next = 1;
    for round in 0..20 {
        for _ in 0..10 {
            append(&mut log, of(&entries(next..next + 4, 3, 100)));
            next += 4;
        }
        log.compact(&mark(next - 3, 3)).unwrap();
        assert!(log.stats().segments <= 2, "round {round}: {:?}", log.stats());
    }
    let stats = log.stats();
    assert!(stats.rolled > 20 && stats.recycled > 10, "{stats:?}");
    assert_eq!(stats.syncs, stats.batches);
    drop(log);
    let (mut log, found) = SegmentLog::open(dir.path(), tiny()).unwrap();
    assert_eq!(found.entries, entries(next - 2..next, 3, 100));
    assert_eq!(found.snapshot, Some(mark(next - 3, 3)));
    assert_eq!(found.torn_bytes, 0);
    assert_eq!(append(&mut log, of(&entries([next], 3, 10))), next);
}

#[test]
fn one_process_one_storage_and_never_another_log_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let must_exist = LogOptions { must_exist: true, ..tiny() };
    let error = SegmentLog::open(&path, must_exist).unwrap_err().to_string();
    assert!(error.contains("is empty, and this node had one"), "{error}");
    // A log that was made, and never written to.
    drop(SegmentLog::open(&path, tiny()).unwrap());
    let (log, _) = SegmentLog::open(&path, must_exist).unwrap();
    let error = SegmentLog::open(&path, tiny()).unwrap_err();
    assert!(matches!(error, ClusterError::Locked { .. }), "{error}");
    drop(log);
    let other = LogOptions { storage: StorageId([6; 16]), ..tiny() };
    let error = SegmentLog::open(&path, other).unwrap_err().to_string();
    assert!(error.contains("belongs to storage"), "{error}");
    let short = LogOptions { segment_bytes: 4095, ..tiny() };
    assert!(matches!(SegmentLog::open(&path, short), Err(ClusterError::Config { .. })));
}

#[test]
fn a_batch_longer_than_a_segment_has_one_of_its_own() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    let mut expected = Recovered::default();
    // The first one meets an empty segment, the others a used one and one that stands ready.
    for (first, len) in [(1, 9000), (3, 10), (5, 70_000), (7, 5000), (9, 10)] {
        let batch = entries(first..first + 2, first, len);
        append(&mut log, of(&batch));
        expected.apply(&of(&batch));
    }
    drop(log);
    let (mut log, found) = open(&disk).unwrap();
    assert_eq!(image(found), expected);
    log.compact(&mark(10, 9)).unwrap();
    assert_eq!(log.stats().segments, 1);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, of(&entries(1..=10, 2, 10)));
    log.compact(&mark(5, 2)).unwrap();
    let before = log.stats();
    let old = mark(4, 2);
    for batch in [
        of(&entries([12], 2, 1)),
        of(&entries([11, 13], 2, 1)),
        of(&entries([5], 3, 1)),
        of(&entries([0], 3, 1)),
        of(&entries([u64::MAX], 3, 1)),
        Batch { snapshot: Some(&old), ..Batch::default() },
    ] {
        assert!(matches!(log.append(batch), Err(ClusterError::Invalid { .. })), "{batch:?}");
    }
    assert!(matches!(log.compact(&mark(11, 2)), Err(ClusterError::Invalid { .. })));
    assert!(matches!(log.compact(&mark(7, 3)), Err(ClusterError::Invalid { .. })));
    assert_eq!(log.stats(), before);
    // Entries may replace others within a batch.
    let twice = [entries(11..=13, 2, 5), entries(12..=12, 3, 6)].concat();
    assert_eq!(append(&mut log, of(&twice)), 12);
    drop(log);
    let expected = [entries(6..=10, 2, 10), entries([11], 2, 5), entries([12], 3, 6)].concat();
    assert_eq!(held(&disk).entries, expected);
}

#[test]
fn an_installed_snapshot_replaces_the_log_and_its_segments() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    for index in 1..=100 {
        append(&mut log, of(&entries([index], 2, 200)));
    }
    assert!(log.stats().segments > 5);
    let installed = mark(50, 3);
    let (behind, state) = (entries(51..=52, 3, 10), hard_state(3, 0, 50));
    let batch = Batch { snapshot: Some(&installed), entries: &behind, hard_state: Some(&state) };
    assert_eq!(append(&mut log, batch), 52);
    assert_eq!(log.stats().segments, 1);
    drop(log);
    let expected =
        Recovered { hard_state: state, snapshot: Some(installed), entries: behind, torn_bytes: 0 };
    assert_eq!(held(&disk), expected);
}
