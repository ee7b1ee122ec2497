//! Buffers come back from any thread, to any number of them, and the bounds hold meanwhile.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use straightway_buffer::{
    BufferError, BufferTier, Exhaustion, LargeBufferPool, PoolConfig, Reason,
};

#[test]
fn a_producer_and_a_consumer_on_two_threads_reuse_the_same_memory() {
    let pool =
        LargeBufferPool::new(PoolConfig { max_bytes_held: 1 << 20, ..PoolConfig::default() });
    let (sender, receiver) = mpsc::sync_channel::<(u8, bytes::Bytes)>(8);
    let consumer = thread::spawn(move || {
        let mut seen = 0u32;
        for (mark, shared) in receiver {
            assert!(shared.iter().all(|byte| *byte == mark), "a buffer was given out twice");
            seen += 1;
        }
        seen
    });
    for n in 0..5000u32 {
        let mark = u8::try_from(n % 251).expect("small");
        let mut buffer = pool.acquire(4096).expect("a buffer");
        buffer.as_mut_capacity().fill(mark);
        buffer.set_len(4096).expect("fits");
        sender.send((mark, buffer.freeze())).expect("the consumer lives");
    }
    drop(sender);
    assert_eq!(consumer.join().expect("the consumer is content"), 5000);
    let stats = pool.stats();
    assert_eq!(
        (stats.outstanding, stats.hits + stats.misses, stats.returns + stats.drops),
        (0, 5000, 5000)
    );
    assert!(stats.misses < 20 && stats.hit_rate() > 0.99, "{stats:?}");
}

#[test]
fn what_is_held_stays_within_the_bound_and_can_be_trimmed() {
    let pool =
        LargeBufferPool::new(PoolConfig { max_bytes_held: 10 * 4096, ..PoolConfig::default() });
    let all: Vec<_> = (0..100).map(|_| pool.acquire(1).expect("a buffer")).collect();
    assert_eq!(pool.stats().outstanding, 100);
    let (left, right) = all.into_iter().enumerate().partition::<Vec<_>, _>(|(n, _)| n % 2 == 0);
    let other = thread::spawn(move || drop(left));
    drop(right);
    other.join().expect("dropped");
    let stats = pool.stats();
    assert!(stats.bytes_held <= 10 * 4096, "{stats:?}");
    assert_eq!(stats.returns + stats.drops, 100);
    assert_eq!(pool.trim() as u64, stats.bytes_held);
    assert_eq!(pool.stats().bytes_held, 0);
}

#[test]
fn exhaustion_is_an_error_by_policy_and_passes() {
    let config =
        PoolConfig { max_bytes: 128 * 1024, exhaustion: Exhaustion::Fail, ..PoolConfig::default() };
    let pool = LargeBufferPool::new(config);
    let first = pool.acquire(65_536).expect("the first");
    let _second = pool.acquire(65_536).expect("the second");
    assert_eq!(
        pool.acquire(1).err(),
        Some(BufferError::Exhausted { existing: 131_072, limit: 131_072 })
    );
    drop(first);
    assert!(pool.acquire(1).is_ok());
}

#[test]
fn a_buffer_outlives_its_pool_and_knows_its_end() {
    let pool = LargeBufferPool::new(PoolConfig::default());
    let mut buffer = pool.acquire(100_000).expect("oversize");
    drop(pool);
    assert_eq!(buffer.capacity(), 102_400, "rounded up to 4 KiB");
    assert!((buffer.as_ptr() as usize).is_multiple_of(4096));
    assert_eq!(
        buffer.set_len(102_401),
        Err(BufferError::BeyondCapacity { len: 102_401, capacity: 102_400 })
    );
    buffer.set_len(102_400).expect("fits");
    assert_eq!(buffer.fill_from(b"more", Reason::Ingest), 0, "a short write is told");
}

#[test]
fn a_thread_that_only_takes_and_one_that_only_gives_back_stay_within_the_bound() {
    let config = PoolConfig { max_bytes_held: 4 << 20, ..PoolConfig::default() };
    let pool = LargeBufferPool::new(config);
    let (sender, receiver) = mpsc::sync_channel::<straightway_buffer::SharedPacket>(64);
    let books = pool.clone();
    let consumer = thread::spawn(move || {
        let most = receiver.into_iter().map(|packet| {
            drop(packet);
            books.stats().bytes_held
        });
        most.max()
    });
    for n in 0..20_000usize {
        let mut buffer = pool.acquire([100, 5000, 60_000][n % 3]).expect("a buffer");
        buffer.set_len(100).expect("fits");
        sender.send(buffer.share()).expect("the consumer lives");
    }
    drop(sender);
    let most = consumer.join().expect("content").expect("some");
    assert!(most <= 4 << 20, "{most}");
    let stats = pool.stats();
    assert_eq!(stats.outstanding, 0);
    assert!(stats.hit_rate() > 0.99, "{stats:?}");
    assert!(stats.high_water_bytes < 8 << 20, "{stats:?}");
}

