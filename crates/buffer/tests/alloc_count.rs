//! What the pool allocates: nothing once it is warm, one small owner for a frozen buffer, and never a copy.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use straightway_buffer::packet::{get_buffer, return_buffer, take_buffer};
use straightway_buffer::{
    Arena, BufferPool, BufferTier, LargeBufferPool, PoolConfig, Reason, SharedPacket,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set((count.get().0 + 1, count.get().1 + layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn cost(act: impl FnOnce()) -> (u64, usize) {
    let before = ALLOCATIONS.with(Cell::get);
    act();
    let after = ALLOCATIONS.with(Cell::get);
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn a_warm_pool_allocates_nothing() {
    let pool = LargeBufferPool::new(PoolConfig::default());
    let round = || {
        for tier in BufferTier::ALL {
            let mut buffer = pool.acquire_tier(tier).expect("a buffer");
            buffer.fill_from(b"straight", Reason::Ingest);
        }
    };
    round();
    let (allocations, _) = cost(|| (0..1000).for_each(|_| round()));
    assert_eq!(allocations, 0);
    assert_eq!(pool.stats().misses, 3);
}

#[test]
fn freezing_costs_one_small_owner_and_no_copy() {
    let pool = LargeBufferPool::new(PoolConfig::default());
    drop(pool.acquire(64 * 1024).expect("a buffer"));
    let mut buffer = pool.acquire(64 * 1024).expect("a buffer");
    buffer.set_len(64 * 1024).expect("fits");
    let address = buffer.as_ptr();
    let mut frozen = None;
    let (allocations, bytes) = cost(|| frozen = Some(buffer.freeze()));
    let frozen = frozen.expect("frozen");
    assert_eq!(frozen.as_ptr(), address, "the same memory");
    assert_eq!(allocations, 1);
    assert!(bytes <= 128, "{bytes}");
    let (allocations, _) = cost(|| drop((frozen.clone(), frozen.slice(100..200))));
    assert_eq!(allocations, 0, "sharing and slicing are free");
}

#[test]
fn packets_are_shared_sliced_and_taken_back_without_any_allocation() {
    let pool = BufferPool::new(PoolConfig::packets()).expect("a pool");
    let round = || {
        let mut buffer = pool.acquire(1400).expect("a buffer");
        buffer.fill_from(b"header|payload", Reason::Ingest);
        let packet = buffer.share();
        let (header, copy) = (packet.slice(..6), packet.clone());
        drop((packet, header));
        let unique = copy.try_into_mut().expect("the last");
        drop(unique.share());
    };
    round();
    let (allocations, _) = cost(|| (0..1000).for_each(|_| round()));
    assert_eq!(allocations, 0);
    let packet = pool.acquire(1400).expect("a buffer").share();
    let mut packet = Some(SharedPacket::from(vec![1; 100]).slice(1..2)).or(Some(packet));
    let (allocations, _) = cost(|| drop(packet.take().map(SharedPacket::into_bytes)));
    assert_eq!(allocations, 1, "the owner that `Bytes` boxes");
}

#[test]
fn packet_buffers_cost_nothing_once_there() {
    let round = || {
        let mut held = [const { None }; 8];
        for (n, slot) in held.iter_mut().enumerate() {
            let mut buffer = take_buffer([100, 300, 1000, 1500][n % 4]);
            buffer.extend_from_slice(b"straight");
            *slot = Some(buffer);
        }
    };
    round();
    let (allocations, _) = cost(|| (0..1000).for_each(|_| round()));
    assert_eq!(allocations, 0);
}

#[test]
fn packet_buffers_by_value_cost_nothing_once_there() {
    let round = || {
        let mut buffers = [100, 300, 1500].map(get_buffer);
        for buffer in &mut buffers {
            buffer.extend_from_slice(b"straight");
        }
        buffers.into_iter().for_each(return_buffer);
        // In the other form: what one gave back the other takes.
        drop([100, 300, 1500].map(take_buffer));
    };
    round();
    let (allocations, _) = cost(|| (0..100).for_each(|_| round()));
    assert_eq!(allocations, 0);
}

#[test]
fn a_batch_in_an_arena_is_one_buffer_and_no_allocation() {
    let pool = BufferPool::new(PoolConfig::packets()).expect("a pool");
    let round = |arena: Arena| {
        let mut arena = arena;
        while let Ok(room) = arena.reserve(1400) {
            room[0] = 1;
        }
        let batch = arena.finish();
        assert_eq!(batch.iter().map(|packet| packet.len()).sum::<usize>(), 46 * 1400);
        batch.recycle().expect("free")
    };
    let mut arena = Some(round(Arena::new(pool.acquire(65_536).expect("a buffer"))));
    let (allocations, _) = cost(|| {
        for _ in 0..100 {
            arena = arena.take().map(round);
        }
    });
    assert_eq!(allocations, 0);
}
