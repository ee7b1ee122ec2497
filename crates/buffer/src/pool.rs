//! The pool: a bounded store of idle blocks by class that all threads share, with a small cache per thread before it.
//!
//! A thread takes from and gives back to its own cache without a lock or an atomic read-modify-write; caches fill up
//! from and spill into the shared store by halves, so that a buffer may come back on any thread and an imbalance
//! (one thread takes, another gives back) costs one lock for many buffers. What exists is counted where memory is
//! allocated and freed, what lies idle where it changes hands: both bounds hold at every moment, for the memory of the
//! buffers (beside each lies a record of 64 bytes, and what the allocator puts before both).
use crate::class::Classes;
use crate::config::{Exhaustion, PoolConfig};
use crate::error::BufferError;
use crate::pooled::PooledBuffer;
use crate::raw::block::{IdleBlock, NO_CLASS};
use crate::stats::{ClassCounts, Counts, PoolStats, add};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, with};
use crate::watch::Watch;

/// A pool of buffers in size classes. Clones share it; buffers may outlive it. When the last clone is dropped, what lies idle
/// in another thread's cache is freed when that thread ends, gives a buffer of this pool back, or first uses a further pool.
///
/// ```
/// use straightway_buffer::{BufferPool, PoolConfig, Reason};
///
/// let pool = BufferPool::new(PoolConfig::packets())?;
/// let mut buffer = pool.acquire(1400)?;
/// buffer.fill_from(b"straight", Reason::Ingest);
/// let packet = buffer.share();
/// let payload = packet.slice(3..8);
/// drop(packet);
/// assert_eq!(&payload[..], b"aight");
/// drop(payload);
/// assert_eq!(pool.stats().returns, 1);
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct BufferPool(Arc<Handle>);

/// Bytes of one class that a thread may keep.
const CACHED_CLASS_BYTES: usize = 256 << 10;

/// What the clones of a pool share: the pool closes when the last is dropped, though buffers may still be out.
#[derive(Debug)]
struct Handle(Arc<Shared>);

/// What the pool, its buffers and the threads' caches share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: PoolConfig,
    pub(crate) classes: Classes,
    idle: Box<[Mutex<Vec<IdleBlock>>]>,
    /// Bytes in `idle`.
    held: AtomicU64,
    /// Bytes that threads' caches may hold: taken off what `idle` may.
    leased: AtomicU64,
    /// What a thread's cache may hold; 0: there are none.
    cache_bytes: u64,
    existing: AtomicU64,
    /// Bytes ever allocated.
    allocated: AtomicU64,
    high_water: AtomicU64,
    /// Counts of threads without a cache, and of those that have ended.
    pub(crate) common: Counts,
    /// Blocks that exist.
    blocks: AtomicU64,
    /// Of each class in each thread's cache.
    pub(crate) threads: Mutex<Vec<Arc<ClassCounts>>>,
    closed: AtomicBool,
    /// What comes back needs more than a place: it has to be wiped, or the pool is closed.
    careful: AtomicBool,
    waiting: Waiting,
    pub(crate) watch: Watch,
}

impl BufferPool {
    /// An empty pool.
    ///
    /// # Errors
    /// [`BufferError::NoClasses`], [`BufferError::BadAlignment`].
    pub fn new(config: PoolConfig) -> Result<Self, BufferError> {
        let classes = Classes::new(config.classes.clone(), config.align)?;
        let counter = || AtomicU64::new(0);
        let mut shared = Shared {
            careful: AtomicBool::new(config.wipe),
            config,
            cache_bytes: 0,
            allocated: counter(),
            idle: classes.sizes().iter().map(|_| Mutex::new(Vec::new())).collect(),
            classes,
            held: counter(),
            leased: counter(),
            existing: counter(),
            blocks: counter(),
            high_water: counter(),
            common: Counts::default(),
            threads: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
            waiting: Waiting::default(),
            watch: Watch::default(),
        };
        if shared.config.exhaustion == Exhaustion::Allocate && shared.config.thread_cache > 0 {
            let half = shared.config.max_bytes_held / 2;
            let all = shared.classes.sizes().iter().try_fold(0_usize, |sum, size| {
                let room = shared.cache_room(*size);
                sum.checked_add(shared.classes.bytes_for(*size)?.checked_mul(room)?)
            });
            shared.cache_bytes = all.filter(|all| *all <= half).map_or(0, |all| all as u64);
        }
        Ok(Self(Arc::new(Handle(Arc::new(shared)))))
    }

