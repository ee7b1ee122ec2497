//! The caches per thread: for each pool that the thread uses, a short stack of idle blocks in each class.
//!
//! Last in, first out, so that the buffer that is taken is the one whose lines are still in the processor's cache. A
//! cache fills from and spills to the shared store by halves. When its thread ends, it goes back as a whole.
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ptr;

use crate::pool::{NoCache, Shared};
use crate::raw::block::IdleBlock;
use crate::stats::{ClassCounts, add_own};
use crate::sync::{Arc, with};

thread_local! {
    /// Never dropped, so that taking and giving back need not ask whether it still lives: `END` empties it.
    static CACHES: RefCell<ManuallyDrop<Vec<Cache>>> =
        const { RefCell::new(ManuallyDrop::new(Vec::new())) };
    static END: End = const { End };
}

/// Gives up a thread's caches when the thread ends.
struct End;

/// One thread's cache for one pool. It keeps the pool's inside alive.
struct Cache {
    pool: Arc<Shared>,
    /// By class.
    magazines: Box<[Magazine]>,
}

struct Magazine {
    /// Of the class.
    size: usize,
    blocks: Vec<IdleBlock>,
    room: usize,
    counts: Arc<ClassCounts>,
}

/// An idle block for `len` bytes, if one of the smallest class that has them lies in this thread's cache. The way that
/// nearly all take: short, and without a call.
#[inline]
pub(crate) fn take(pool: &Arc<Shared>, len: usize) -> Option<IdleBlock> {
    let taken = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().ok()?;
        let cache = caches.iter_mut().find(|cache| Arc::ptr_eq(&cache.pool, pool))?;
        cache.magazines.iter_mut().find(|magazine| len <= magazine.size)?.take()
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
    // From here on somebody empties the caches; a thread that is ending has done so already.
    END.try_with(|_| ()).map_err(|_| NoCache)?;
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
    taken.unwrap_or(Err(NoCache))
}

/// Puts a block into this thread's cache for its pool, if there is one, it has room, and that is all there is to do. As
/// short as [`take`].
#[inline]
pub(crate) fn put(block: IdleBlock) -> Result<(), IdleBlock> {
    // Outside of the closure, which drops what it holds where there is no cell for this thread.
    let mut block = Some(block);
    let put = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().ok()?;
        let pool = block.as_ref()?.pool().map_or(ptr::null(), Arc::as_ptr);
        let cache = caches.iter_mut().find(|cache| ptr::eq(Arc::as_ptr(&cache.pool), pool))?;
        if cache.pool.is_careful() {
            return None;
        }
        let magazine = cache.magazines.get_mut(block.as_ref()?.class())?;
        let len = magazine.blocks.len();
        // A vector that would have to grow is left alone too: what that takes would be in the way.
        if len >= magazine.room || len == magazine.blocks.capacity() {
            return None;
        }
        magazine.put(block.take()?);
        Some(())
    });
    put.ok().flatten();
    block.map_or(Ok(()), Err)
}

/// As [`put`], and makes room if there is none. What had to be done to the block is done.
#[cold]
pub(crate) fn put_with_care(pool: &Arc<Shared>, block: IdleBlock) -> Result<(), IdleBlock> {
    let mut block = Some(block);
    let put = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().ok()?;
        if pool.is_closed() {
            // Nobody takes from it any more.
            caches.retain(|cache| !cache.pool.is_closed());
            return None;
        }
        let cache = caches.iter_mut().find(|cache| Arc::ptr_eq(&cache.pool, pool))?;
        let magazine = cache.magazines.get_mut(block.as_ref()?.class())?;
        if magazine.blocks.len() >= magazine.room {
            magazine.spill(pool);
        }
        if magazine.room > 0 {
            magazine.put(block.take()?);
        }
        Some(())
    });
    put.ok().flatten();
    block.map_or(Ok(()), Err)
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

impl Drop for End {
    fn drop(&mut self) {
        let caches = CACHES
            .try_with(|caches| caches.try_borrow_mut().map(|mut all| std::mem::take(&mut **all)));
        drop(caches);
    }
}

