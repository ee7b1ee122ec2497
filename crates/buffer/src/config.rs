//! Settings of a pool.
use std::time::Duration;

/// What to do when a buffer is wanted, none is idle, and another would exceed [`PoolConfig::max_bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exhaustion {
    /// Allocate all the same; the high-water mark tells.
    #[default]
    Allocate,
    /// Fail with [`crate::BufferError::Exhausted`].
    Fail,
    /// Block the thread until a buffer comes back, for so long at the most; then fail. Not for async tasks.
    Wait(Duration),
}

/// Settings of a [`crate::BufferPool`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Name in statistics.
    pub name: &'static str,
    /// Sizes of the buffers that are kept, in bytes.
    pub classes: Vec<usize>,
    /// Alignment of every buffer, a power of two: 4096 for O_DIRECT, 64 for packets.
    pub align: usize,
    /// Bytes that may lie idle, in the shared store and in the caches of all threads together: what comes back beyond
    /// that is freed. Never exceeded.
    pub max_bytes_held: usize,
    /// Bytes that may exist at once, in use and idle. Exceeded by [`Exhaustion::Allocate`] only.
    pub max_bytes: usize,
    /// What happens beyond that.
    pub exhaustion: Exhaustion,
    /// Buffers of each class that a thread keeps for itself (fewer of large ones: 256 KiB a class, at least two; none of
    /// those above 256 KiB). A thread gets its cache as long as the caches of all fit into half of `max_bytes_held`. Pools that may refuse have none: what is idle has
    /// to be there for every thread.
    pub thread_cache: usize,
    /// Overwrite every buffer with zeros when it comes back. For secrets; costs a pass over the memory.
    pub wipe: bool,
}

impl PoolConfig {
    /// 4, 16 and 64 KiB, aligned for O_DIRECT.
    pub fn tiered() -> Self {
        Self {
            name: "buffers",
            classes: vec![4 << 10, 16 << 10, 64 << 10],
            align: 4096,
            max_bytes_held: 16 << 20,
            max_bytes: 256 << 20,
            exhaustion: Exhaustion::Allocate,
            thread_cache: 32,
            wipe: false,
        }
    }

    /// 256, 512, 1500, 2048 and 9216 bytes and 64 KiB: what packets come in.
    pub fn packets() -> Self {
        Self {
            name: "packets",
            classes: vec![256, 512, 1500, 2048, 9216, 64 << 10],
            align: 64,
            ..Self::tiered()
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self::tiered()
    }
}
