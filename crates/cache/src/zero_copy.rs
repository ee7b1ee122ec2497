//! Which way bytes leave the cache: by `pread`, from the mapping, or by `sendfile`.
//!
//! Below [`ZeroCopyConfig::mmap_threshold`] a `pread` into a pooled buffer is the safe start, at or above it the
//! mapping; in adaptive mode these are only the opening moves. Each size class (a power of two) keeps a moving average
//! of what each way cost there, tries the others once in a while, and takes the cheapest. Bodies at or above the
//! threshold never go by `pread`: what was promised without a copy stays without one.
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::stats::ZeroCopyStats;

/// Part of the cache file, in absolute bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The ways out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadPath {
    /// `pread` into a pooled buffer, then a plain write: one copy.
    Pread,
    /// A slice of the mapping, written with `writev`: no copy in user space.
    Mapped,
    /// `sendfile` from the file to the socket: the bytes never enter user space.
    Sendfile,
}

/// Settings of the zero-copy paths. All of them can be changed while the cache is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroCopyConfig {
    /// Objects of at least this many bytes are mapped (default 64 KiB).
    pub mmap_threshold: usize,
    /// Whether `sendfile` may be used (default true).
    pub enable_sendfile: bool,
    /// Whether the way out is chosen per size class from measured costs, starting from the threshold (default true).
    pub adaptive: bool,
}

impl Default for ZeroCopyConfig {
    fn default() -> Self {
        Self { mmap_threshold: 64 * 1024, enable_sendfile: true, adaptive: true }
    }
}

/// Chooses the way out for each read and counts what was done. All methods are lock-free.
#[derive(Debug)]
pub struct ZeroCopyManager {
    mmap_threshold: AtomicUsize,
    enable_sendfile: AtomicBool,
    adaptive: AtomicBool,
    mapped: bool,
    sendfile_safe: bool,
    classes: Vec<SizeClass>,
    pub(crate) counters: Counters,
}

/// The raw counters behind [`ZeroCopyStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) mmap_reads: AtomicU64,
    pub(crate) mmap_bytes: AtomicU64,
    pub(crate) sendfile_transfers: AtomicU64,
    pub(crate) sendfile_bytes: AtomicU64,
    pub(crate) mmap_skipped: AtomicU64,
    pub(crate) writev_transfers: AtomicU64,
    pub(crate) writev_bytes: AtomicU64,
    pub(crate) pread_reads: AtomicU64,
    pub(crate) pread_bytes: AtomicU64,
    pub(crate) bytes_copied: AtomicU64,
    pub(crate) cold_reads: AtomicU64,
}

impl ZeroCopyManager {
    pub(crate) fn new(config: ZeroCopyConfig, mapped: bool, sendfile_safe: bool) -> Self {
        Self {
            mmap_threshold: AtomicUsize::new(config.mmap_threshold),
            enable_sendfile: AtomicBool::new(config.enable_sendfile),
            adaptive: AtomicBool::new(config.adaptive),
            mapped,
            sendfile_safe,
            classes: (0..SIZE_CLASSES).map(|_| SizeClass::default()).collect(),
            counters: Counters::default(),
        }
    }

    /// The settings in force.
    pub fn config(&self) -> ZeroCopyConfig {
        ZeroCopyConfig {
            mmap_threshold: self.mmap_threshold.load(Ordering::Relaxed),
            enable_sendfile: self.enable_sendfile.load(Ordering::Relaxed),
            adaptive: self.adaptive.load(Ordering::Relaxed),
        }
    }

    /// Changes the settings, for reads that start from now on.
    pub fn set_config(&self, config: ZeroCopyConfig) {
        self.mmap_threshold.store(config.mmap_threshold, Ordering::Relaxed);
        self.enable_sendfile.store(config.enable_sendfile, Ordering::Relaxed);
        self.adaptive.store(config.adaptive, Ordering::Relaxed);
    }

    /// The way out for a body of `len` bytes to a peer on another machine.
    pub fn choose(&self, len: u64) -> ReadPath {
        self.choose_for(len, false)
    }

