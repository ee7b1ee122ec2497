//! What the log's thread does, in which order.
use bytes::Bytes;
use crossbeam_channel::unbounded;
use parking_lot::Mutex;
use raft::prelude::{Entry, Snapshot};

use super::*;
use crate::log::{LogStats, MemoryLog, Synced};

#[derive(Debug, PartialEq)]
enum Seen {
    /// Written and flushed: these entries, and whether a mark was before them.
    Flushed(Vec<u64>, bool),
    Cut(u64),
    /// To whom, and what was said to be on the disk by then.
    Sent(u64, u64),
}

type Record = Arc<Mutex<Vec<Seen>>>;

#[derive(Debug)]
struct Watched(MemoryLog, Record);

impl LogStore for Watched {
    fn append(&mut self, batch: Batch<'_>) -> Result<Synced, ClusterError> {
        let synced = self.0.append(batch)?;
        let indices = batch.entries.iter().map(|entry| entry.index).collect();
        self.1.lock().push(Seen::Flushed(indices, batch.snapshot.is_some()));
        Ok(synced)
    }

    fn compact(&mut self, mark: &LogMark) -> Result<(), ClusterError> {
        self.1.lock().push(Seen::Cut(mark.index));
        self.0.compact(mark)
    }

    fn stats(&self) -> LogStats {
        self.0.stats()
    }
}

struct Posted(Record, Arc<AtomicU64>);

impl Outbox for Posted {
    fn send(&self, message: Message) {
        self.0.lock().push(Seen::Sent(message.to, self.1.load(Ordering::Acquire)));
    }

    fn refused(&self, peer: RaftId, lane: Lane, why: &dyn std::fmt::Display) {
        panic!("member {peer} was hung up on, {lane:?}: {why}");
    }
}

/// Entries of `len` bytes, and a message to the member of that number.
fn persist(number: u64, entries: std::ops::Range<u64>, len: usize) -> Persist {
    let data = Bytes::from(vec![1; len]);
    let entry = |index| Entry { index, term: number, data: data.clone(), ..Entry::default() };
    let message = Message { to: number, ..Message::default() };
    Persist {
        number,
        entries: entries.map(entry).collect(),
        messages: vec![message],
        ..Persist::default()
    }
}

/// A thread over `log` that has these jobs to do.
fn run(log: MemoryLog, todo: Vec<Job>) -> (Result<(), ClusterError>, Vec<Seen>, u64) {
    let (record, persisted) = (Record::default(), Arc::new(AtomicU64::new(0)));
    let disk = Disk {
        log: Box::new(Watched(log, record.clone())),
        outbox: Box::new(Posted(record.clone(), persisted.clone())),
        persisted: persisted.clone(),
        wake: Wake::new().0,
        progress: Arc::new(Progress::new()),
    };
    let (sender, jobs) = unbounded();
    for job in todo {
        sender.send(job).unwrap();
    }
    sender.send(Job::Stop).unwrap();
    let ended = disk.run(&jobs);
    let seen = std::mem::take(&mut *record.lock());
    (ended, seen, persisted.load(Ordering::Acquire))
}

#[test]
fn what_waits_is_flushed_together_and_nothing_is_sent_before() {
    let cut = LogMark { index: 2, term: 1, ..LogMark::default() };
    let (ended, seen, persisted) = run(
        MemoryLog::new(),
        vec![
            Job::Persist(persist(1, 1..3, 5)),
            Job::Persist(persist(2, 3..4, 5)),
            Job::Compact(cut),
            // Replaces what was written before.
            Job::Persist(persist(3, 3..5, 5)),
            Job::Persist(persist(4, 4..5, 5)),
            Job::Persist(persist(5, 5..5, 5)),
        ],
    );
    ended.unwrap();
    let expected = [
        Seen::Flushed(vec![1, 2, 3], false),
        Seen::Sent(1, 2),
        Seen::Sent(2, 2),
        Seen::Cut(2),
        Seen::Flushed(vec![3, 4], false),
        Seen::Sent(3, 3),
        Seen::Flushed(vec![4], false),
        Seen::Sent(4, 5),
        Seen::Sent(5, 5),
    ];
    assert_eq!(seen, expected);
    assert_eq!(persisted, 5);
}

#[test]
fn no_more_is_gathered_than_a_flush_should_take() {
    let jobs = (0..4).map(|n| Job::Persist(persist(n + 1, n + 1..n + 2, 5 << 20))).collect();
    let (ended, seen, _) = run(MemoryLog::new(), jobs);
    ended.unwrap();
    let flushed: Vec<_> =
        seen.into_iter().filter(|seen| matches!(seen, Seen::Flushed(..))).collect();
    assert_eq!(flushed, [Seen::Flushed(vec![1, 2], false), Seen::Flushed(vec![3, 4], false)]);
}

#[test]
fn nothing_is_sent_when_the_flush_fails() {
    let mut log = MemoryLog::new();
    log.fail_sync();
    let jobs = vec![Job::Persist(persist(1, 1..3, 5)), Job::Persist(persist(2, 4..5, 5))];
    let (ended, seen, persisted) = run(log, jobs);
    assert!(matches!(ended, Err(ClusterError::Poisoned { .. })));
    assert_eq!((seen.len(), persisted), (0, 0));
}

fn install() -> Persist {
    let mut snapshot = Snapshot::default();
    (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (9, 2);
    Persist { snapshot: Some(snapshot), ..persist(2, 10..11, 5) }
}

#[test]
fn a_snapshot_is_in_the_state_machine_before_the_log_says_so() {
    let (done, installed) = crossbeam_channel::bounded(1);
    done.send(Ok(())).unwrap();
    let jobs = vec![Job::Persist(persist(1, 1..3, 5)), Job::Install(install(), installed)];
    let (ended, seen, _) = run(MemoryLog::new(), jobs);
    ended.unwrap();
    let expected = [
        Seen::Flushed(vec![1, 2], false),
        Seen::Sent(1, 1),
        Seen::Flushed(vec![10], true),
        Seen::Sent(2, 2),
    ];
    assert_eq!(seen, expected);
    // It failed, or the thread that should is gone.
    for answer in [Some(Err(stopped())), None] {
        let (done, installed) = crossbeam_channel::bounded(1);
        if let Some(answer) = answer {
            done.send(answer).unwrap();
        }
        drop(done);
        let jobs = vec![Job::Install(install(), installed)];
        let (ended, seen, persisted) = run(MemoryLog::new(), jobs);
        assert!(ended.is_err());
        assert_eq!((seen.len(), persisted), (0, 0));
    }
}
