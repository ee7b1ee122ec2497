//! Appending to a Raft log, flushed at every commit: ours beside redb, fjall, and a bare file as the floor.
//!
//! All stores are open at once and take turns in changing order, in slices of some commits; incompressible entries; nobody
//! cuts its log but one of ours, whose segments are used again. A commit is durable when it returns:
//! `Durability::Immediate`, `PersistMode::SyncData`, `fdatasync`. The bare file is preallocated and filled with zeros, and
//! gets the entries' bytes alone, in one write: no store can be faster.
use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{KeyspaceCreateOptions, PersistMode};
use raft::prelude::Entry;
use redb::TableDefinition;
use straightway_cluster::StorageId;
use straightway_cluster::log::{Batch, LogMark, LogOptions, LogStore as _, SegmentLog};

const ROUNDS: usize = 10;

trait Store {
    fn name(&self) -> &'static str;
    fn append(&mut self, entries: &[Entry]);
}

struct Ours {
    log: SegmentLog,
    /// Whether it is cut as a node cuts its log, so that segments are used again.
    cut: bool,
    behind: u64,
}
impl Store for Ours {
    fn name(&self) -> &'static str {
        if self.cut { "straightway SegmentLog, cut every 64 MiB" } else { "straightway SegmentLog" }
    }
    fn append(&mut self, entries: &[Entry]) {
        let synced = self.log.append(Batch { entries, ..Batch::default() }).expect("appended");
        assert_eq!(Some(synced.last_index()), entries.last().map(|entry| entry.index));
        self.behind += entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        if self.cut && self.behind >= 64 << 20 {
            self.behind = 0;
            let index = synced.last_index();
            self.log.compact(&LogMark { index, term: 1, ..LogMark::default() }).expect("cut");
        }
    }
}

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

struct Redb(redb::Database);
impl Store for Redb {
    fn name(&self) -> &'static str {
        "redb 4.4"
    }
    fn append(&mut self, entries: &[Entry]) {
        let transaction = self.0.begin_write().expect("a transaction");
        {
            let mut table = transaction.open_table(TABLE).expect("a table");
            for entry in entries {
                table.insert(entry.index, &*entry.data).expect("inserted");
            }
        }
        transaction.commit().expect("committed");
    }
}

struct Fjall(fjall::Database, fjall::Keyspace);
impl Store for Fjall {
    fn name(&self) -> &'static str {
        "fjall 3.1"
    }
    fn append(&mut self, entries: &[Entry]) {
        let mut batch = self.0.batch().durability(Some(PersistMode::SyncData));
        for entry in entries {
            batch.insert(&self.1, entry.index.to_be_bytes(), entry.data.clone());
        }
        batch.commit().expect("committed");
    }
}

struct Bare {
    file: File,
    at: u64,
    len: u64,
}
impl Store for Bare {
    fn name(&self) -> &'static str {
        "bare file (floor)"
    }
    fn append(&mut self, entries: &[Entry]) {
        use std::io::{Seek as _, SeekFrom};
        let len: usize = entries.iter().map(|entry| entry.data.len()).sum();
        if self.at + len as u64 + 4096 > self.len {
            self.at = 0;
        }
        self.file.seek(SeekFrom::Start(self.at)).expect("a place");
        // Whole pages, so that none is read before.
        let rest = (self.at + len as u64).next_multiple_of(4096) - (self.at + len as u64);
        let zeros = vec![0; rest as usize];
        let parts: Vec<_> =
            entries.iter().map(|entry| &*entry.data).chain([&*zeros]).map(IoSlice::new).collect();
        let written = self.file.write_vectored(&parts).expect("written");
        assert_eq!(written, len + zeros.len());
        self.file.sync_data().expect("flushed");
        self.at += len as u64;
    }
}

fn stores(dir: &Path) -> Vec<Box<dyn Store>> {
    let ours = |name, cut| {
        let options = LogOptions::new(StorageId([1; 16]));
        let (log, _) = SegmentLog::open(&dir.join(name), options).expect("a log");
        Box::new(Ours { log, cut, behind: 0 })
    };
    let redb = redb::Database::create(dir.join("redb")).expect("a database");
    let fjall = fjall::Database::builder(dir.join("fjall")).open().expect("a database");
    let keyspace = fjall.keyspace("log", KeyspaceCreateOptions::default).expect("a keyspace");
    let len = 64 << 20;
    let file = File::create(dir.join("bare")).expect("a file");
    for at in (0..len).step_by(1 << 20) {
        file.write_all_at(&vec![0; 1 << 20], at).expect("zeros");
    }
    file.sync_all().expect("flushed");
    // A flush writes whole pieces of the cache, and a piece is what was written at once: here 1 MiB.
    // SAFETY: advice about a file that is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    vec![
        ours("log", false),
        ours("cut log", true),
        Box::new(Redb(redb)),
        Box::new(Fjall(fjall, keyspace)),
        Box::new(Bare { file, at: 0, len }),
    ]
}

/// Bytes that do not compress.
fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect::<Vec<_>>().into()
}

/// Processor time of the whole process, with all threads that a store keeps.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and the place to write to is ours.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes that the process caused to be written to the disk.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("counters");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("a counter");
    line.parse().expect("a number")
}

fn measure(count: usize, len: usize, commits: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut stores = stores(dir.path());
    let noise = noise(4 << 20);
    let mut next = vec![1_u64; stores.len()];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); stores.len()];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); stores.len()];
    let mut costs = vec![(Duration::ZERO, 0); stores.len()];
    for round in 0..=ROUNDS {
        for turn in 0..stores.len() {
            let which = (turn + round) % stores.len();
            let mut slice = Vec::with_capacity(commits);
            let before = (cpu(), written());
            let begin = Instant::now();
            for commit in 0..commits {
                let entries: Vec<Entry> = (0..count)
                    .map(|n| {
                        let at = (commit * count + n) * 4099 % (noise.len() - len);
                        let index = next[which] + n as u64;
                        Entry {
                            index,
                            term: 1,
                            data: noise.slice(at..at + len),
                            ..Entry::default()
                        }
                    })
                    .collect();
                next[which] += count as u64;
                let begin = Instant::now();
                stores[which].append(&entries);
                slice.push(begin.elapsed());
            }
            // The first round warms up: segments are made, trees get their first pages.
            if round > 0 {
                rates[which].push(commits as f64 / begin.elapsed().as_secs_f64());
                times[which].append(&mut slice);
                costs[which].0 += cpu() - before.0;
                costs[which].1 += written() - before.1;
            }
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rates: Vec<f64> = rates.iter_mut().map(median).collect();
    for (which, store) in stores.iter().enumerate() {
        times[which].sort_unstable();
        let at = |part: usize| times[which][times[which].len() * part / 1000].as_micros();
        println!(
            "| {count} x {len} B | {} | {:.0} | {} | {} | {:.1} | {:.2} | {:.2} |",
            store.name(),
            rates[which],
            at(500),
            at(990),
            costs[which].0.as_secs_f64() * 1e6 / (ROUNDS * commits) as f64,
            costs[which].1 as f64 / (ROUNDS * commits * count * len) as f64,
            rates[0] / rates[which],
        );
    }
}

fn main() {
    println!(
        "| commit | store | commits/s (median of {ROUNDS} rounds) | p50 us | p99 us | CPU us a commit | written, of payload | ours, of this |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (count, len, commits) in [(1, 64, 400), (16, 256, 400), (64, 1024, 200), (1, 1 << 20, 40)] {
        measure(count, len, commits);
    }
}