    /// The way out for a body of `len` bytes; `local`: to a peer on this machine.
    ///
    /// Over loopback the receiver copies straight out of the sender's pages: what `sendfile` saves here it pays there,
    /// with interest, on the same machine. Once there is experience, local peers are served out of the mapping.
    pub fn choose_for(&self, len: u64, local: bool) -> ReadPath {
        if !self.mapped {
            return ReadPath::Pread;
        }
        let config = self.config();
        let above = len >= config.mmap_threshold as u64;
        let sendfile = self.sendfile_safe && config.enable_sendfile;
        let opening = match (above, sendfile) {
            (false, _) => ReadPath::Pread,
            (true, true) => ReadPath::Sendfile,
            (true, false) => ReadPath::Mapped,
        };
        let chosen = if config.adaptive {
            self.class(len).choose(opening, [!above, true, sendfile && !local])
        } else {
            opening
        };
        if chosen == ReadPath::Pread {
            self.count_skipped();
        }
        chosen
    }

    /// Tells what a transfer cost, so that the adaptive mode can learn: `cost_ns` in system calls for a body of `len` bytes.
    pub fn observe(&self, path: ReadPath, len: u64, cost_ns: u64) {
        self.class(len).observe(path, cost_ns);
    }

    /// As [`Self::observe`] for the copying of a `pread`: what is copied has still to be written, which costs about what
    /// writing it out of the mapping would.
    pub(crate) fn observe_copy(&self, len: u64, copy_ns: u64) {
        let class = self.class(len);
        let write_ns = class.cost_ns[ReadPath::Mapped as usize].load(Ordering::Relaxed);
        class.observe(ReadPath::Pread, copy_ns.saturating_add(write_ns));
    }