impl Cache {
    /// `None`: the pool has no bytes left for another thread's cache.
    fn new(pool: &Arc<Shared>) -> Option<Self> {
        if !pool.lease() {
            return None;
        }
        let magazine = |size: &usize| {
            let room = pool.cache_room(*size);
            let counts = ClassCounts::of_blocks(pool.classes.bytes_for(*size).unwrap_or(0));
            let counts = Arc::new(counts);
            Magazine { size: *size, blocks: Vec::with_capacity(room), room, counts }
        };
        let magazines: Box<[_]> = pool.classes.sizes().iter().map(magazine).collect();
        let counts = magazines.iter().map(|magazine| magazine.counts.clone());
        with(&pool.threads, |threads| threads.extend(counts));
        Some(Self { pool: pool.clone(), magazines })
    }

    fn refill(&mut self, class: usize) -> Result<Option<IdleBlock>, NoCache> {
        let magazine = self.magazines.get_mut(class).ok_or(NoCache)?;
        if magazine.room == 0 {
            // Too large for a thread to sit on.
            return Err(NoCache);
        }
        if magazine.blocks.is_empty() {
            let half = magazine.room.div_ceil(2);
            let filled = self.pool.take_many(class, half, &mut magazine.blocks);
            add_own(&magazine.counts.filled, filled as u64);
        }
        Ok(magazine.take())
    }
}

impl Magazine {
    #[inline]
    fn take(&mut self) -> Option<IdleBlock> {
        let block = self.blocks.pop()?;
        add_own(&self.counts.hits, 1);
        Some(block)
    }

    #[inline]
    fn put(&mut self, block: IdleBlock) {
        self.blocks.push(block);
        add_own(&self.counts.returns, 1);
    }

    /// Makes room, if there is any at all.
    fn spill(&mut self, pool: &Shared) {
        // The older half: what was used last stays.
        for spilled in self.blocks.drain(..self.room.div_ceil(2)) {
            add_own(&self.counts.spilled, 1);
            if !pool.keep(spilled) {
                add_own(&self.counts.unkept, 1);
            }
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let pool = &self.pool;
        // Counted as the store's before the lease ends: at no moment does nobody count them.
        let blocks = || self.magazines.iter().flat_map(|magazine| &magazine.blocks);
        pool.hold(blocks().map(|block| block.bytes() as u64).sum());
        pool.end_lease();
        for magazine in &mut self.magazines {
            for block in magazine.blocks.drain(..) {
                add_own(&magazine.counts.spilled, 1);
                if !pool.keep_counted(block) {
                    add_own(&magazine.counts.unkept, 1);
                }
            }
        }
        let is_own = |counts: &Arc<ClassCounts>| {
            self.magazines.iter().any(|magazine| Arc::ptr_eq(counts, &magazine.counts))
        };
        with(&pool.threads, |threads| {
            threads.retain(|counts| !is_own(counts));
            self.magazines.iter().for_each(|magazine| pool.common.absorb(&magazine.counts));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::config::PoolConfig;
    use crate::pool::BufferPool;

    fn caches() -> usize {
        CACHES.with(|caches| caches.borrow().len())
    }

    #[test]
    fn a_buffer_that_comes_back_to_a_closed_pool_takes_the_cache_with_it() {
        let pool = BufferPool::new(PoolConfig::packets()).expect("a pool");
        let of_thread = pool.clone();
        let ((uses, in_use), (close, closed)) = (channel(), channel());
        let other = std::thread::spawn(move || {
            let buffers = [(); 2].map(|()| of_thread.acquire(100).expect("a buffer"));
            let [idle, last] = buffers;
            drop((idle, of_thread));
            uses.send(caches()).expect("heard");
            closed.recv().expect("told");
            let before = caches();
            drop(last);
            (before, caches())
        });
        assert_eq!(in_use.recv(), Ok(1));
        drop(pool);
        close.send(()).expect("heard");
        assert_eq!(other.join().expect("content"), (1, 0));
    }
}
