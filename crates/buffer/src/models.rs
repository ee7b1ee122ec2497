//! The pool and its blocks in every interleaving of two threads: no block is in two hands, none comes back twice, and
//! what a reader did is over before the next owner writes.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib --package straightway-buffer
//! ```
use loom::thread;

use crate::{BufferError, BufferPool, Exhaustion, PoolConfig};

/// Room for `count` buffers of one class.
fn pool(count: usize) -> BufferPool {
    let config = PoolConfig {
        classes: vec![64],
        align: 4096,
        max_bytes: count * 4096,
        exhaustion: Exhaustion::Fail,
        ..PoolConfig::default()
    };
    BufferPool::new(config).expect("a pool")
}

#[test]
fn a_buffer_is_in_one_hand_at_a_time() {
    loom::model(|| {
        let pool = pool(1);
        let use_one = |pool: &BufferPool| match pool.acquire(64) {
            Ok(mut buffer) => buffer.as_mut_capacity()[0] = 1,
            Err(error) => assert!(matches!(error, BufferError::Exhausted { .. })),
        };
        let other = {
            let pool = pool.clone();
            thread::spawn(move || use_one(&pool))
        };
        use_one(&pool);
        other.join().expect("content");
        let stats = pool.stats();
        assert_eq!((stats.outstanding, stats.high_water_bytes), (0, 4096));
        assert!(pool.acquire(64).is_ok(), "it came back");
    });
}

#[test]
fn the_last_reader_gives_the_buffer_back_once_and_after_all_have_read() {
    loom::model(|| {
        let pool = pool(1);
        let mut buffer = pool.acquire(64).expect("a buffer");
        buffer.set_len(1).expect("fits");
        buffer[0] = 7;
        let packet = buffer.share();
        let other = {
            let packet = packet.clone();
            thread::spawn(move || assert_eq!(packet[0], 7))
        };
        assert_eq!(packet[0], 7);
        drop(packet);
        // Whoever gets it writes: loom fails the model if a reader could still be at it.
        if let Ok(mut buffer) = pool.acquire(64) {
            buffer.as_mut_capacity()[0] = 8;
        }
        other.join().expect("content");
        let stats = pool.stats();
        assert_eq!((stats.outstanding, stats.returns), (0, stats.hits + stats.misses));
    });
}

#[test]
fn a_packet_becomes_writable_only_when_nobody_reads_it() {
    loom::model(|| {
        let pool = pool(1);
        let mut buffer = pool.acquire(64).expect("a buffer");
        buffer.set_len(1).expect("fits");
        let packet = buffer.share();
        let other = {
            let packet = packet.clone();
            thread::spawn(move || match packet.try_into_mut() {
                Ok(mut buffer) => buffer[0] = 1,
                Err(packet) => assert!(packet[0] <= 1),
            })
        };
        match packet.try_into_mut() {
            Ok(mut buffer) => buffer[0] = 1,
            Err(packet) => assert!(packet[0] <= 1),
        }
        other.join().expect("content");
        assert_eq!(pool.stats().outstanding, 0);
    });
}

#[test]
fn a_buffer_that_comes_back_while_its_pool_closes_is_freed() {
    loom::model(|| {
        let pool = pool(1);
        let buffer = pool.acquire(64).expect("a buffer");
        let other = thread::spawn(move || drop(buffer));
        drop(pool);
        other.join().expect("content");
        // loom's own count of `Arc`s fails the model if the block still held on to the pool's inside.
    });
}
