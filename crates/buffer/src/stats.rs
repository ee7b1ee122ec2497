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
    /// The share of buffers that were there already: 0 to 1, and 1 before the first.
    pub fn hit_rate(&self) -> f64 {
        let total = self.hits + self.misses;
        if total == 0 { 1.0 } else { self.hits as f64 / total as f64 }
    }
}

/// Counts of one thread, or of all that have no cache of their own.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) returns: AtomicU64,
    pub(crate) drops: AtomicU64,
    pub(crate) oversize: AtomicU64,
    /// Bytes idle in the thread's cache.
    pub(crate) held: AtomicU64,
}

impl Counts {
    pub(crate) fn add_to(&self, stats: &mut PoolStats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.hits += read(&self.hits);
        stats.misses += read(&self.misses);
        stats.returns += read(&self.returns);
        stats.drops += read(&self.drops);
        stats.oversize += read(&self.oversize);
        stats.bytes_held += read(&self.held);
    }

    /// Takes over the counts of a thread that has ended.
    pub(crate) fn absorb(&self, ended: &Self) {
        for (mine, theirs) in [
            (&self.hits, &ended.hits),
            (&self.misses, &ended.misses),
            (&self.returns, &ended.returns),
            (&self.drops, &ended.drops),
            (&self.oversize, &ended.oversize),
        ] {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
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