#[test]
fn what_a_thread_kept_is_there_for_others_when_it_ends() {
    let pool = LargeBufferPool::new(PoolConfig::default());
    let of_thread = pool.clone();
    let kept = thread::spawn(move || {
        drop((0..8).map(|_| of_thread.acquire(1).expect("a buffer")).collect::<Vec<_>>());
        of_thread.stats()
    });
    let while_alive = kept.join().expect("content");
    assert_eq!((while_alive.returns, while_alive.bytes_held), (8, 8 * 4096));
    let after = pool.stats();
    assert_eq!(
        (after.returns, after.bytes_held, after.misses),
        (8, 8 * 4096, 8),
        "nothing is lost"
    );
    let again: Vec<_> = (0..8).map(|_| pool.acquire(1).expect("a buffer")).collect();
    assert_eq!((pool.stats().hits, pool.stats().misses, again.len()), (8, 8, 8));
}

#[test]
fn a_waiting_thread_gets_the_buffer_that_comes_back_or_an_error_at_its_deadline() {
    let wait = |at_most| {
        LargeBufferPool::new(PoolConfig {
            max_bytes: 65_536,
            exhaustion: Exhaustion::Wait(at_most),
            ..PoolConfig::default()
        })
    };
    let patient = wait(Duration::from_mins(1));
    for len in [65_536, 4096, 1] {
        let first = patient.acquire(len).expect("the first");
        let filler: Vec<_> = (0..16)
            .map_while(|_| {
                (patient.stats().high_water_bytes < 65_536)
                    .then(|| patient.acquire(1).expect("room"))
            })
            .collect();
        let (pool, (started, is_started)) = (patient.clone(), mpsc::channel());
        let waiter = thread::spawn(move || {
            started.send(()).expect("told");
            pool.acquire(65_536).map(drop)
        });
        is_started.recv().expect("started");
        drop((first, filler));
        assert_eq!(waiter.join().expect("content"), Ok(()));
    }
    let hasty = wait(Duration::from_millis(1));
    let _all = hasty.acquire(65_536).expect("the first");
    let refused = hasty.acquire(1).err();
    assert_eq!(refused, Some(BufferError::Exhausted { existing: 65_536, limit: 65_536 }));
}

#[test]
fn secrets_are_wiped_when_they_come_back() {
    for wipe in [false, true] {
        let pool = LargeBufferPool::new(PoolConfig { wipe, ..PoolConfig::default() });
        let mut buffer = pool.acquire(4096).expect("a buffer");
        buffer.as_mut_capacity().fill(0x5e);
        drop(buffer);
        let mut again = pool.acquire(4096).expect("the same");
        assert_eq!(again.as_mut_capacity().iter().all(|byte| *byte == 0), wipe);
        assert_eq!(pool.stats().hits, 1);
    }
}

#[test]
fn a_report_names_the_places_that_hold_buffers() {
    let pool = LargeBufferPool::new(PoolConfig { name: "leaky", ..PoolConfig::default() });
    let held: Vec<_> = (0..3).map(|_| pool.acquire(1).expect("a buffer")).collect();
    let _one = pool.acquire_tier(BufferTier::Large).expect("a buffer");
    let report = pool.leak_report();
    assert_eq!(report.outstanding, 4);
    if cfg!(debug_assertions) {
        let counts: Vec<_> = report.places.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [3, 1]);
        assert!(report.places.iter().all(|(place, _)| place.file().ends_with("sharing.rs")));
        assert!(report.to_string().starts_with("leaky: 4 buffers are out\n  3 taken at "));
    }
    drop(held);
    assert_eq!(pool.leak_report().outstanding, 1);
}

/// The bytes that a mix-up would change first.
fn ends(bytes: &[u8]) -> impl Iterator<Item = &u8> {
    bytes.iter().take(64).chain(bytes.iter().rev().take(64))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_use_keeps_bytes_and_books(ops in proptest::collection::vec((0..4u8, 0..80_000usize), 1..200)) {
        let pool = LargeBufferPool::new(PoolConfig { max_bytes_held: 256 * 1024, ..PoolConfig::default() });
        let (mut writable, mut shared) = (Vec::new(), Vec::new());
        for (n, (op, len)) in ops.into_iter().enumerate() {
            let mark = u8::try_from(n % 251).expect("small");
            match op {
                0 | 1 => {
                    let mut buffer = pool.acquire(len).expect("a buffer");
                    prop_assert!(buffer.is_empty() && buffer.capacity() >= len);
                    prop_assert_eq!(buffer.fill_from(&vec![mark; len], Reason::Ingest), len);
                    writable.push((mark, buffer));
                }
                2 => if let Some((mark, buffer)) = writable.pop() {
                    let bytes = buffer.freeze();
                    shared.push((mark, bytes.clone()));
                    shared.push((mark, bytes));
                },
                _ => drop(if n % 2 == 0 { writable.pop().map(|_| ()) } else { shared.pop().map(|_| ()) }),
            }
            for (mark, buffer) in &writable {
                prop_assert!(ends(buffer).all(|byte| byte == mark));
            }
            for (mark, bytes) in &shared {
                prop_assert!(ends(bytes).all(|byte| byte == mark));
            }
            let stats = pool.stats();
            prop_assert!(stats.bytes_held <= 256 * 1024);
            prop_assert!(stats.high_water_bytes >= stats.outstanding * BufferTier::Small.size() as u64);
        }
        drop((writable, shared));
        prop_assert_eq!(pool.stats().outstanding, 0);
    }
}