    /// A buffer with room for `len` bytes, of the smallest class that has it; above the largest class one of its own,
    /// which is served, counted and not kept. It is empty (its length is 0), and its bytes are whatever they were.
    ///
    /// # Errors
    /// [`BufferError::Exhausted`] by policy, [`BufferError::OutOfMemory`].
    #[cfg_attr(debug_assertions, track_caller)]
    #[inline]
    pub fn acquire(&self, len: usize) -> Result<PooledBuffer, BufferError> {
        let shared = &self.0.0;
        let block = match local::take(shared, len) {
            Some(block) => block,
            None => Shared::find(shared, len)?,
        };
        shared.watch.lent(&block);
        Ok(PooledBuffer::new(block.lend()))
    }

    /// What the pool has done.
    pub fn stats(&self) -> PoolStats {
        let shared = &self.0.0;
        let mut stats = PoolStats {
            bytes_held: shared.held.load(Ordering::Relaxed),
            high_water_bytes: shared.high_water.load(Ordering::Relaxed),
            ..PoolStats::default()
        };
        with(&shared.threads, |threads| {
            shared.common.add_to(&mut stats);
            for counts in threads.iter() {
                counts.add_to(&mut stats);
            }
        });
        stats.allocations = stats.misses + stats.oversize;
        stats.outstanding =
            (stats.hits + stats.allocations).saturating_sub(stats.returns + stats.drops);
        stats
    }

    /// Frees what lies idle in the shared store and in this thread's cache; answers with the number of bytes.
    pub fn trim(&self) -> usize {
        local::flush(&self.0.0);
        self.0.0.drain()
    }

    /// Bytes ever allocated, and of those the bytes freed since.
    pub(crate) fn lifetime_bytes(&self) -> (u64, u64) {
        let allocated = self.0.0.allocated.load(Ordering::Relaxed);
        (allocated, allocated.saturating_sub(self.0.0.existing.load(Ordering::Relaxed)))
    }

    /// Blocks that exist, in use and idle.
    pub(crate) fn blocks(&self) -> u64 {
        self.0.0.blocks.load(Ordering::Relaxed)
    }

    /// Its name in statistics.
    pub fn name(&self) -> &'static str {
        self.0.0.config.name
    }

    /// Where the buffers that are out were taken, in debug builds; in release builds only how many there are.
    ///
    /// ```
    /// # use straightway_buffer::{BufferPool, PoolConfig};
    /// let pool = BufferPool::new(PoolConfig::packets())?;
    /// let forgotten = pool.acquire(100)?;
    /// assert_eq!(pool.leak_report().outstanding, 1);
    /// println!("{}", pool.leak_report());
    /// # Ok::<(), straightway_buffer::BufferError>(())
    /// ```
    pub fn leak_report(&self) -> crate::watch::LeakReport {
        self.0.0.watch.report(self.name(), self.stats().outstanding)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.careful.store(true, Ordering::SeqCst);
        local::flush(&self.0);
        self.0.drain();
    }
}

/// A block comes back: to the thread's cache, to the shared store, or to the system. Nearly all go the first way, so all
/// that the others need is in one call at the end.
pub(crate) fn give_back(block: IdleBlock) {
    if let Some(pool) = block.pool() {
        pool.watch.back(&block);
    }
    if let Err(block) = local::put(block) {
        give_back_further(block);
    }
}

#[cold]
fn give_back_further(mut block: IdleBlock) {
    // The block may be freed, and its way to the pool with it, before this is done with the pool.
    let Some(pool) = block.pool().cloned() else { return };
    if pool.config.wipe {
        block.wipe();
    }
    if let Err(block) = local::put_with_care(&pool, block) {
        pool.take_back(block);
    }
}

impl Shared {
    /// A block that is not in this thread's cache: out of the shared store, or a new one.
    #[cold]
    fn find(this: &Arc<Self>, len: usize) -> Result<IdleBlock, BufferError> {
        let Some(class) = this.classes.for_len(len) else {
            return Self::create(this, len, NO_CLASS);
        };
        let idle = if let Ok(block) = local::refill(this, class) {
            block
        } else {
            this.take_shared(class)
        };
        match idle {
            Some(block) => Ok(block),
            None => Self::create(this, this.classes.size(class), class),
        }
    }

    /// An idle block of a class out of the shared store.
    pub(crate) fn take_shared(&self, class: usize) -> Option<IdleBlock> {
        let block = with(self.idle.get(class)?, Vec::pop)?;
        self.held.fetch_sub(block.bytes() as u64, Ordering::SeqCst);
        add(&self.common.hits, 1);
        Some(block)
    }

