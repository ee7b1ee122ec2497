//! A machine that stops at any moment: all of a batch is there, or nothing of it, and the log goes on.
use proptest::prelude::*;
use rustix::io::Errno;

use super::*;

/// A log with some batches in a fresh segment.
fn fresh() -> (Disk, SegmentLog) {
    let disk = Disk::default();
    let (mut log, _) = open(&disk).unwrap();
    append(&mut log, of(&entries(1..=4, 1, 100)));
    let state = hard_state(1, 2, 3);
    append(&mut log, Batch { hard_state: Some(&state), ..Batch::default() });
    log.settle();
    (disk, log)
}

/// A batch over a few sectors: truncation, entries, hard state.
struct Last {
    entries: Vec<Entry>,
    hard_state: HardState,
}

impl Last {
    fn after(log: &Recovered) -> Self {
        let last =
            log.entries.last().map_or(log.snapshot.as_ref().map_or(0, |m| m.index), |e| e.index);
        let first = if log.entries.is_empty() { last + 1 } else { last };
        let mut new = entries(first..first + 4, 9, 217);
        new[2] = entry(first + 2, 9, Bytes::new());
        Self { entries: new, hard_state: hard_state(9, 1, first) }
    }

    fn batch(&self) -> Batch<'_> {
        Batch { entries: &self.entries, hard_state: Some(&self.hard_state), snapshot: None }
    }
}

/// What is there is `before` or `after`; the log can be written to, and what is written then is there, too.
fn goes_on(disk: &Disk, before: &Recovered, after: Option<&Recovered>) {
    let (mut log, found) = open(disk).unwrap();
    let mut now = image(found);
    assert!(now == *before || Some(&now) == after, "{now:?}");
    let next = Last::after(&now);
    append(&mut log, next.batch());
    now.apply(&next.batch());
    drop(log);
    assert_eq!(held(disk), now);
    let (_, found) = open(disk).unwrap();
    assert_eq!(found.torn_bytes, 0, "nothing torn is left");
}

#[test]
fn a_write_that_stopped_after_any_byte_is_cut() {
    for make in [fresh, recycled] {
        let (disk, log) = make();
        let before = held(&disk.copy());
        drop(log);
        let last = Last::after(&before);
        let mut after = before.clone();
        after.apply(&last.batch());
        let total = {
            let mut log = open(&disk.copy()).unwrap().0;
            append(&mut log, last.batch());
            usize::try_from(log.stats().file_bytes).unwrap()
        };
        assert!(total > 3 * 257);
        for room in 0..total {
            let disk = disk.copy();
            let (mut log, _) = open(&disk).unwrap();
            log.settle();
            disk.fault(|faults| faults.write = Some((room, Errno::IO.raw_os_error())));
            log.append(last.batch()).unwrap_err();
            drop(log);
            disk.fault(|faults| faults.write = None);
            // The last bytes are zeros, which may lie there already.
            goes_on(&disk.crash(|| true), &before, (total - room < 8).then_some(&after));
        }
    }
}

/// Which sectors of a write reach the medium before the power fails is for the disk to choose.
#[test]
fn any_sectors_of_a_batch_that_was_not_flushed_may_be_missing() {
    for make in [fresh, recycled] {
        let (disk, log) = make();
        let before = held(&disk.copy());
        drop(log);
        let last = Last::after(&before);
        let mut after = before.clone();
        after.apply(&last.batch());
        let (mut without, mut with) = (0, 0);
        for choice in 0_u32..64 {
            let disk = disk.copy();
            let (mut log, _) = open(&disk).unwrap();
            log.settle();
            disk.fault(|faults| faults.sync = Some(Errno::IO.raw_os_error()));
            assert!(matches!(log.append(last.batch()), Err(ClusterError::Poisoned { .. })));
            drop(log);
            let mut sector = 0;
            let crashed = disk.crash(|| {
                sector += 1;
                choice >> (sector - 1) & 1 == 1
            });
            let now = held(&crashed.copy());
            *(if now == before { &mut without } else { &mut with }) += 1;
            goes_on(&crashed, &before, Some(&after));
        }
        assert!(without > 0 && with > 0, "{without} without it, {with} with it");
    }
}

