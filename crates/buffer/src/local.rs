//! The caches per thread: for each pool that the thread uses, a short stack of idle blocks in each class.
//!
//! Last in, first out, so that the buffer that is taken is the one whose lines are still in the processor's cache. A
//! cache fills from and spills to the shared store by halves. When its thread ends, it goes back as a whole.
use std::cell::RefCell;
use std::ptr;

use crate::pool::{NoCache, Shared};
use crate::raw::block::IdleBlock;
use crate::stats::{Counts, add_own};
use crate::sync::{Arc, Ordering, with};

thread_local! {
    static CACHES: RefCell<Vec<Cache>> = const { RefCell::new(Vec::new()) };
}

/// One thread's cache for one pool. It keeps the pool's inside alive.
struct Cache {
    pool: Arc<Shared>,
    counts: Arc<Counts>,
    magazines: Box<[Magazine]>,
}

struct Magazine {
    blocks: Vec<IdleBlock>,
    room: usize,
}

/// An idle block of a class: out of the cache, filled up first if it is empty; `None` in it when all is empty.
pub(crate) fn take(pool: &Arc<Shared>, class: usize) -> Result<Option<IdleBlock>, NoCache> {
    if !pool.is_cached() {
        return Err(NoCache);
    }
    let taken = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().map_err(|_| NoCache)?;
        let at = caches.iter().position(|cache| Arc::ptr_eq(&cache.pool, pool));
        let at = if let Some(at) = at {
            at
        } else {
            caches.retain(|cache| !cache.pool.is_closed());
            caches.push(Cache::new(pool).ok_or(NoCache)?);
            caches.len() - 1
        };
        Ok(caches[at].take(class))
    });
    // The thread is ending and its caches are gone.
    taken.unwrap_or(Err(NoCache))
}

/// Puts a block into this thread's cache for its pool, if there is one.
pub(crate) fn put(pool: *const Shared, block: IdleBlock) -> Result<(), IdleBlock> {
    let mut block = Some(block);
    let put = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().ok()?;
        let at = caches.iter().position(|cache| ptr::eq(Arc::as_ptr(&cache.pool), pool))?;
        if caches[at].pool.is_closed() {
            // Nobody takes from it any more.
            drop(caches.swap_remove(at));
            return None;
        }
        let cache = caches.get_mut(at)?;
        cache.put(&mut block)
    });
    match (put, block) {
        (Ok(Some(())), _) | (_, None) => Ok(()),
        (_, Some(block)) => Err(block),
    }
}

/// Gives up this thread's cache for a pool: what is in it goes to the shared store.
pub(crate) fn flush(pool: &Arc<Shared>) {
    let flushed = CACHES.try_with(|caches| {
        if let Ok(mut caches) = caches.try_borrow_mut() {
            caches.retain(|cache| !Arc::ptr_eq(&cache.pool, pool) && !cache.pool.is_closed());
        }
    });
    // A thread that is ending has flushed already.
    flushed.unwrap_or_default();
}

impl Cache {
    /// `None`: the pool has no bytes left for another thread's cache.
    fn new(pool: &Arc<Shared>) -> Option<Self> {
        if !pool.lease() {
            return None;
        }
        let magazine = |size: &usize| {
            let room = pool.cache_room(*size);
            Magazine { blocks: Vec::with_capacity(room), room }
        };
        let counts = Arc::new(Counts::default());
        with(&pool.threads, |threads| threads.push(counts.clone()));
        let magazines = pool.classes.sizes().iter().map(magazine).collect();
        Some(Self { pool: pool.clone(), counts, magazines })
    }

    fn take(&mut self, class: usize) -> Option<IdleBlock> {
        let magazine = self.magazines.get_mut(class)?;
        if magazine.room == 0 {
            // Too large for a thread to sit on.
            return self.pool.take_shared(class);
        }
        if magazine.blocks.is_empty() {
            let half = magazine.room.div_ceil(2);
            add_own(&self.counts.held, self.pool.take_many(class, half, &mut magazine.blocks));
        }
        let block = magazine.blocks.pop()?;
        add_own(&self.counts.held, (block.bytes() as u64).wrapping_neg());
        add_own(&self.counts.hits, 1);
        Some(block)
    }

    /// Takes the block out of `block` if its class is kept.
    fn put(&mut self, block: &mut Option<IdleBlock>) -> Option<()> {
        let magazine = self.magazines.get_mut(block.as_ref()?.class())?;
        if magazine.room == 0 {
            return None;
        }
        if magazine.blocks.len() >= magazine.room {
            // The older half: what was used last stays.
            for spilled in magazine.blocks.drain(..magazine.room.div_ceil(2)) {
                add_own(&self.counts.held, (spilled.bytes() as u64).wrapping_neg());
                if !self.pool.keep(spilled) {
                    // Counted as kept when it came; it is not.
                    add_own(&self.counts.returns, 1u64.wrapping_neg());
                    add_own(&self.counts.drops, 1);
                }
            }
        }
        let block = block.take()?;
        add_own(&self.counts.held, block.bytes() as u64);
        add_own(&self.counts.returns, 1);
        magazine.blocks.push(block);
        Some(())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let pool = &self.pool;
        // Counted as the store's before the lease ends: at no moment does nobody count them.
        let blocks = || self.magazines.iter().flat_map(|magazine| &magazine.blocks);
        pool.hold(blocks().map(|block| block.bytes() as u64).sum());
        self.counts.held.store(0, Ordering::Relaxed);
        pool.end_lease();
        for block in self.magazines.iter_mut().flat_map(|magazine| magazine.blocks.drain(..)) {
            if !pool.keep_counted(block) {
                // Counted as kept when it came; it is not.
                add_own(&self.counts.returns, 1u64.wrapping_neg());
                add_own(&self.counts.drops, 1);
            }
        }
        with(&pool.threads, |threads| {
            threads.retain(|counts| !Arc::ptr_eq(counts, &self.counts));
            pool.common.absorb(&self.counts);
        });
    }
}