    /// Moves up to `n` idle blocks of a class over; gives their number.
    pub(crate) fn take_many(&self, class: usize, n: usize, into: &mut Vec<IdleBlock>) -> usize {
        let Some(idle) = self.idle.get(class) else { return 0 };
        let (taken, bytes) = with(idle, |idle| {
            let from = idle.len().saturating_sub(n);
            let bytes: u64 = idle[from..].iter().map(|block| block.bytes() as u64).sum();
            let taken = idle.len() - from;
            into.extend(idle.drain(from..));
            (taken, bytes)
        });
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        taken
    }

    /// A new block, if the limit or the policy allows it.
    fn create(this: &Arc<Self>, capacity: usize, class: usize) -> Result<IdleBlock, BufferError> {
        let no_memory = BufferError::OutOfMemory { len: capacity };
        let bytes = this.classes.bytes_for(capacity).ok_or(no_memory)?;
        if isize::try_from(bytes).is_err() {
            return Err(no_memory);
        }
        let (admitted, drained) = this.admit(bytes as u64);
        if drained {
            // Others may want what was freed and is not needed here.
            this.waiting.wake();
        }
        if !admitted {
            match this.config.exhaustion {
                Exhaustion::Allocate => this.exist(bytes as u64),
                Exhaustion::Fail => return Err(this.exhausted()),
                // More than there may ever be: nothing to wait for.
                Exhaustion::Wait(_) if bytes > this.config.max_bytes => {
                    return Err(this.exhausted());
                }
                Exhaustion::Wait(at_most) => {
                    if let Some(block) = this.wait_for(class, bytes as u64, at_most)? {
                        return Ok(block);
                    }
                }
            }
        }
        let align = this.classes.align();
        // A buffer of its own may use all that was rounded up.
        let usable = if class == NO_CLASS { bytes } else { capacity };
        let Some(block) = IdleBlock::allocate(bytes, align, usable, class, this.clone()) else {
            this.existing.fetch_sub(bytes as u64, Ordering::SeqCst);
            this.waiting.wake();
            return Err(no_memory);
        };
        this.blocks.fetch_add(1, Ordering::Relaxed);
        this.high_water.fetch_max(this.existing.load(Ordering::SeqCst), Ordering::Relaxed);
        let own = class == NO_CLASS;
        add(if own { &this.common.oversize } else { &this.common.misses }, 1);
        add(&this.allocated, bytes as u64);
        Ok(block)
    }

