//! Opening: what is refused, why, and that nothing is harmed by it; what a restart brings back.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use straightway_cache::{CacheError, ManualClock, RawDiskCache, StoreOptions};
use support::{KIB, MIB, Scratch, body};

#[tokio::test]
async fn sizes_that_do_not_fit_are_refused_by_name() {
    let scratch = Scratch::new();
    let open = async |size: u64, block: u32| {
        RawDiskCache::new(scratch.path(), size, block, Duration::ZERO).await
    };
    for (size, block) in [
        (0, 4096),
        (100, 4096),
        (16 * MIB as u64 + 1, 4096),
        (16 * MIB as u64, 3000),
        (16 * MIB as u64, 0),
    ] {
        let refused = open(size, block).await;
        assert!(matches!(refused, Err(CacheError::Geometry { .. })), "{size} {block}: {refused:?}");
        assert!(!scratch.path().exists(), "nothing was created for {size} {block}");
    }
    assert!(open(MIB as u64, 4096).await.is_ok(), "the smallest cache");
}

#[tokio::test]
async fn a_foreign_file_is_left_alone() {
    let scratch = Scratch::new();
    let poem = "a file that somebody needs\n".repeat(1000);
    std::fs::write(scratch.path(), &poem).expect("written");
    let refused = scratch.builder(16 * MIB).open().await;
    assert!(matches!(refused, Err(CacheError::Foreign { .. })), "{refused:?}");
    assert_eq!(std::fs::read_to_string(scratch.path()).expect("read"), poem);
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let scratch = Scratch::new();
    let first = scratch.cache(16 * MIB).await;
    let second = scratch.builder(16 * MIB).open().await;
    assert!(matches!(second, Err(CacheError::InUse { .. })), "{second:?}");
    first.store("still", body(1, 100)).await.expect("the first is unharmed");
    first.close().await.expect("closed");
}

#[tokio::test]
async fn another_size_or_block_size_than_on_disk_is_refused() {
    let scratch = Scratch::new();
    scratch.cache(16 * MIB).await.close().await.expect("closed");
    let other = scratch.builder(32 * MIB).open().await;
    assert!(matches!(other, Err(CacheError::Geometry { .. })), "{other:?}");
    let other = scratch.builder(16 * MIB).block_size(8192).open().await;
    assert!(matches!(other, Err(CacheError::Geometry { .. })), "{other:?}");
}

#[tokio::test]
async fn an_unwritable_place_is_an_error_that_names_it() {
    let refused = RawDiskCache::new("/proc/no/such/place", 16 << 20, 4096, Duration::ZERO).await;
    let error = refused.expect_err("refused");
    assert!(error.to_string().contains("/proc/no/such/place"), "{error}");
}

#[tokio::test]
async fn keys_and_descriptions_over_their_limits_are_refused() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    for key in ["", "nul\0", &"k".repeat(2049)] {
        let refused = cache.store(key, body(1, 10)).await;
        assert!(matches!(refused, Err(CacheError::InvalidKey { .. })), "{refused:?}");
        assert!(matches!(cache.lookup(key).await, Err(CacheError::InvalidKey { .. })));
    }
    cache.store(&"k".repeat(2048), body(1, 10)).await.expect("the longest key");
    assert_eq!(cache.lookup(&"k".repeat(2048)).await.expect("looked up"), Some(body(1, 10)));
    let store = async |options| cache.store_with("k", body(1, 10), options).await;
    let long_type = StoreOptions { content_type: Some("x".repeat(257)), ..StoreOptions::default() };
    assert!(matches!(store(long_type).await, Err(CacheError::MetadataTooLong { .. })));
    let many_tags = StoreOptions { tags: vec!["t".into(); 17], ..StoreOptions::default() };
    assert!(matches!(store(many_tags).await, Err(CacheError::MetadataTooLong { .. })));
}

#[tokio::test]
async fn bodies_that_do_not_keep_their_word_leave_nothing() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    let limit = cache.info().max_object;
    let too_large = cache.writer("k", Some(limit + 1), StoreOptions::default()).await;
    assert!(matches!(too_large, Err(CacheError::TooLarge { .. })));
    for len in [100, 300 * KIB] {
        let mut short = cache
            .writer("k", Some(len as u64 + 1), StoreOptions::default())
            .await
            .expect("a writer");
        short.write(&body(1, len)).await.expect("written");
        assert!(matches!(short.finish(None).await, Err(CacheError::LengthMismatch { .. })));
        let mut long = cache
            .writer("k", Some(len as u64 - 1), StoreOptions::default())
            .await
            .expect("a writer");
        assert!(matches!(long.write(&body(1, len)).await, Err(CacheError::LengthMismatch { .. })));
    }
    let mut endless = cache.writer("k", None, StoreOptions::default()).await.expect("a writer");
    let chunk = body(2, MIB);
    let refused = loop {
        if let Err(error) = endless.write(&chunk).await {
            break error;
        }
    };
    assert!(matches!(refused, CacheError::TooLarge { .. }), "{refused}");
    drop(endless);
    assert!(!cache.contains("k").await.expect("looked up"));
    assert_eq!(cache.stats().objects, 0);
}

#[tokio::test]
async fn lifetimes_end_and_outlive_restarts_and_clock_steps() {
    let scratch = Scratch::new();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let open = async || {
        let builder = scratch.builder(16 * MIB).ttl(Duration::from_mins(1)).clock(clock.clone());
        builder.open().await.expect("opened")
    };
    let cache = open().await;
    cache.store("default", body(1, 100)).await.expect("stored");
    let long = StoreOptions { ttl: Some(Duration::from_hours(1)), ..StoreOptions::default() };
    cache.store_with("long", body(2, 100 * KIB), long).await.expect("stored");
    clock.advance(59_999);
    assert!(cache.contains("default").await.expect("looked up"));
    cache.close().await.expect("closed");
    drop(cache);
    clock.advance(1);
    let cache = open().await;
    assert_eq!(cache.lookup("default").await.expect("looked up"), None);
    assert_eq!(cache.stats().expired, 1);
    assert!(cache.lookup("long").await.expect("looked up").is_some());
    clock.set(0);
    assert!(
        cache.lookup("long").await.expect("looked up").is_some(),
        "a clock that steps back harms nothing"
    );
    clock.set(1_000_000 + 3_600_000);
    assert_eq!(cache.lookup("long").await.expect("looked up"), None);
}

#[tokio::test]
async fn a_restart_brings_back_objects_and_their_descriptions() {
    let scratch = Scratch::new();
    let options = || StoreOptions {
        content_type: Some("text/plain".into()),
        tags: vec!["one".into(), "two".into()],
        last_modified_ms: Some(77_000),
        ..StoreOptions::default()
    };
    for clean in [true, false] {
        let key = format!("clean-{clean}");
        let cache = scratch.cache(16 * MIB).await;
        cache.store_with(&key, body(5, 90 * KIB), options()).await.expect("stored");
        let stored = cache.stat(&key).await.expect("looked up").expect("there");
        if clean {
            cache.close().await.expect("closed");
        }
        drop(cache);
        let cache = scratch.cache(16 * MIB).await;
        assert_eq!(cache.stat(&key).await.expect("looked up"), Some(stored.clone()));
        assert_eq!(stored.tags, ["one", "two"]);
        assert_eq!(cache.lookup(&key).await.expect("looked up"), Some(body(5, 90 * KIB)));
        cache.close().await.expect("closed");
    }
}