/// The process ends between write and flush, or the disk fails the flush; the next process finds the batch in the system's cache
/// or does not, answers for what it found, and the power fails before it writes anything.
#[test]
fn what_a_start_found_is_there_at_the_next_one() {
    for make in [fresh, recycled] {
        for killed in [true, false] {
            let (disk, mut log) = make();
            let mut expected = held(&disk.copy());
            let last = Last::after(&expected);
            disk.fault(|faults| {
                faults.killed = killed;
                faults.sync = (!killed).then_some(Errno::IO.raw_os_error());
            });
            assert!(matches!(log.append(last.batch()), Err(ClusterError::Poisoned { .. })));
            drop(log);
            disk.fault(|faults| (faults.killed, faults.sync) = (false, None));
            let (log, found) = open(&disk).unwrap();
            let found = image(found);
            drop(log);
            if killed {
                expected.apply(&last.batch());
            }
            assert_eq!(found, expected, "killed: {killed}");
            assert_eq!(held(&disk.crash(|| false)), found, "killed: {killed}");
        }
    }
}

#[test]
fn a_first_batch_that_tore_leaves_an_empty_log() {
    for room in [0, 1, 40, 63, 64, 100, 500] {
        let disk = Disk::default();
        let (mut log, _) = open(&disk).unwrap();
        log.settle();
        disk.fault(|faults| faults.write = Some((room, Errno::IO.raw_os_error())));
        log.append(of(&entries(1..=8, 1, 60))).unwrap_err();
        drop(log);
        disk.fault(|faults| faults.write = None);
        goes_on(&disk, &Recovered::default(), None);
    }
}

#[test]
fn a_first_batch_of_a_segment_that_tore_is_cut() {
    for room in [1, 39, 40, 41, 80, 300] {
        let (disk, mut log) = fresh();
        append(&mut log, of(&entries(5..=18, 1, 200)));
        let before = held(&disk.copy());
        let rolled = log.stats().rolled;
        log.settle();
        disk.fault(|faults| faults.write = Some((room, Errno::IO.raw_os_error())));
        log.append(of(&entries(19..=22, 1, 200))).unwrap_err();
        assert_eq!(log.stats().rolled, rolled + 1, "it went into a new segment");
        drop(log);
        disk.fault(|faults| faults.write = None);
        goes_on(&disk, &before, None);
    }
}

/// Whatever lies behind the end of the last whole batch: zeros, the start of a record, noise.
#[test]
fn any_tail_is_cut() {
    let (disk, mut log) = fresh();
    let name = disk.names(".log").remove(0);
    let before = held(&disk.copy());
    let end = usize::try_from(64 + 40 + log.stats().file_bytes - 40).unwrap();
    append(&mut log, of(&entries(5..=6, 1, 90)));
    let after = held(&disk.copy());
    let full = usize::try_from(64 + log.stats().file_bytes).unwrap();
    drop(log);
    for cut in end..full {
        for tail in [0, 0xff, 0x5a] {
            let disk = disk.copy();
            disk.edit(&name, |bytes| bytes[cut..].fill(tail));
            // The last bytes of a record may be padding.
            let whole = (full - cut < 8).then_some(&after);
            goes_on(&disk, &before, whole);
        }
    }
    disk.edit(&name, |bytes| bytes.truncate(full + 100));
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("it is not as long as it was made"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Power fails in any batch, again and again, with any of its sectors on the medium, across segments.
    #[test]
    fn every_flushed_batch_survives_every_crash(
        lives in proptest::collection::vec((proptest::collection::vec((1_u64..5, 0_usize..700), 0..12), any::<u64>()), 1..6),
    ) {
        let mut disk = Disk::default();
        let mut model = Recovered::default();
        for (batches, mut luck) in lives {
            let (mut log, found) = open(&disk).unwrap();
            prop_assert_eq!(&image(found), &model);
            let mut next = model.entries.last().map_or(0, |entry| entry.index) + 1;
            for (count, len) in batches {
                let new = entries(next..next + count, 1, len);
                append(&mut log, of(&new));
                model.apply(&of(&new));
                next += count;
            }
            log.settle();
            disk.fault(|faults| faults.sync = Some(5));
            let last = Last::after(&model);
            // A batch that opens a segment may fail before it is written.
            let _failed = log.append(last.batch()).unwrap_err();
            drop(log);
            disk = disk.crash(|| {
                luck = luck.rotate_left(1);
                luck & 3 != 0
            });
            let now = held(&disk.copy());
            let mut after = model.clone();
            after.apply(&last.batch());
            prop_assert!(now == model || now == after);
            model = now;
        }
    }
}
