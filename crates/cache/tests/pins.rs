//! Bytes on their way out do not change: not when their key is overwritten or removed, not when eviction laps the whole
//! cache, not when they are still in a socket's queue.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use straightway_cache::{CacheError, FileRange, RawDiskCache};
use support::{KIB, MIB, PATIENCE, Scratch, body, nothing_is_pinned, socket_pair};

/// Stores more than the cache holds, twice over.
async fn lap(cache: &RawDiskCache, salt: u64) -> u64 {
    let mut stored = 0;
    for key in 0..120u64 {
        match cache.store(&format!("filler-{salt}-{key}"), body(salt << 32 | key, 300 * KIB)).await
        {
            Ok(()) => stored += 1,
            Err(CacheError::NoSpace { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    stored
}

#[tokio::test]
async fn a_slice_that_is_held_keeps_its_bytes_while_eviction_laps_the_cache() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    cache.store("held", body(1, 2 * MIB + 5)).await.expect("stored");
    cache.store("packed", body(2, 500)).await.expect("stored");
    let held = cache.lookup_zero_copy("held").await.expect("looked up").expect("a hit");
    let packed =
        cache.open("packed").await.expect("opened").expect("a hit").bytes().expect("mapped");
    let tail = held.slice(2 * MIB..);
    drop(held);
    assert!(lap(&cache, 1).await > 60);
    cache.store("held", body(3, 2 * MIB + 5)).await.expect("stored again");
    assert!(lap(&cache, 2).await > 60);
    cache.remove("held").await.expect("removed");
    assert!(tail == body(1, 2 * MIB + 5).slice(2 * MIB..), "a part of a slice pins the whole");
    assert!(packed == body(2, 500));
    assert_eq!(cache.zero_copy_stats().await.pins_held, 2);
    drop((tail, packed));
    nothing_is_pinned(&cache).await;
    assert!(lap(&cache, 3).await > 100, "the space is used again");
}

/// Fills a socket's queue by `sendfile` without reading it, lets go of the pin, has the space rewritten, and only then
/// reads: what was sent must be what arrives.
#[tokio::test]
async fn what_waits_in_a_full_socket_queue_survives_the_rewriting_of_its_space() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    if !cache.info().sendfile {
        println!("SKIP sendfile was not found safe on this file system");
        return;
    }
    for round in 0..5u64 {
        cache.store("sent", body(round, 3 * MIB)).await.expect("stored");
        let object = cache.open("sent").await.expect("opened").expect("a hit");
        let bytes = object.bytes().expect("mapped");
        let range = cache.locate(&bytes).expect("mapped");
        let (mut reader, writer) = socket_pair();
        writer.set_nonblocking(true).expect("the flag is set");
        let mut sent = 0;
        loop {
            let rest =
                FileRange { offset: range.offset + sent as u64, len: range.len - sent as u64 };
            match cache.try_sendfile(writer.as_fd(), rest) {
                Ok(step) => sent += step,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            if sent as u64 == range.len {
                break;
            }
        }
        assert!(sent > 64 * KIB, "only {sent} bytes fit the queue");
        drop((object, bytes));
        cache.store("sent", body(1000 + round, 3 * MIB)).await.expect("overwritten");
        lap(&cache, 10 + round).await;
        drop(writer);
        let mut received = Vec::new();
        reader.read_to_end(&mut received).expect("read");
        assert_eq!(received.len(), sent);
        assert!(received[..] == body(round, 3 * MIB)[..sent], "bytes changed in the queue");
    }
}

#[tokio::test]
async fn when_everything_is_pinned_a_store_fails_in_bounded_time_and_recovers() {
    let scratch = Scratch::new();
    let briefly = scratch.builder(16 * MIB).pin_wait(Duration::from_millis(200));
    let cache = briefly.open().await.expect("the cache opens");
    let mut held = Vec::new();
    let refused = loop {
        let key = format!("pinned-{}", held.len());
        match cache.store(&key, body(held.len() as u64, 700 * KIB)).await {
            Ok(()) => {
                held.push(cache.lookup_zero_copy(&key).await.expect("looked up").expect("a hit"));
            }
            Err(error) => break error,
        }
        assert!(held.len() < 100, "more is pinned than fits");
    };
    assert!(matches!(refused, CacheError::NoSpace { .. }), "{refused}");
    for (seed, bytes) in held.iter().enumerate() {
        assert!(*bytes == body(seed as u64, 700 * KIB));
    }
    assert!(cache.stats().no_space > 0);
    drop(held);
    // To make room is to flush, which may take longer than a store waits here: the next one finds the room.
    let deadline = Instant::now() + PATIENCE;
    let stored = loop {
        match cache.store("after", body(9, 700 * KIB)).await {
            Err(CacheError::NoSpace { .. }) if Instant::now() < deadline => {}
            outcome => break outcome,
        }
    };
    stored.expect("there is room again");
}
