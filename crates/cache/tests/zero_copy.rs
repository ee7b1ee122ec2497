//! The published zero-copy behaviour: thresholds, counters, equality with the regular lookup, and no copy at any size.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use std::io::Read;
use std::os::fd::AsFd;

use straightway_cache::{IoMode, RawDiskCache, ZeroCopyConfig};
use support::{KIB, MIB, Scratch, body, socket_pair};

#[tokio::test]
async fn small_objects_skip_the_mapping() {
    let scratch = Scratch::new();
    let cache = scratch.cache(32 * MIB).await;
    cache.store("small", body(1, 4 * KIB)).await.expect("stored");
    assert_eq!(cache.lookup_zero_copy("small").await.expect("looked up"), Some(body(1, 4 * KIB)));
    let stats = cache.zero_copy_stats().await;
    assert_eq!((stats.mmap_reads, stats.mmap_skipped), (0, 1));
    assert_eq!(stats.bytes_copied, 4 * KIB as u64);
}

#[tokio::test]
async fn large_objects_are_mapped_and_not_copied() {
    let scratch = Scratch::new();
    let cache = scratch.cache(32 * MIB).await;
    cache.store("large", body(2, 128 * KIB)).await.expect("stored");
    let found = cache.lookup_zero_copy("large").await.expect("looked up").expect("a hit");
    assert_eq!(found, body(2, 128 * KIB));
    assert!(cache.locate(&found).is_some(), "the slice lies in the mapping");
    let stats = cache.zero_copy_stats().await;
    assert_eq!(
        (stats.mmap_reads, stats.mmap_bytes, stats.mmap_skipped, stats.bytes_copied),
        (1, 128 * KIB as u64, 0, 0)
    );
    assert_eq!(stats.pins_held, 1, "held by the slice");
    drop(found);
    assert_eq!(cache.zero_copy_stats().await.pins_held, 0);
}

#[tokio::test]
async fn the_threshold_is_inclusive_and_moves_at_run_time() {
    let scratch = Scratch::new();
    let cache = scratch.cache(32 * MIB).await;
    for (key, len) in [("under", 64 * KIB - 1), ("at", 64 * KIB), ("over", 64 * KIB + 1)] {
        cache.store(key, body(len as u64, len)).await.expect("stored");
    }
    let mapped = async |key: &str| {
        let found = cache.lookup_zero_copy(key).await.expect("looked up").expect("a hit");
        cache.locate(&found).is_some()
    };
    assert_eq!(
        (mapped("under").await, mapped("at").await, mapped("over").await),
        (false, true, true)
    );
    cache.zero_copy().set_config(ZeroCopyConfig { mmap_threshold: 1, ..ZeroCopyConfig::default() });
    assert!(mapped("under").await, "a packed object can be mapped too");
    cache
        .zero_copy()
        .set_config(ZeroCopyConfig { mmap_threshold: usize::MAX, ..ZeroCopyConfig::default() });
    assert!(!mapped("over").await);
}

#[tokio::test]
async fn both_lookups_agree_at_every_interesting_size() {
    let scratch = Scratch::new();
    let cache = scratch.cache(96 * MIB).await;
    let sizes = [
        0,
        1,
        63,
        64,
        65,
        4095,
        4096,
        4097,
        65_535,
        65_536,
        65_537,
        131_071,
        131_072,
        MIB - 1,
        MIB,
        MIB + 1,
        5 * MIB + 3,
        9 * MIB,
    ];
    for len in sizes {
        let key = format!("object-{len}");
        cache.store(&key, body(len as u64, len)).await.expect("stored");
        let expected = Some(body(len as u64, len));
        assert!(cache.lookup(&key).await.expect("looked up") == expected, "regular, {len}");
        assert!(
            cache.lookup_zero_copy(&key).await.expect("looked up") == expected,
            "mapped, {len}"
        );
    }
}

#[tokio::test]
async fn the_portable_mode_serves_the_same_bytes_by_copy() {
    let scratch = Scratch::new();
    {
        let cache = scratch.cache(32 * MIB).await;
        cache.store("object", body(3, 300 * KIB)).await.expect("stored");
        cache.close().await.expect("closed");
    }
    let cache = scratch.builder(32 * MIB).io(IoMode::Portable).open().await.expect("opened");
    assert!(!cache.is_zero_copy_available());
    assert_eq!(
        cache.lookup_zero_copy("object").await.expect("looked up"),
        Some(body(3, 300 * KIB))
    );
    cache.store("other", body(4, 200 * KIB)).await.expect("stored");
    assert_eq!(cache.lookup("other").await.expect("looked up"), Some(body(4, 200 * KIB)));
    let stats = cache.zero_copy_stats().await;
    assert_eq!(stats.mmap_reads, 0);
    assert_eq!(stats.bytes_copied, 500 * KIB as u64);
}

async fn send_and_read(cache: &RawDiskCache, key: &str, len: usize, blocking: bool) -> Vec<u8> {
    let (mut reader, writer) = socket_pair();
    writer.set_nonblocking(!blocking).expect("the flag is set");
    let received = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("read to the end");
        bytes
    });
    let sent = cache.sendfile_to_socket(key, writer.as_fd()).await.expect("sent");
    assert_eq!(sent, Some(len as u64));
    drop(writer);
    received.await.expect("received")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendfile_moves_whole_objects_to_both_kinds_of_socket() {
    let scratch = Scratch::new();
    let cache = scratch.cache(64 * MIB).await;
    if !cache.info().sendfile {
        println!("SKIP sendfile was not found safe on this file system");
        return;
    }
    for len in [1, 70 * KIB, 5 * MIB + 7] {
        cache.store("sent", body(len as u64, len)).await.expect("stored");
        for blocking in [false, true] {
            assert!(
                send_and_read(&cache, "sent", len, blocking).await == body(len as u64, len),
                "{len} {blocking}"
            );
        }
    }
    let stats = cache.zero_copy_stats().await;
    assert_eq!(stats.sendfile_transfers, 6);
    assert_eq!(stats.bytes_copied, 0);
    assert_eq!(
        cache.sendfile_to_socket("absent", socket_pair().0.as_fd()).await.expect("looked up"),
        None
    );
}
