//! What a pool has done.

/// Counters of a pool, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Buffers handed out that were there already.
    pub hits: u64,
    /// Buffers handed out that had to be allocated.
    pub misses: u64,
    /// Buffers that came back and were kept.
    pub returns: u64,
    /// Buffers that came back and were freed, because enough is held.
    pub drops: u64,
    /// Allocations made.
    pub allocations: u64,
    /// Buffers larger than the largest class; never kept.
    pub oversize: u64,
    /// Buffers handed out and not yet back.
    pub outstanding: u64,
    /// Bytes held idle.
    pub bytes_held: u64,
    /// The most bytes that were in use at once.
    pub high_water_bytes: u64,
}

impl PoolStats {
    /// The share of buffers that were there already: 0 to 1, and 1 before the first.
    pub fn hit_rate(&self) -> f64 {
        let total = self.hits + self.misses;
        if total == 0 { 1.0 } else { self.hits as f64 / total as f64 }
    }
}
