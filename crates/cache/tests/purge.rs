//! Purges: at once for readers, durable, and never undone by a crash, a move or an upload that was under way.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod support;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use straightway_cache::{
    CacheError, ObjectMeta, Observer, Purge, RawDiskCache, Removal, StoreOptions,
};
use support::{KIB, MIB, PATIENCE, Scratch, body};

async fn store(cache: &RawDiskCache, key: &str, tags: &[&str]) {
    let tags = tags.iter().map(ToString::to_string).collect();
    let options = StoreOptions { tags, ..StoreOptions::default() };
    cache.store_with(key, body(1, 100 * KIB), options).await.expect("stored");
}

async fn keys(cache: &RawDiskCache) -> Vec<String> {
    let (mut walk, mut keys) = (cache.iter(), Vec::new());
    while let Some(object) = walk.next().await {
        keys.push(object.expect("readable").key);
    }
    keys.sort();
    keys
}

#[tokio::test]
async fn each_scope_takes_what_it_names_and_nothing_else() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    for (key, tags) in
        [("a/1", &["red"][..]), ("a/2", &["blue", "red"]), ("b/1", &["reddish"]), ("b/2", &[])]
    {
        store(&cache, key, tags).await;
    }
    let purge = async |what| {
        let purged = cache.purge(what).await.expect("purged");
        assert!(purged.complete);
        purged.objects
    };
    assert_eq!(purge(Purge::Tag("red".into())).await, 2);
    assert_eq!(keys(&cache).await, ["b/1", "b/2"]);
    assert_eq!(purge(Purge::Tag("red".into())).await, 0, "nothing is left of it");
    store(&cache, "a/1", &["red"]).await;
    assert_eq!(keys(&cache).await, ["a/1", "b/1", "b/2"], "stored after the purge");
    assert_eq!(purge(Purge::Prefix("b/".into())).await, 2);
    assert_eq!(purge(Purge::Key("a/1".into())).await, 1);
    assert_eq!(purge(Purge::Key("a/1".into())).await, 0);
    store(&cache, "c", &[]).await;
    assert_eq!(purge(Purge::All).await, 1);
    assert!(keys(&cache).await.is_empty());
    assert_eq!((cache.stats().objects, cache.stats().purged), (0, 6));
    for bad in [Purge::Prefix(String::new()), Purge::Tag("t".repeat(3000)), Purge::Key("\0".into())]
    {
        assert!(matches!(cache.purge(bad).await, Err(CacheError::InvalidKey { .. })));
    }
}

/// The file as it is while the process lives, reopened: what a crash leaves.
async fn crash(scratch: &Scratch, cache: RawDiskCache, size: usize) -> RawDiskCache {
    let copy = scratch.path().with_extension("crashed");
    std::fs::copy(scratch.path(), &copy).expect("copied");
    drop(cache);
    std::fs::rename(&copy, scratch.path()).expect("renamed");
    scratch.cache(size).await
}

#[tokio::test]
async fn a_crash_right_after_the_answer_brings_nothing_back() {
    let scratch = Scratch::new();
    let mut cache = scratch.cache(16 * MIB).await;
    for round in 0..4 {
        for n in 0..20 {
            store(&cache, &format!("p/{n}"), &["t"]).await;
            store(&cache, &format!("q/{n}"), &["t"]).await;
        }
        cache.purge(Purge::Prefix("p/".into())).await.expect("purged");
        store(&cache, "p/0", &[]).await;
        cache = crash(&scratch, cache, 16 * MIB).await;
        let found = keys(&cache).await;
        assert_eq!(found.len(), 21, "{found:?}");
        assert!(
            cache.contains("p/0").await.expect("looked up")
                && !cache.contains("p/1").await.expect("looked up")
        );
        // A clean stop in between: rules travel in checkpoints as well as in the journal.
        if round % 2 == 0 {
            cache.close().await.expect("closed");
            drop(cache);
            cache = scratch.cache(16 * MIB).await;
            assert_eq!(keys(&cache).await.len(), 21);
        }
        assert_eq!(cache.purge(Purge::Tag("t".into())).await.expect("purged").objects, 20);
        cache = crash(&scratch, cache, 16 * MIB).await;
        assert_eq!(keys(&cache).await, ["p/0"]);
    }
}

