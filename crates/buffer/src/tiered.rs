//! The preset for large buffers: three tiers, aligned for O_DIRECT.
use std::ops::Deref;

use crate::config::PoolConfig;
use crate::error::BufferError;
use crate::pool::BufferPool;
use crate::pooled::PooledBuffer;

/// The tiers of a [`LargeBufferPool`], by their usual sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BufferTier {
    /// 4 KiB.
    Small,
    /// 16 KiB.
    Medium,
    /// 64 KiB.
    Large,
}

impl BufferTier {
    /// All tiers, smallest first.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// Bytes in a buffer of this tier, unless the pool was given other sizes.
    pub const fn size(self) -> usize {
        match self {
            Self::Small => 4 * 1024,
            Self::Medium => 16 * 1024,
            Self::Large => 64 * 1024,
        }
    }

    /// The smallest tier that holds `len` bytes; a length equal to a tier's size fits it. `None` above 64 KiB.
    ///
    /// ```
    /// # use straightway_buffer::BufferTier;
    /// assert_eq!(BufferTier::for_size(4096), Some(BufferTier::Small));
    /// assert_eq!(BufferTier::for_size(4097), Some(BufferTier::Medium));
    /// assert_eq!(BufferTier::for_size(65_537), None);
    /// ```
    pub fn for_size(len: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| len <= tier.size())
    }
}

/// A [`BufferPool`] of three tiers of 4 KiB-aligned buffers: 4, 16 and 64 KiB, or other sizes.
///
/// ```
/// use straightway_buffer::{BufferTier, LargeBufferPool, PoolConfig};
///
/// let pool = LargeBufferPool::new(PoolConfig::default());
/// assert_eq!(pool.acquire(10_000)?.capacity(), 16 * 1024);
/// assert_eq!(pool.acquire_tier(BufferTier::Large)?.capacity(), 64 * 1024);
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct LargeBufferPool {
    pool: BufferPool,
    tiers: [usize; 3],
}

impl LargeBufferPool {
    /// An empty pool with the usual tiers; `classes` and `align` of the configuration are set to them.
    pub fn new(config: PoolConfig) -> Self {
        Self::with_tiers(config, BufferTier::ALL.map(BufferTier::size))
    }

    /// An empty pool with tiers of other sizes, each rounded up to 4 KiB.
    pub fn with_tiers(mut config: PoolConfig, tiers: [usize; 3]) -> Self {
        let tiers = tiers.map(|size| size.clamp(1, usize::MAX / 2).next_multiple_of(4096));
        config.classes = tiers.to_vec();
        config.align = 4096;
        match BufferPool::new(config) {
            Ok(pool) => Self { pool, tiers },
            Err(error) => unreachable!("tiers of at least 4 KiB and a power of two: {error}"),
        }
    }

    /// A buffer of a tier; see [`BufferPool::acquire`].
    ///
    /// # Errors
    /// As there.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn acquire_tier(&self, tier: BufferTier) -> Result<PooledBuffer, BufferError> {
        self.pool.acquire(self.tiers[tier as usize])
    }
}

impl Deref for LargeBufferPool {
    type Target = BufferPool;

    fn deref(&self) -> &BufferPool {
        &self.pool
    }
}
