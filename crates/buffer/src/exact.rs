//! The preset for exact sizes.
use crate::config::PoolConfig;
use crate::cursor::ZeroCopyBuffer;
use crate::error::BufferError;
use crate::pool::BufferPool;

/// A pool of [`ZeroCopyBuffer`]s of exactly the size that is asked for.
///
/// Memory is kept in classes of powers of two, not by exact size: buffers of sizes that never come twice would be
/// hoarded and never found. What the caller sees is exact all the same.
#[derive(Debug, Clone)]
pub struct MemoryPool {
    pool: BufferPool,
    classes: usize,
}

/// What a [`MemoryPool`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPoolStats {
    /// Bytes ever allocated.
    pub total_allocated: u64,
    /// Bytes of them that were freed.
    pub total_freed: u64,
    /// Size classes.
    pub pool_count: usize,
    /// Buffers that lie idle.
    pub total_pooled: u64,
}

impl MemoryPool {
    /// An empty pool that keeps buffers of up to `max_buffer` bytes, as far as all that it keeps fits into the 16 MiB of
    /// [`PoolConfig::tiered`]; larger ones are served and freed.
    pub fn new(max_buffer: usize) -> Self {
        let classes: Vec<usize> = std::iter::successors(Some(64usize), |size| {
            size.checked_mul(2).filter(|_| *size < max_buffer)
        })
        .collect();
        let count = classes.len();
        let config = PoolConfig { name: "memory", classes, align: 64, ..PoolConfig::tiered() };
        match BufferPool::new(config) {
            Ok(pool) => Self { pool, classes: count },
            Err(error) => unreachable!("at least one class, and a power of two: {error}"),
        }
    }

    /// An empty buffer that takes exactly `size` bytes.
    ///
    /// # Errors
    /// [`BufferError::OutOfMemory`].
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn allocate(&self, size: usize) -> Result<ZeroCopyBuffer, BufferError> {
        self.pool.acquire(size).map(|buffer| ZeroCopyBuffer::exactly(buffer, size))
    }

    /// Gives a buffer back now; dropping it does the same.
    pub fn deallocate(&self, buffer: ZeroCopyBuffer) {
        drop(buffer);
    }

    /// What the pool has done.
    pub fn get_stats(&self) -> MemoryPoolStats {
        let stats = self.pool.stats();
        let (total_allocated, total_freed) = self.pool.lifetime_bytes();
        let total_pooled = self.pool.blocks().saturating_sub(stats.outstanding);
        MemoryPoolStats { total_allocated, total_freed, pool_count: self.classes, total_pooled }
    }
}