    /// Counts a transfer of `bytes` by `path`.
    pub fn record(&self, path: ReadPath, bytes: u64) {
        let (calls, total) = match path {
            ReadPath::Pread => (&self.counters.pread_reads, &self.counters.pread_bytes),
            ReadPath::Mapped => {
                self.count_mapped(bytes);
                (&self.counters.writev_transfers, &self.counters.writev_bytes)
            }
            ReadPath::Sendfile => {
                (&self.counters.sendfile_transfers, &self.counters.sendfile_bytes)
            }
        };
        calls.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_mapped(&self, bytes: u64) {
        self.counters.mmap_reads.fetch_add(1, Ordering::Relaxed);
        self.counters.mmap_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_copied(&self, bytes: u64) {
        self.counters.bytes_copied.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_skipped(&self) {
        self.counters.mmap_skipped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_cold(&self) {
        self.counters.cold_reads.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters. `pins_held` is filled in by the cache.
    pub fn stats(&self) -> ZeroCopyStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        ZeroCopyStats {
            mmap_reads: read(&c.mmap_reads),
            mmap_bytes: read(&c.mmap_bytes),
            sendfile_transfers: read(&c.sendfile_transfers),
            sendfile_bytes: read(&c.sendfile_bytes),
            mmap_skipped: read(&c.mmap_skipped),
            writev_transfers: read(&c.writev_transfers),
            writev_bytes: read(&c.writev_bytes),
            pread_reads: read(&c.pread_reads),
            pread_bytes: read(&c.pread_bytes),
            bytes_copied: read(&c.bytes_copied),
            bytes_served: read(&c.mmap_bytes) + read(&c.sendfile_bytes) + read(&c.pread_bytes),
            cold_reads: read(&c.cold_reads),
            pins_held: 0,
        }
    }

    fn class(&self, len: u64) -> &SizeClass {
        let class = (64 - len.leading_zeros()) as usize;
        &self.classes[class.min(SIZE_CLASSES - 1)]
    }
}

/// Classes 0..=47: bodies up to 2^47 bytes.
const SIZE_CLASSES: usize = 48;
/// Transfers by the opening way before anything else is tried.
const WARM_UP: u64 = 64;
/// One transfer in this many tries another way.
const EXPLORE_EVERY: u64 = 64;
/// The moving average keeps 15/16 of its past.
const AVERAGE_SHIFT: u32 = 4;

/// What the ways cost for bodies of one size class. Races between updates lose a sample, which does no harm.
#[derive(Debug, Default)]
struct SizeClass {
    choices: AtomicU64,
    cost_ns: [AtomicU64; 3],
}

const PATHS: [ReadPath; 3] = [ReadPath::Pread, ReadPath::Mapped, ReadPath::Sendfile];

impl SizeClass {
    fn choose(&self, opening: ReadPath, allowed: [bool; 3]) -> ReadPath {
        let turn = self.choices.fetch_add(1, Ordering::Relaxed);
        if turn < WARM_UP {
            return opening;
        }
        let candidates = || PATHS.into_iter().filter(|path| allowed[*path as usize]);
        if turn.is_multiple_of(EXPLORE_EVERY) {
            let ways = candidates().count().max(1) as u64;
            let pick = usize::try_from((turn / EXPLORE_EVERY) % ways).unwrap_or(0);
            return candidates().nth(pick).unwrap_or(opening);
        }
        candidates()
            .filter_map(|path| {
                let cost = self.cost_ns[path as usize].load(Ordering::Relaxed);
                (cost > 0).then_some((cost, path))
            })
            .min_by_key(|(cost, _)| *cost)
            .map_or(opening, |(_, path)| path)
    }

    fn observe(&self, path: ReadPath, cost_ns: u64) {
        let average = &self.cost_ns[path as usize];
        let old = average.load(Ordering::Relaxed);
        let sample = cost_ns.max(1);
        // A scheduling gap is not a cost of the path: one sample may at most double the average.
        let new = if old == 0 {
            sample
        } else {
            old - (old >> AVERAGE_SHIFT) + (sample.min(old.saturating_mul(16)) >> AVERAGE_SHIFT)
        };
        average.store(new.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(adaptive: bool, sendfile_safe: bool) -> ZeroCopyManager {
        ZeroCopyManager::new(
            ZeroCopyConfig { adaptive, ..ZeroCopyConfig::default() },
            true,
            sendfile_safe,
        )
    }

    #[test]
    fn the_threshold_rules_when_not_adaptive_and_moves_at_run_time() {
        let m = manager(false, true);
        assert_eq!(m.choose(65_535), ReadPath::Pread);
        assert_eq!(m.choose(65_536), ReadPath::Sendfile);
        m.set_config(ZeroCopyConfig {
            mmap_threshold: 1024,
            enable_sendfile: false,
            adaptive: false,
        });
        assert_eq!(m.choose(1023), ReadPath::Pread);
        assert_eq!(m.choose(1024), ReadPath::Mapped);
    }

    #[test]
    fn an_unsafe_sendfile_is_never_chosen_and_no_mapping_means_pread() {
        let m = manager(true, false);
        for turn in 0..10_000 {
            m.observe(ReadPath::Sendfile, 1 << 20, 1);
            assert_ne!(m.choose(1 << 20), ReadPath::Sendfile, "turn {turn}");
        }
        let unmapped = ZeroCopyManager::new(ZeroCopyConfig::default(), false, true);
        assert_eq!(unmapped.choose(1 << 30), ReadPath::Pread);
    }

    #[test]
    fn adaptive_finds_the_cheapest_way_and_follows_a_change() {
        let m = manager(true, true);
        let run = |cost: fn(ReadPath) -> u64| {
            let mut last = [0u32; 3];
            for turn in 0..40_000 {
                let path = m.choose(100_000);
                m.observe(path, 100_000, cost(path));
                if turn >= 30_000 {
                    last[path as usize] += 1;
                }
            }
            last
        };
        let mapped_cheap = run(|path| if path == ReadPath::Mapped { 10_000 } else { 20_000 });
        assert!(mapped_cheap[ReadPath::Mapped as usize] > 9_000, "{mapped_cheap:?}");
        assert_eq!(mapped_cheap[ReadPath::Pread as usize], 0, "no copy at or above the threshold");
        let sendfile_cheap = run(|path| if path == ReadPath::Sendfile { 5_000 } else { 20_000 });
        assert!(sendfile_cheap[ReadPath::Sendfile as usize] > 9_000, "{sendfile_cheap:?}");
    }

    #[test]
    fn counters_add_up() {
        let m = manager(true, true);
        m.record(ReadPath::Pread, 10);
        m.record(ReadPath::Mapped, 20);
        m.record(ReadPath::Sendfile, 30);
        let stats = m.stats();
        assert_eq!(stats.bytes_served, 60);
        assert_eq!((stats.mmap_reads, stats.mmap_bytes, stats.writev_transfers), (1, 20, 1));
    }
}
