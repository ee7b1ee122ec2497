//! Disks that are full, slow to take bytes, or fail; and what a batch costs.
use rustix::io::Errno;

use super::*;

#[test]
fn a_batch_is_one_write_and_one_flush_and_no_byte_of_an_entry_is_copied() {
    let (disk, mut log) = recycled();
    // Into a segment that has just been begun: beginning one has another made, by a thread whose calls are counted, too.
    let (mut next, rolled) = (161, log.stats().rolled);
    while log.stats().rolled == rolled {
        append(&mut log, of(&entries(next..=next, 1, 100)));
        next += 1;
    }
    log.settle();
    let (before, written) = (disk.calls(), log.stats());
    let mut new = entries(next..next + 10, 1, 100);
    new[3] = full(next + 3);
    new[5].data = Bytes::new();
    let state = hard_state(1, 1, next - 1);
    append(&mut log, Batch { entries: &new, hard_state: Some(&state), snapshot: None });
    assert_eq!(log.stats().rolled, written.rolled, "it fits");
    let after = disk.calls();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
    let bytes = new
        .iter()
        .flat_map(|entry| [&entry.data, &entry.context])
        .filter(|bytes| !bytes.is_empty());
    let lie: Vec<_> = bytes.map(|bytes| (bytes.as_ptr() as usize, bytes.len())).collect();
    let (theirs, heads): (Vec<_>, Vec<_>) = after.parts.iter().partition(|part| lie.contains(part));
    assert_eq!(theirs, lie, "every entry's bytes are handed over from where they lie, in order");
    let heads: usize = heads.iter().map(|(_, len)| len).sum();
    let stats = log.stats();
    assert_eq!(
        stats.payload_bytes - written.payload_bytes,
        lie.iter().map(|(_, len)| *len as u64).sum::<u64>()
    );
    let own = stats.file_bytes - written.file_bytes - (stats.payload_bytes - written.payload_bytes);
    // Zeros follow up to the end of the page.
    assert!((own..own + 4096).contains(&(heads as u64)), "{heads} {own}");
}

#[test]
fn batches_of_more_parts_than_one_call_takes_are_flushed_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 1 << 20, ..tiny() };
    let (mut log, _) = SegmentLog::open(dir.path(), options).unwrap();
    let new = entries(1..=3000, 1, 20);
    append(&mut log, of(&new));
    assert_eq!((log.stats().writes, log.stats().syncs), (6, 1));
    assert_eq!(log.stats().payload_bytes, 60_000);
    drop(log);
    assert_eq!(SegmentLog::open(dir.path(), options).unwrap().1.entries, new);
}

#[test]
fn a_flush_that_failed_is_never_tried_again() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, of(&entries(1..=2, 1, 10)));
    log.settle();
    disk.fault(|faults| faults.sync = Some(Errno::IO.raw_os_error()));
    let error = log.append(of(&entries(3..=3, 1, 10))).unwrap_err().to_string();
    assert!(error.contains("cannot flush /memory/0000000000000001.log"), "{error}");
    disk.fault(|faults| faults.sync = None);
    let before = disk.calls();
    assert!(matches!(log.append(of(&entries(3..=3, 1, 10))), Err(ClusterError::Poisoned { .. })));
    assert!(matches!(log.compact(&mark(1, 1)), Err(ClusterError::Poisoned { .. })));
    assert!(matches!(log.append(Batch::default()), Err(ClusterError::Poisoned { .. })));
    let after = disk.calls();
    assert_eq!((after.writes, after.syncs), (before.writes, before.syncs));
    assert!(log.stats().poisoned);
}

#[test]
fn a_full_disk_is_an_error_and_no_more_while_nothing_was_written() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, of(&entries(1..=2, 1, 10)));
    log.settle();
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
        disk.fault(|faults| faults.write = Some((0, errno.raw_os_error())));
        let error = log.append(of(&entries(3..=3, 1, 10))).unwrap_err();
        assert!(matches!(error, ClusterError::File { act: "write to", .. }), "{error}");
    }
    disk.fault(|faults| faults.write = None);
    assert_eq!(append(&mut log, of(&entries(3..=3, 1, 10))), 3);
    disk.fault(|faults| faults.write = Some((50, Errno::NOSPC.raw_os_error())));
    let error = log.append(of(&entries(4..=4, 1, 100))).unwrap_err();
    assert!(matches!(error, ClusterError::Poisoned { .. }), "half of it may be there: {error}");
    disk.fault(|faults| faults.write = None);
    drop(log);
    assert_eq!(held(&disk).entries, entries(1..=3, 1, 10));
}

