//! The pool: free slabs by class, under one short lock each, with a hard bound on what is held idle.
//!
//! Why a lock and no per-thread cache: an uncontended lock and a push or pop cost about what `malloc` costs, and the
//! buffers here are large, so that each is followed by thousands of times that work. What matters is that nothing is
//! zeroed or faulted in again.
use crate::class::BufferTier;
use crate::error::BufferError;
use crate::pooled::PooledBuffer;
use crate::raw::slab::{ALIGN, Slab};
use crate::stats::PoolStats;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, with};

/// What to do when the limit on memory in use is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exhaustion {
    /// Allocate all the same, and count it.
    #[default]
    Allocate,
    /// Fail with [`BufferError::Exhausted`].
    Fail,
}

/// Settings of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Name in statistics.
    pub name: &'static str,
    /// Bytes that may be held idle (default 16 MiB): what comes back beyond that is freed.
    pub max_bytes_held: usize,
    /// Bytes that may be in use at once (default 256 MiB).
    pub max_bytes_in_use: usize,
    /// What happens beyond that (default: allocate).
    pub exhaustion: Exhaustion,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            name: "buffers",
            max_bytes_held: 16 << 20,
            max_bytes_in_use: 256 << 20,
            exhaustion: Exhaustion::Allocate,
        }
    }
}

/// A pool of 4 KiB-aligned buffers of 4, 16 and 64 KiB. Clones share it; buffers may outlive it.
#[derive(Debug, Clone)]
pub struct LargeBufferPool(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    config: PoolConfig,
    tiers: [Mutex<Vec<Slab>>; 3],
    held: AtomicU64,
    in_use: AtomicU64,
    high_water: AtomicU64,
    outstanding: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    returns: AtomicU64,
    drops: AtomicU64,
    oversize: AtomicU64,
}

impl LargeBufferPool {
    /// An empty pool.
    pub fn new(config: PoolConfig) -> Self {
        let counter = || AtomicU64::new(0);
        Self(Arc::new(Shared {
            config,
            tiers: [Mutex::new(Vec::new()), Mutex::new(Vec::new()), Mutex::new(Vec::new())],
            held: counter(),
            in_use: counter(),
            high_water: counter(),
            outstanding: counter(),
            hits: counter(),
            misses: counter(),
            returns: counter(),
            drops: counter(),
            oversize: counter(),
        }))
    }

    /// A buffer with room for `len` bytes, of the smallest tier that has it; above 64 KiB one of its own, rounded up
    /// to 4 KiB, which is freed and not kept. It is empty (its length is 0) and its bytes are whatever they were.
    ///
    /// # Errors
    /// [`BufferError::Exhausted`] by policy, [`BufferError::OutOfMemory`].
    pub fn acquire(&self, len: usize) -> Result<PooledBuffer, BufferError> {
        match BufferTier::for_size(len) {
            Some(tier) => self.acquire_tier(tier),
            None => self.acquire_oversize(len),
        }
    }

    /// A buffer of a tier; see [`Self::acquire`].
    pub fn acquire_tier(&self, tier: BufferTier) -> Result<PooledBuffer, BufferError> {
        self.0.admit(tier.size())?;
        let kept = with(&self.0.tiers[tier as usize], Vec::pop);
        let slab = if let Some(slab) = kept {
            self.0.held.fetch_sub(tier.size() as u64, Ordering::Relaxed);
            self.0.hits.fetch_add(1, Ordering::Relaxed);
            slab
        } else {
            self.0.misses.fetch_add(1, Ordering::Relaxed);
            self.0.allocate(tier.size())?
        };
        Ok(PooledBuffer::new(slab, self.0.clone()))
    }

    fn acquire_oversize(&self, len: usize) -> Result<PooledBuffer, BufferError> {
        let len = len.checked_next_multiple_of(ALIGN).ok_or(BufferError::OutOfMemory { len })?;
        self.0.admit(len)?;
        self.0.oversize.fetch_add(1, Ordering::Relaxed);
        self.0.allocate(len).map(|slab| PooledBuffer::new(slab, self.0.clone()))
    }

    /// What the pool has done.
    pub fn stats(&self) -> PoolStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.0;
        let (misses, oversize) = (read(&shared.misses), read(&shared.oversize));
        PoolStats {
            hits: read(&shared.hits),
            misses,
            returns: read(&shared.returns),
            drops: read(&shared.drops),
            allocations: misses + oversize,
            oversize,
            outstanding: read(&shared.outstanding),
            bytes_held: read(&shared.held),
            high_water_bytes: read(&shared.high_water),
        }
    }

    /// Frees what is held idle; answers with the number of bytes.
    pub fn trim(&self) -> usize {
        let freed = BufferTier::ALL.map(|tier| {
            let slabs = with(&self.0.tiers[tier as usize], std::mem::take);
            slabs.len() * tier.size()
        });
        let freed = freed.iter().sum();
        self.0.held.fetch_sub(freed as u64, Ordering::Relaxed);
        freed
    }

    /// Its name in statistics.
    pub fn name(&self) -> &'static str {
        self.0.config.name
    }
}

impl Shared {
    /// Takes note of a buffer that is about to be handed out.
    fn admit(&self, len: usize) -> Result<(), BufferError> {
        let len = len as u64;
        let in_use = self.in_use.fetch_add(len, Ordering::Relaxed) + len;
        let limit = self.config.max_bytes_in_use;
        if self.config.exhaustion == Exhaustion::Fail && in_use > limit as u64 {
            self.in_use.fetch_sub(len, Ordering::Relaxed);
            return Err(BufferError::Exhausted {
                outstanding: usize::try_from(in_use - len).unwrap_or(usize::MAX),
                limit,
            });
        }
        self.high_water.fetch_max(in_use, Ordering::Relaxed);
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn allocate(&self, len: usize) -> Result<Slab, BufferError> {
        Slab::zeroed(len).ok_or_else(|| {
            self.in_use.fetch_sub(len as u64, Ordering::Relaxed);
            self.outstanding.fetch_sub(1, Ordering::Relaxed);
            BufferError::OutOfMemory { len }
        })
    }

    /// A buffer is back: keeps it if it has a tier and there is room, frees it otherwise.
    pub(crate) fn take_back(&self, slab: Slab) {
        let len = slab.len();
        self.in_use.fetch_sub(len as u64, Ordering::Relaxed);
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        let tier = BufferTier::for_size(len).filter(|tier| tier.size() == len);
        let Some(tier) = tier else { return };
        // Counted before it is kept, so that the bound holds at every moment.
        let held = self.held.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        if held > self.config.max_bytes_held as u64 {
            self.held.fetch_sub(len as u64, Ordering::Relaxed);
            self.drops.fetch_add(1, Ordering::Relaxed);
            return;
        }
        with(&self.tiers[tier as usize], |slabs| slabs.push(slab));
        self.returns.fetch_add(1, Ordering::Relaxed);
    }
}
