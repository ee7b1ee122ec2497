//! Objects that nobody asks for any more are let go without a flush each.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use support::{KIB, MIB, Scratch, body};

#[tokio::test]
async fn discarded_objects_are_gone_and_nothing_is_flushed_for_it() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    let names: Vec<String> = (0..300).map(|n| format!("old-{n}")).collect();
    for name in names.iter().map(String::as_str).chain(["kept"]) {
        cache.store(name, body(7, 2 * KIB)).await.expect("stored");
    }
    let before = cache.stats();
    let unknown = "never-stored".to_owned();
    cache.discard(&[&names[..], &[unknown]].concat()).await.expect("discarded");
    let after = cache.stats();
    assert_eq!(after.journal_flushes, before.journal_flushes);
    assert_eq!((after.removes - before.removes, after.objects), (300, 1));
    for name in &names {
        assert!(!cache.contains(name).await.expect("looked up"), "{name} is still there");
    }
    assert!(cache.lookup("kept").await.expect("looked up").is_some());

    // A removal that somebody waits for is flushed, and takes the ones before it along.
    cache.remove("kept").await.expect("removed");
    assert_eq!(cache.stats().journal_flushes, after.journal_flushes + 1);
    cache.close().await.expect("closed");
    drop(cache);
    let again = scratch.cache(16 * MIB).await;
    assert_eq!(again.stats().objects, 0);
}
