//! Lookups of 50 objects of 1 MiB and 20 of 2 MiB: regular and zero-copy, handed out and with every byte read and
//! checksummed, beside foyer and cacache on the same work in one run.
//!
//! Incompressible data, random order, contestants interleaved in changing order, 30 warm rounds and 5 cold ones (the
//! files' pages dropped with `POSIX_FADV_DONTNEED`). A contestant that returns other bytes is refused. The spec's own
//! procedure (all by `lookup` once, then all by `lookup_zero_copy` once, fresh cache) has a line of its own.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foyer::{BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy};
use straightway_cache::RawDiskCache;

const MIB: usize = 1 << 20;
const WARM_ROUNDS: usize = 30;
const COLD_ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contestant {
    Regular,
    ZeroCopy,
    FoyerDisk,
    FoyerMemory,
    Cacache,
}

const ALL: [Contestant; 5] =
    [Contestant::Regular, Contestant::ZeroCopy, Contestant::FoyerDisk, Contestant::FoyerMemory, Contestant::Cacache];

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Regular => "straightway lookup (pread)",
            Self::ZeroCopy => "straightway lookup_zero_copy",
            Self::FoyerDisk => "foyer 0.22, disk (1 B of memory)",
            Self::FoyerMemory => "foyer 0.22, all in memory",
            Self::Cacache => "cacache 13.1 read",
        }
    }
}

struct Arena {
    folder: PathBuf,
    ours: std::cell::RefCell<Option<RawDiskCache>>,
    foyer_disk: HybridCache<String, Vec<u8>>,
    foyer_memory: HybridCache<String, Vec<u8>>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut csv = String::from("objects,bytes,state,contestant,what,round,microseconds\n");
    for (objects, len) in [(50, MIB), (20, 2 * MIB), (10, 16 * MIB)] {
        println!("\n{objects} objects of {} MiB", len / MIB);
        literal(objects, len).await;
        let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let arena = Arena::fill(folder.path(), objects, len).await;
        println!("| contestant | handed out, warm: median (range) us | every byte read | handed out, cold | every byte read |");
        println!("|---|---|---|---|---|");
        let rows = arena.run(objects, len, &mut csv).await;
        for (contestant, row) in ALL.iter().zip(rows) {
            println!("| {} | {} |", contestant.name(), row.join(" | "));
        }
    }
    let record = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("record");
    fs::create_dir_all(&record).expect("a folder");
    let day = Command::new("date").arg("+%F").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    fs::write(record.join(format!("{}-lookup.csv", day.expect("a date"))), csv).expect("written");
}

/// The procedure that the published figures come from.
async fn literal(objects: usize, len: usize) {
    let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let cache = RawDiskCache::new(folder.path().join("c"), 256 << 20, 4096, Duration::ZERO).await.expect("opened");
    for n in 0..objects {
        cache.store(&format!("key-{n}"), body(n, len)).await.expect("stored");
    }
    let started = Instant::now();
    for n in 0..objects {
        cache.lookup(&format!("key-{n}")).await.expect("read").expect("a hit");
    }
    let regular = started.elapsed();
    let started = Instant::now();
    for n in 0..objects {
        cache.lookup_zero_copy(&format!("key-{n}")).await.expect("read").expect("a hit");
    }
    let mapped = started.elapsed();
    let ratio = regular.as_secs_f64() / mapped.as_secs_f64();
    println!("literal procedure: lookup {regular:?}, then lookup_zero_copy {mapped:?}: {ratio:.0} x (the first pass reads the disk and verifies)");
}

impl Arena {
    async fn fill(folder: &Path, objects: usize, len: usize) -> Self {
        let ours = RawDiskCache::new(folder.join("ours"), 256 << 20, 4096, Duration::ZERO).await.expect("opened");
        let foyer = async |name: &str, memory: usize| {
            let device = FsDeviceBuilder::new(folder.join(name)).with_capacity(256 << 20).build().expect("a device");
            HybridCacheBuilder::new()
                .with_policy(HybridCachePolicy::WriteOnInsertion)
                .memory(memory)
                .with_weighter(|_: &String, value: &Vec<u8>| value.len())
                .storage()
                .with_engine_config(BlockEngineConfig::new(device).with_block_size(16 << 20).with_buffer_pool_size(256 << 20))
                .build()
                .await
                .expect("foyer opens")
        };
        let (foyer_disk, foyer_memory) = (foyer("foyer-disk", 1).await, foyer("foyer-memory", 1 << 30).await);
        for n in 0..objects {
            let (key, data) = (format!("key-{n}"), body(n, len));
            ours.store(&key, data.clone()).await.expect("stored");
            foyer_memory.insert(key.clone(), data.to_vec());
            foyer_disk.insert(key.clone(), data.to_vec());
            // Its write queue drops what it cannot hold: give it time for each.
            foyer_disk.storage().wait().await;
            cacache::write(folder.join("cacache"), &key, &data).await.expect("stored");
        }
        foyer_memory.storage().wait().await;
        let ours = std::cell::RefCell::new(Some(ours));
        Self { folder: folder.to_path_buf(), ours, foyer_disk, foyer_memory }
    }

