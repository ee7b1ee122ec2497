//! Counters of the cache and of its zero-copy paths.
use std::sync::atomic::{AtomicU64, Ordering};

/// What the cache holds and has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Objects in the index (an expired or evicted one may be counted until it is met).
    pub objects: u64,
    /// Bytes of live extents, headers included.
    pub bytes: u64,
    /// Bytes that the data area holds.
    pub capacity: u64,
    /// Lookups that found a live object.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Objects stored.
    pub stores: u64,
    /// Objects removed on request.
    pub removes: u64,
    /// Objects removed by purges.
    pub purged: u64,
    /// Objects dropped to make room.
    pub evictions: u64,
    /// Objects whose lifetime had ended when they were met.
    pub expired: u64,
    /// Objects copied forward because they were in use when their region was reclaimed.
    pub reinsertions: u64,
    /// Objects dropped because their bytes did not match their checksum.
    pub checksum_failures: u64,
    /// Reads or writes that the system refused.
    pub io_errors: u64,
    /// Stores that found no space.
    pub no_space: u64,
    /// Index checkpoints written.
    pub checkpoints: u64,
    /// Times that journaled changes were flushed to the medium.
    pub journal_flushes: u64,
    /// Bytes verified by the background scrubber.
    pub scrubbed_bytes: u64,
}

/// How bytes left the cache, and how many were copied on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZeroCopyStats {
    /// Reads answered by a slice of the mapping.
    pub mmap_reads: u64,
    /// Bytes of those reads.
    pub mmap_bytes: u64,
    /// Transfers by `sendfile`.
    pub sendfile_transfers: u64,
    /// Bytes of those transfers.
    pub sendfile_bytes: u64,
    /// Reads that did not use the mapping because the object is below the threshold.
    pub mmap_skipped: u64,
    /// Transfers by `writev` out of the mapping.
    pub writev_transfers: u64,
    /// Bytes of those transfers.
    pub writev_bytes: u64,
    /// Reads by `pread` into a pooled buffer.
    pub pread_reads: u64,
    /// Bytes of those reads.
    pub pread_bytes: u64,
    /// Bytes copied in user space on their way to a reader.
    pub bytes_copied: u64,
    /// Bytes handed to readers by any path.
    pub bytes_served: u64,
    /// Windows that had to be read from the device before they were served.
    pub cold_reads: u64,
    /// Extents pinned at this moment.
    pub pins_held: u64,
}

/// The raw counters behind [`CacheStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) stores: Counter,
    pub(crate) removes: Counter,
    pub(crate) purged: Counter,
    pub(crate) evictions: Counter,
    pub(crate) expired: Counter,
    pub(crate) reinsertions: Counter,
    pub(crate) checksum_failures: Counter,
    pub(crate) io_errors: Counter,
    pub(crate) no_space: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) journal_flushes: Counter,
    pub(crate) scrubbed_bytes: Counter,
}

impl Counters {
    /// The counters as statistics; what is measured elsewhere is left at zero.
    pub(crate) fn snapshot(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.read(),
            misses: self.misses.read(),
            stores: self.stores.read(),
            removes: self.removes.read(),
            purged: self.purged.read(),
            evictions: self.evictions.read(),
            expired: self.expired.read(),
            reinsertions: self.reinsertions.read(),
            checksum_failures: self.checksum_failures.read(),
            io_errors: self.io_errors.read(),
            no_space: self.no_space.read(),
            checkpoints: self.checkpoints.read(),
            journal_flushes: self.journal_flushes.read(),
            scrubbed_bytes: self.scrubbed_bytes.read(),
            ..CacheStats::default()
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