#[tokio::test]
async fn an_upload_that_began_before_is_purged_with_the_rest() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    let mut large = cache.writer("p/large", None, StoreOptions::default()).await.expect("begun");
    let mut small = cache.writer("p/small", None, StoreOptions::default()).await.expect("begun");
    let mut other = cache.writer("q", None, StoreOptions::default()).await.expect("begun");
    large.write(&body(1, MIB)).await.expect("written");
    small.write(b"body").await.expect("written");
    other.write(b"body").await.expect("written");
    cache.purge(Purge::Prefix("p/".into())).await.expect("purged");
    for writer in [large, small, other] {
        writer.finish(None).await.expect("finished");
    }
    assert_eq!(keys(&cache).await, ["q"]);
    let cache = crash(&scratch, cache, 16 * MIB).await;
    assert_eq!(keys(&cache).await, ["q"], "their headers say when they began");
}

#[tokio::test]
async fn an_upload_that_began_before_its_key_was_purged_comes_to_nothing() {
    let scratch = Scratch::new();
    let heard = Arc::new(Heard::default());
    let cache = scratch.builder(16 * MIB).observer(heard.clone()).open().await.expect("opens");
    let begin = async |key: &str| {
        let mut writer = cache.writer(key, None, StoreOptions::default()).await.expect("begun");
        writer.write(b"old").await.expect("written");
        writer
    };
    let (first, second, other) = (begin("k").await, begin("k").await, begin("l").await);
    cache.purge(Purge::Key("k".into())).await.expect("purged");
    first.finish(None).await.expect("taken");
    assert!(!cache.contains("k").await.expect("looked up"));
    // What came after the purge is not touched by what came before it.
    let third = begin("k").await;
    store(&cache, "k", &[]).await;
    second.finish(None).await.expect("taken");
    other.finish(None).await.expect("stored");
    assert_eq!(cache.lookup("k").await.expect("looked up").map(|body| body.len()), Some(100 * KIB));
    third.finish(None).await.expect("stored");
    assert_eq!(cache.lookup("k").await.expect("looked up").as_deref(), Some(&b"old"[..]));
    let told = ["purged Key(\"k\")", "stored k", "stored l", "stored k"];
    assert_eq!(*heard.0.lock(), told, "of what came to nothing nothing is told");
    let cache = crash(&scratch, cache, 16 * MIB).await;
    assert_eq!(keys(&cache).await, ["k", "l"]);
}

/// Purges that are swept are forgotten even if nothing else is written.
#[tokio::test]
async fn an_idle_cache_makes_room_for_more_purges() {
    let scratch = Scratch::new();
    let cache = scratch.cache(4 * MIB).await;
    // While it is under way no rule is done with, and checkpoints hold them all.
    let upload = cache.writer("u", None, StoreOptions::default()).await.expect("begun");
    for n in 0..64 {
        cache.purge(Purge::Tag(format!("t{n}"))).await.expect("purged");
    }
    let deadline = Instant::now() + PATIENCE;
    while cache.stats().checkpoints < 3 {
        assert!(Instant::now() < deadline, "{:?}", cache.stats());
        tokio::task::yield_now().await;
    }
    drop(upload);
    // Room comes with a sweep and a checkpoint: a busy disk may take longer for it than one purge waits.
    let deadline = Instant::now() + PATIENCE;
    let purged = loop {
        match cache.purge(Purge::Tag("one more".into())).await {
            Err(CacheError::TooManyPurges { .. }) if Instant::now() < deadline => {}
            outcome => break outcome,
        }
    };
    purged.expect("room");
}

/// More purges than may be in force at a time: earlier ones are swept and forgotten, or the answer says why not.
#[tokio::test]
async fn purges_without_end_are_bounded_and_none_is_lost() {
    let scratch = Scratch::new();
    let cache = scratch.cache(4 * MIB).await;
    for n in 0..300 {
        let key = format!("{n}/{}", "k".repeat(500));
        cache.store(&key, Bytes::from_static(b"x")).await.expect("stored");
        let purged = cache.purge(Purge::Prefix(key.clone())).await.expect("purged");
        assert_eq!(purged.objects, 1, "{n}");
        assert!(!cache.contains(&key).await.expect("looked up"));
    }
    let cache = crash(&scratch, cache, 4 * MIB).await;
    assert!(keys(&cache).await.is_empty());
}