    async fn run(&self, objects: usize, len: usize, csv: &mut String) -> Vec<Vec<String>> {
        let mut fair = Vec::new();
        for contestant in ALL {
            let mut right = true;
            for n in 0..objects {
                let sum = self.look_up(&self.ours(), contestant, n, true).await;
                right &= sum == Some(crc(&body(n, len)));
            }
            if !right {
                eprintln!("{}: misses or wrong bytes; not timed", contestant.name());
            }
            fair.push(right);
        }
        let mut samples = vec![vec![Vec::new(); 4]; ALL.len()];
        for (state, rounds) in [("warm", WARM_ROUNDS), ("cold", COLD_ROUNDS)] {
            for round in 0..rounds {
                for step in 0..ALL.len() {
                    let which = (step + round) % ALL.len();
                    if !fair[which] {
                        continue;
                    }
                    for read in [false, true] {
                        if state == "cold" {
                            self.cool().await;
                        }
                        let us = self.pass(ALL[which], objects, round, read).await;
                        let what = if read { "read" } else { "handed out" };
                        *csv += &format!("{objects},{len},{state},{},{what},{round},{us:.1}\n", ALL[which].name());
                        samples[which][usize::from(state == "cold") * 2 + usize::from(read)].push(us);
                    }
                }
            }
        }
        samples.into_iter().map(|columns| columns.into_iter().map(summary).collect()).collect()
    }

    /// Makes the next pass a cold one. Mapped pages cannot be dropped, so that ours is closed and opened again: what
    /// follows is the first read after a start, checksums included.
    async fn cool(&self) {
        let ours = self.ours.take();
        if let Some(ours) = &ours {
            ours.close().await.expect("closed");
        }
        drop(ours);
        drop_pages(&self.folder);
        let again = RawDiskCache::new(self.folder.join("ours"), 256 << 20, 4096, Duration::ZERO).await.expect("opened");
        self.ours.replace(Some(again));
    }

    fn ours(&self) -> RawDiskCache {
        self.ours.borrow().clone().expect("open")
    }

    /// All objects once, in an order of its own; microseconds.
    async fn pass(&self, contestant: Contestant, objects: usize, round: usize, read: bool) -> f64 {
        let mut order: Vec<usize> = (0..objects).collect();
        let mut state = (round as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in (1..objects).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            order.swap(n, (state % (n as u64 + 1)) as usize);
        }
        let ours = self.ours();
        let started = Instant::now();
        for n in order {
            std::hint::black_box(self.look_up(&ours, contestant, n, read).await);
        }
        started.elapsed().as_secs_f64() * 1e6
    }

    /// One object; the checksum of its bytes if they are to be read, its length otherwise.
    async fn look_up(&self, ours: &RawDiskCache, contestant: Contestant, n: usize, read: bool) -> Option<u64> {
        let key = format!("key-{n}");
        let look = |bytes: &[u8]| if read { crc(bytes) } else { bytes.len() as u64 };
        match contestant {
            Contestant::Regular => ours.lookup(&key).await.ok()?.map(|bytes| look(&bytes)),
            Contestant::ZeroCopy => ours.lookup_zero_copy(&key).await.ok()?.map(|bytes| look(&bytes)),
            Contestant::FoyerDisk => self.foyer_disk.get(&key).await.ok()?.map(|entry| look(entry.value())),
            Contestant::FoyerMemory => self.foyer_memory.get(&key).await.ok()?.map(|entry| look(entry.value())),
            Contestant::Cacache => cacache::read(self.folder.join("cacache"), &key).await.ok().map(|bytes| look(&bytes)),
        }
    }
}

fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)
}

fn summary(mut us: Vec<f64>) -> String {
    us.sort_by(f64::total_cmp);
    match (us.first(), us.get(us.len() / 2), us.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:.0} ({least:.0}..{most:.0})"),
        _ => "-".to_owned(),
    }
}

/// Drops every file's pages below a folder from the page cache.
fn drop_pages(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            drop_pages(&path);
        } else if let Ok(file) = fs::File::open(&path) {
            let _synced = file.sync_all();
            let _advised = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

fn body(n: usize, len: usize) -> Bytes {
    let mut state = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}