#[test]
fn a_segment_that_cannot_be_made_is_asked_for_again() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.settle();
    disk.fault(|faults| faults.create = Some(Errno::NOSPC.raw_os_error()));
    let mut model = Recovered::default();
    let mut index = 1;
    let error = loop {
        let new = entries([index], 1, 1000);
        match log.append(of(&new)) {
            Ok(synced) => assert_eq!(synced.last_index(), index),
            Err(error) => break error,
        }
        model.apply(&of(&new));
        index += 1;
    };
    assert!(
        matches!(error, ClusterError::File { act: "reserve room for the log in", .. }),
        "{error}"
    );
    assert!(index > 6, "the segment that stood ready was used");
    let long = entries(index..=index, 1, 10_000);
    assert!(matches!(log.append(of(&long)), Err(ClusterError::File { .. })));
    disk.fault(|faults| faults.create = None);
    // One attempt may have failed already in the background: that was then.
    let new = entries([index], 1, 1000);
    append(&mut log, of(&new));
    model.apply(&of(&new));
    drop(log);
    assert_eq!(held(&disk), model);
}

#[test]
fn a_segment_that_could_not_be_made_ahead_is_no_error_once_there_is_room() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.settle();
    disk.fault(|faults| faults.create = Some(Errno::NOSPC.raw_os_error()));
    let mut index = 1;
    while log.stats().rolled == 0 {
        append(&mut log, of(&entries([index], 1, 1000)));
        index += 1;
    }
    // The next one is ordered by now, and fails where nobody sees it.
    log.settle();
    disk.fault(|faults| faults.create = None);
    while log.stats().rolled == 1 {
        append(&mut log, of(&entries([index], 1, 1000)));
        index += 1;
    }
    drop(log);
    assert_eq!(held(&disk).entries, entries(1..index, 1, 1000));
}

/// Segments vanish from the front or not at all, whatever fails while they are put away, and wherever the power fails.
#[test]
fn segments_that_cannot_be_put_away_leave_no_gap() {
    type Fault = fn(&mut disk::Faults);
    let faults: [Fault; 4] = [
        |faults| faults.renames = vec![Errno::IO.raw_os_error()],
        |faults| faults.renames = vec![Errno::IO.raw_os_error(); 3],
        |faults| faults.removals = vec![Errno::IO.raw_os_error()],
        |faults| faults.folder_sync = Some(Errno::IO.raw_os_error()),
    ];
    for (which, fault) in faults.into_iter().enumerate() {
        let disk = Disk::default();
        let (mut log, _) = open(&disk).unwrap();
        for index in (1..=80).step_by(4) {
            append(&mut log, of(&entries(index..index + 4, 1, 200)));
        }
        log.settle();
        let before = log.stats().segments;
        disk.fault(fault);
        log.compact(&mark(76, 1)).unwrap();
        assert!(log.stats().segments + 3 < before, "several are to go");
        drop(log);
        for kept in 0..4 {
            let mut left = kept;
            let crashed = disk.crash(|| {
                left -= 1;
                left >= 0
            });
            assert_eq!(held(&crashed).entries, entries(77..=80, 1, 200), "{which}, {kept}");
        }
        disk.fault(|faults| *faults = disk::Faults::default());
        assert_eq!(held(&disk).entries, entries(77..=80, 1, 200), "{which}");
    }
}

#[test]
fn a_disk_that_takes_a_few_bytes_at_a_time_is_fed_until_it_has_all() {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.settle();
    disk.fault(|faults| faults.short = Some(7));
    let new = [entries(1..=5, 1, 33), vec![full(6)]].concat();
    append(&mut log, of(&new));
    assert!(log.stats().writes > 50);
    assert_eq!(log.stats().syncs, 1);
    disk.fault(|faults| faults.short = Some(0));
    assert!(matches!(log.append(of(&entries([7], 1, 1))), Err(ClusterError::Poisoned { .. })));
    disk.fault(|faults| faults.short = None);
    drop(log);
    assert_eq!(held(&disk).entries, new);
}

#[test]
fn a_memory_log_loses_tears_and_fails_as_it_is_told() {
    use crate::log::MemoryLog;
    let mut log = MemoryLog::new();
    let first = mark(1, 1);
    let _synced = log.append(Batch { snapshot: Some(&first), ..Batch::default() }).unwrap();
    log.write(of(&entries(2..=3, 1, 5))).unwrap();
    log.write(of(&entries(3..=3, 2, 5))).unwrap();
    assert_eq!((log.staged(), log.synced().entries.len()), (2, 0));
    log.fail_sync();
    assert!(matches!(log.sync(), Err(ClusterError::Poisoned { .. })));
    assert!(matches!(log.append(of(&entries([4], 2, 5))), Err(ClusterError::Poisoned { .. })));
    let (mut log, found) = MemoryLog::reopen(log.crash(1));
    assert_eq!(found.entries, entries(2..=3, 1, 5));
    assert_eq!(found.snapshot, Some(first));
    assert!(matches!(log.write(of(&entries([5], 1, 1))), Err(ClusterError::Invalid { .. })));
    assert_eq!(log.append(of(&entries([4], 1, 1))).unwrap().last_index(), 4);
    log.compact(&mark(3, 1)).unwrap();
    assert_eq!(log.synced().entries, entries([4], 1, 1));
}