/// Objects move while they are purged: none survives by moving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_moved_while_it_is_swept_stays_purged() {
    let scratch = Scratch::new();
    let cache = scratch.cache(8 * MIB).await;
    for round in 0..20_u64 {
        let filling = {
            let cache = cache.clone();
            tokio::spawn(async move {
                for n in 0..150 {
                    cache
                        .store(&format!("q/{round}/{n}"), body(n, 64 * KIB))
                        .await
                        .expect("stored");
                }
            })
        };
        for n in 0..60 {
            let key = format!("p/{n}");
            cache.store(&key, body(n, 32 * KIB)).await.expect("stored");
            for _ in 0..3 {
                cache.lookup(&key).await.expect("looked up");
            }
        }
        cache.purge(Purge::Prefix("p/".into())).await.expect("purged");
        filling.await.expect("filled");
        assert!(keys(&cache).await.iter().all(|key| !key.starts_with("p/")));
    }
    let cache = crash(&scratch, cache, 8 * MIB).await;
    assert!(keys(&cache).await.iter().all(|key| !key.starts_with("p/")));
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn stored(&self, key: &str, _meta: &ObjectMeta) {
        self.0.lock().push(format!("stored {key}"));
    }
    fn removed(&self, key: &str, why: Removal) {
        self.0.lock().push(format!("{why:?} {key}"));
    }
    fn purged(&self, what: &Purge) {
        self.0.lock().push(format!("purged {what:?}"));
    }
}

#[tokio::test]
async fn a_purge_is_told_once_whatever_it_covers() {
    let scratch = Scratch::new();
    let heard = Arc::new(Heard::default());
    let cache = scratch.builder(16 * MIB).observer(heard.clone()).open().await.expect("opens");
    for n in 0..5 {
        cache.store(&format!("p/{n}"), Bytes::from_static(b"x")).await.expect("stored");
    }
    heard.0.lock().clear();
    cache.purge(Purge::Prefix("p/".into())).await.expect("purged");
    cache.purge(Purge::Key("p/0".into())).await.expect("purged");
    assert_eq!(*heard.0.lock(), ["purged Prefix(\"p/\")", "purged Key(\"p/0\")"]);
}

/// Who asked may go away: what was handed in happens, and is told, in the order in which it happens.
#[tokio::test]
async fn a_purge_or_removal_that_nobody_waits_for_is_told_before_what_follows() {
    let scratch = Scratch::new();
    let heard = Arc::new(Heard::default());
    let cache = scratch.builder(16 * MIB).observer(heard.clone()).open().await.expect("opens");
    for what in [Purge::Prefix("p/".into()), Purge::Key("p/1".into()), Purge::All] {
        cache.store("p/1", Bytes::from_static(b"x")).await.expect("stored");
        heard.0.lock().clear();
        // Handed in, and given up.
        drop(cache.purge(what.clone()).now_or_never());
        // Answered after what was handed in before.
        cache.remove("other").await.expect("looked for");
        cache.store("p/1", Bytes::from_static(b"y")).await.expect("stored");
        assert_eq!(*heard.0.lock(), [format!("purged {what:?}"), "stored p/1".to_owned()]);
    }
    heard.0.lock().clear();
    drop(cache.remove("p/1").now_or_never());
    cache.store("p/1", Bytes::from_static(b"y")).await.expect("stored");
    assert_eq!(*heard.0.lock(), ["Removed p/1", "stored p/1"]);
}

/// An upload that is purged before it is done is told neither.
#[tokio::test]
async fn what_is_purged_before_it_is_stored_is_not_told_as_stored() {
    let scratch = Scratch::new();
    let heard = Arc::new(Heard::default());
    let cache = scratch.builder(16 * MIB).observer(heard.clone()).open().await.expect("opens");
    let mut late = cache.writer("p/1", None, StoreOptions::default()).await.expect("begun");
    late.write(b"body").await.expect("written");
    cache.purge(Purge::Prefix("p/".into())).await.expect("purged");
    late.finish(None).await.expect("taken");
    assert_eq!(*heard.0.lock(), ["purged Prefix(\"p/\")"]);
}

#[tokio::test]
async fn a_hit_after_a_purge_walks_over_the_rules_once() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    store(&cache, "kept", &["a"]).await;
    for n in 0..10 {
        cache.purge(Purge::Tag(format!("t{n}"))).await.expect("purged");
        assert!(cache.lookup("kept").await.expect("looked up").is_some());
    }
    let report = {
        cache.close().await.expect("closed");
        drop(cache);
        straightway_cache::fsck(scratch.path(), |_| {}).expect("checked")
    };
    assert!(report.is_clean() && report.objects == 1, "{report:?}");
}
