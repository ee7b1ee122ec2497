//! What a pool has done.
use crate::sync::{AtomicU64, Ordering};

/// Counters of a pool, since it was made. Read while others work, they are only nearly of one moment: a
/// buffer on its way between a thread's cache and the store may be seen in both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Buffers handed out that were there already.
    pub hits: u64,
    /// Buffers handed out that had to be allocated.
    pub misses: u64,
    /// Buffers that came back and were kept.
    pub returns: u64,
    /// Buffers that came back and were freed: enough is held, or they are larger than the largest class.
    pub drops: u64,
    /// Allocations made.
    pub allocations: u64,
    /// Buffers larger than the largest class; never kept.
    pub oversize: u64,
    /// Buffers handed out and not yet back.
    pub outstanding: u64,
    /// Bytes held idle.
    pub bytes_held: u64,
    /// The most bytes that existed at once, in use and idle.
    pub high_water_bytes: u64,
}

impl PoolStats {
    /// Of a pool that has done nothing.
    pub(crate) const ZERO: Self = Self {
        hits: 0,
        misses: 0,
        returns: 0,
        drops: 0,
        allocations: 0,
        oversize: 0,
        outstanding: 0,
        bytes_held: 0,
        high_water_bytes: 0,
    };

    /// The share of buffers that were there already: 0 to 1, and 1 before the first.
    pub fn hit_rate(&self) -> f64 {
        let total = self.hits + self.misses;
        if total == 0 { 1.0 } else { self.hits as f64 / total as f64 }
    }
}

/// Counts that all threads write: of what bypasses the caches, and of threads that have ended.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) returns: AtomicU64,
    pub(crate) drops: AtomicU64,
    pub(crate) oversize: AtomicU64,
}

/// Counts of one class in one thread's cache, which only that thread writes. What lies in the cache follows from them, so
/// that taking a block and putting it back count one number each.
#[derive(Debug, Default)]
pub(crate) struct ClassCounts {
    /// Bytes of memory behind each block of the class.
    bytes: u64,
    pub(crate) hits: AtomicU64,
    /// Blocks that came back, kept in the end or not.
    pub(crate) returns: AtomicU64,
    /// Blocks that came from the shared store, and that went there.
    pub(crate) filled: AtomicU64,
    pub(crate) spilled: AtomicU64,
    /// Of those that went there, how many it did not keep.
    pub(crate) unkept: AtomicU64,
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counts {
    pub(crate) fn add_to(&self, stats: &mut PoolStats) {
        stats.hits += read(&self.hits);
        stats.misses += read(&self.misses);
        stats.returns += read(&self.returns);
        stats.drops += read(&self.drops);
        stats.oversize += read(&self.oversize);
    }

    /// Takes over the counts of a thread that has ended.
    pub(crate) fn absorb(&self, ended: &ClassCounts) {
        let unkept = read(&ended.unkept);
        add(&self.hits, read(&ended.hits));
        add(&self.returns, read(&ended.returns).saturating_sub(unkept));
        add(&self.drops, unkept);
    }
}

impl ClassCounts {
    /// Nothing yet, of blocks of that many bytes.
    pub(crate) fn of_blocks(bytes: usize) -> Self {
        Self { bytes: bytes as u64, ..Self::default() }
    }

    pub(crate) fn add_to(&self, stats: &mut PoolStats) {
        let (hits, returns, unkept) = (read(&self.hits), read(&self.returns), read(&self.unkept));
        stats.hits += hits;
        stats.returns += returns.saturating_sub(unkept);
        stats.drops += unkept;
        let idle = (read(&self.filled) + returns).saturating_sub(hits + read(&self.spilled));
        stats.bytes_held += idle * self.bytes;
    }
}

/// Adds to a counter that only this thread writes: no locked instruction.
pub(crate) fn add_own(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// Adds to a counter that any thread may write.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
