//! The caches per thread: for each pool that the thread uses, a short stack of idle blocks in each class.
//!
//! Last in, first out, so that the buffer that is taken is the one whose lines are still in the processor's cache. A
//! cache fills from and spills to the shared store by halves. When its thread ends, it goes back as a whole.
use std::cell::RefCell;
use std::ptr;

use crate::pool::{NoCache, Shared};
use crate::raw::block::IdleBlock;
use crate::stats::{ClassCounts, add_own};
use crate::sync::{Arc, with};

thread_local! {
    static CACHES: RefCell<Vec<Cache>> = const { RefCell::new(Vec::new()) };
}

/// One thread's cache for one pool. It keeps the pool's inside alive.
struct Cache {
    pool: Arc<Shared>,
    /// By class, as `magazines`.
    counts: Arc<[ClassCounts]>,
    magazines: Box<[Magazine]>,
}

struct Magazine {
    blocks: Vec<IdleBlock>,
    room: usize,
}

/// An idle block of a class, if one lies in this thread's cache. The way that nearly all take: short, and without a call.
#[inline]
pub(crate) fn take(pool: &Arc<Shared>, class: usize) -> Option<IdleBlock> {
    let taken = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().ok()?;
        caches.iter_mut().find(|cache| Arc::ptr_eq(&cache.pool, pool))?.take(class)
    });
    taken.ok().flatten()
}

/// An idle block of a class out of the shared store, by way of this thread's cache, which is made if it is not there, and
/// filled up; `None` in it when all is empty.
#[cold]
pub(crate) fn refill(pool: &Arc<Shared>, class: usize) -> Result<Option<IdleBlock>, NoCache> {
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
        caches.get_mut(at).ok_or(NoCache)?.refill(class)
    });
    // The thread is ending and its caches are gone.
    taken.unwrap_or(Err(NoCache))
}

/// Puts a block into this thread's cache for its pool, if there is one.
#[inline]
pub(crate) fn put(pool: *const Shared, block: IdleBlock) -> Result<(), IdleBlock> {
    // Outside of the closure, which is dropped with what it holds when the thread is ending.
    let mut block = Some(block);
    let put = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().ok()?;
        let cache = caches.iter_mut().find(|cache| ptr::eq(Arc::as_ptr(&cache.pool), pool))?;
        if cache.pool.is_closed() {
            // Nobody takes from it any more.
            drop_closed(&mut caches);
            return None;
        }
        cache.put(block.take()?).err()
    });
    put.ok().flatten().or(block).map_or(Ok(()), Err)
}

#[cold]
fn drop_closed(caches: &mut Vec<Cache>) {
    caches.retain(|cache| !cache.pool.is_closed());
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
        let counts: Arc<[_]> =
            pool.classes.sizes().iter().map(|_| ClassCounts::default()).collect();
        with(&pool.threads, |threads| threads.push(counts.clone()));
        let magazines = pool.classes.sizes().iter().map(magazine).collect();
        Some(Self { pool: pool.clone(), counts, magazines })
    }

    #[inline]
    fn take(&mut self, class: usize) -> Option<IdleBlock> {
        let (magazine, counts) = (self.magazines.get_mut(class)?, self.counts.get(class)?);
        let block = magazine.blocks.pop()?;
        add_own(&counts.hits, 1);
        Some(block)
    }

    fn refill(&mut self, class: usize) -> Result<Option<IdleBlock>, NoCache> {
        let (Some(magazine), Some(counts)) =
            (self.magazines.get_mut(class), self.counts.get(class))
        else {
            return Err(NoCache);
        };
        if magazine.room == 0 {
            // Too large for a thread to sit on.
            return Err(NoCache);
        }
        if magazine.blocks.is_empty() {
            let half = magazine.room.div_ceil(2);
            let filled = self.pool.take_many(class, half, &mut magazine.blocks);
            add_own(&counts.filled, filled as u64);
        }
        Ok(self.take(class))
    }

    /// Takes the block if its class is kept.
    #[inline]
    fn put(&mut self, block: IdleBlock) -> Result<(), IdleBlock> {
        let class = block.class();
        let (Some(magazine), Some(counts)) =
            (self.magazines.get_mut(class), self.counts.get(class))
        else {
            return Err(block);
        };
        if magazine.blocks.len() >= magazine.room && !magazine.spill(counts, &self.pool) {
            return Err(block);
        }
        add_own(&counts.returns, 1);
        magazine.blocks.push(block);
        Ok(())
    }
}

impl Magazine {
    /// Makes room; `false`: there is none at all.
    #[cold]
    fn spill(&mut self, counts: &ClassCounts, pool: &Shared) -> bool {
        // The older half: what was used last stays.
        for spilled in self.blocks.drain(..self.room.div_ceil(2)) {
            add_own(&counts.spilled, 1);
            if !pool.keep(spilled) {
                add_own(&counts.unkept, 1);
            }
        }
        self.room > 0
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let pool = &self.pool;
        // Counted as the store's before the lease ends: at no moment does nobody count them.
        let blocks = || self.magazines.iter().flat_map(|magazine| &magazine.blocks);
        pool.hold(blocks().map(|block| block.bytes() as u64).sum());
        pool.end_lease();
        for (magazine, counts) in self.magazines.iter_mut().zip(self.counts.iter()) {
            for block in magazine.blocks.drain(..) {
                add_own(&counts.spilled, 1);
                if !pool.keep_counted(block) {
                    add_own(&counts.unkept, 1);
                }
            }
        }
        with(&pool.threads, |threads| {
            threads.retain(|counts| !Arc::ptr_eq(counts, &self.counts));
            self.counts.iter().for_each(|counts| pool.common.absorb(counts));
        });
    }
}