    /// Takes note of bytes that are about to exist, if the limit allows them; frees what is idle in other classes
    /// first if it does not. Answers with whether it does, and whether anything was freed.
    fn admit(&self, bytes: u64) -> (bool, bool) {
        let limit = self.config.max_bytes as u64;
        let fits = || {
            let fit = |existing: u64| existing.checked_add(bytes).filter(|sum| *sum <= limit);
            self.existing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fit)
        };
        if bytes > limit {
            return (false, false);
        }
        if fits().is_ok() {
            return (true, false);
        }
        let freed = self.drain();
        (fits().is_ok(), freed > 0)
    }

    fn exist(&self, bytes: u64) {
        self.existing.fetch_add(bytes, Ordering::SeqCst);
    }

    fn exhausted(&self) -> BufferError {
        let existing = self.existing.load(Ordering::Relaxed);
        BufferError::Exhausted {
            existing: usize::try_from(existing).unwrap_or(usize::MAX),
            limit: self.config.max_bytes,
        }
    }

    /// Takes a block back into the shared store, or frees it when enough is held.
    fn take_back(&self, block: IdleBlock) {
        if self.keep(block) {
            add(&self.common.returns, 1);
        } else {
            add(&self.common.drops, 1);
        }
        self.waiting.wake();
    }

    /// Keeps a block in the shared store; `false`: it was freed, because it has no class or enough is held.
    pub(crate) fn keep(&self, block: IdleBlock) -> bool {
        let bytes = block.bytes() as u64;
        // Counted before it is kept, so that the bound holds at every moment; and only if it is.
        let limit = self.store_limit();
        let fit = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= limit);
        let kept = self.idle.get(block.class()).is_some()
            && !self.is_closed()
            && self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fit).is_ok();
        if !kept {
            self.free(block);
            return false;
        }
        self.push(block);
        true
    }

    /// As [`Self::keep`], of a block that is counted as held already.
    pub(crate) fn keep_counted(&self, block: IdleBlock) -> bool {
        let over = self.held.load(Ordering::SeqCst) > self.store_limit();
        if over || self.is_closed() || self.idle.get(block.class()).is_none() {
            self.held.fetch_sub(block.bytes() as u64, Ordering::SeqCst);
            self.free(block);
            return false;
        }
        self.push(block);
        true
    }

    /// Counts bytes as held before they are in the store.
    pub(crate) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::SeqCst);
    }

    fn push(&self, block: IdleBlock) {
        let Some(idle) = self.idle.get(block.class()) else { return };
        with(idle, |idle| idle.push(block));
        if self.is_closed() {
            // Closed in between: nobody else would empty the store.
            self.drain();
        }
        // A thread may have been given its cache in between.
        self.shrink();
    }

    /// Bytes that the shared store may hold.
    fn store_limit(&self) -> u64 {
        let leased = self.leased.load(Ordering::SeqCst);
        (self.config.max_bytes_held as u64).saturating_sub(leased)
    }

    /// Gives a block's memory back to the system.
    pub(crate) fn free(&self, block: IdleBlock) {
        let bytes = block.bytes() as u64;
        // Freed first: what is counted out is not there any more.
        drop(block);
        self.blocks.fetch_sub(1, Ordering::Relaxed);
        self.existing.fetch_sub(bytes, Ordering::SeqCst);
    }

    fn drain(&self) -> usize {
        let mut freed = 0;
        for idle in &self.idle {
            for block in with(idle, std::mem::take) {
                freed += block.bytes();
                self.held.fetch_sub(block.bytes() as u64, Ordering::SeqCst);
                self.free(block);
            }
        }
        freed
    }

    pub(crate) fn is_careful(&self) -> bool {
        self.careful.load(Ordering::SeqCst)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Sets bytes aside for a thread's cache; `false`: the caches of others take up half of what may be held.
    pub(crate) fn lease(&self) -> bool {
        let half = self.config.max_bytes_held as u64 / 2;
        let fit = |leased: u64| Some(leased + self.cache_bytes).filter(|sum| *sum <= half);
        let leased = self.leased.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fit).is_ok();
        if leased {
            self.shrink();
        }
        leased
    }

    pub(crate) fn end_lease(&self) {
        self.leased.fetch_sub(self.cache_bytes, Ordering::SeqCst);
    }

    /// Buffers of a class that a thread keeps.
    pub(crate) fn cache_room(&self, size: usize) -> usize {
        if size > CACHED_CLASS_BYTES {
            return 0;
        }
        self.config.thread_cache.min((CACHED_CLASS_BYTES / size.max(1)).max(2))
    }

    /// Whether threads have caches at all.
    pub(crate) fn is_cached(&self) -> bool {
        self.cache_bytes > 0
    }

    /// Frees idle blocks, large ones first, while more lie in the shared store than may.
    fn shrink(&self) {
        for idle in self.idle.iter().rev() {
            while self.held.load(Ordering::SeqCst) > self.store_limit() {
                let Some(block) = with(idle, Vec::pop) else { break };
                self.held.fetch_sub(block.bytes() as u64, Ordering::SeqCst);
                self.free(block);
            }
        }
    }

    #[cfg(not(loom))]
    fn wait_for(
        &self,
        class: usize,
        bytes: u64,
        at_most: std::time::Duration,
    ) -> Result<Option<IdleBlock>, BufferError> {
        let try_take = || {
            let block = self.take_shared(class);
            (block.is_some() || self.admit(bytes).0).then_some(block)
        };
        self.waiting.until(at_most, try_take).ok_or_else(|| self.exhausted())
    }

    #[cfg(loom)]
    fn wait_for(
        &self,
        _class: usize,
        _bytes: u64,
        _at_most: std::time::Duration,
    ) -> Result<Option<IdleBlock>, BufferError> {
        Err(self.exhausted())
    }
}

/// This thread has no cache for the pool.
pub(crate) struct NoCache;

#[cfg(not(loom))]
use crate::local;
/// Under loom there are no caches per thread: what is modelled is the shared store and the blocks.
#[cfg(loom)]
mod local {
    use super::{Arc, IdleBlock, NoCache, Shared};

    pub(super) fn take(_: &Arc<Shared>, _: usize) -> Option<IdleBlock> {
        None
    }

    pub(super) fn refill(_: &Arc<Shared>, _: usize) -> Result<Option<IdleBlock>, NoCache> {
        Err(NoCache)
    }

    pub(super) fn put(block: IdleBlock) -> Result<(), IdleBlock> {
        Err(block)
    }

    pub(super) fn put_with_care(_: &Arc<Shared>, block: IdleBlock) -> Result<(), IdleBlock> {
        Err(block)
    }

    pub(super) fn flush(_: &Arc<Shared>) {}
}

#[cfg(not(loom))]
use crate::waiting::Waiting;
#[cfg(loom)]
#[derive(Debug, Default)]
struct Waiting;
#[cfg(loom)]
impl Waiting {
    fn wake(&self) {}
}
