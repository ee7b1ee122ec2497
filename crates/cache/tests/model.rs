//! The cache against a map: any sequence of operations, and any interleaving of them, gives what a map would give, or a
//! miss where the cache was free to evict.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use straightway_cache::{CacheError, Expect, RawDiskCache, StoreOptions};
use support::{KIB, MIB, Scratch, body, nothing_is_pinned};

#[derive(Debug, Clone)]
enum Op {
    Store(u8, usize),
    StoreUnknownLength(u8, usize),
    StoreIfAbsent(u8, usize),
    Abandon(u8, usize),
    Remove(u8),
    Lookup(u8),
    LookupMapped(u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..8u8;
    let len = prop_oneof![0..200usize, 4000..4200usize, 65_000..66_000usize, 100_000..700_000usize];
    prop_oneof![
        4 => (key.clone(), len.clone()).prop_map(|(k, l)| Op::Store(k, l)),
        2 => (key.clone(), len.clone()).prop_map(|(k, l)| Op::StoreUnknownLength(k, l)),
        1 => (key.clone(), len.clone()).prop_map(|(k, l)| Op::StoreIfAbsent(k, l)),
        1 => (key.clone(), len).prop_map(|(k, l)| Op::Abandon(k, l)),
        2 => key.clone().prop_map(Op::Remove),
        3 => key.clone().prop_map(Op::Lookup),
        3 => key.prop_map(Op::LookupMapped),
        1 => Just(Op::Reopen),
    ]
}

type Model = HashMap<u8, (u64, usize)>;

async fn check(cache: &RawDiskCache, key: u8, model: &Model, mapped: bool) {
    let name = format!("key-{key}");
    let found =
        if mapped { cache.lookup_zero_copy(&name).await } else { cache.lookup(&name).await }
            .expect("looked up");
    match (found, model.get(&key)) {
        (None, None) => {}
        (Some(found), Some((seed, len))) => {
            assert!(found == body(*seed, *len), "{name}: not what was stored last");
        }
        // Small enough that nothing is ever evicted here.
        (found, expected) => panic!(
            "{name}: found {:?} bytes where {expected:?} was expected",
            found.map(|f| f.len())
        ),
    }
}

async fn put(
    cache: &RawDiskCache,
    key: u8,
    seed: u64,
    len: usize,
    known: bool,
    expect: Expect,
) -> Result<(), CacheError> {
    let announced = known.then_some(len as u64);
    let options = StoreOptions { expect, ..StoreOptions::default() };
    let mut writer = cache.writer(&format!("key-{key}"), announced, options).await?;
    for chunk in body(seed, len).chunks(37_000) {
        writer.write(chunk).await?;
    }
    writer.finish(None).await.map(|_| ())
}

async fn run(ops: Vec<Op>) {
    let scratch = Scratch::new();
    let mut cache = scratch.cache(64 * MIB).await;
    let mut model = Model::new();
    for (seed, op) in (1u64..).zip(ops) {
        match op {
            Op::Store(key, len) => {
                put(&cache, key, seed, len, true, Expect::Any).await.expect("stored");
                model.insert(key, (seed, len));
            }
            Op::StoreUnknownLength(key, len) => {
                put(&cache, key, seed, len, false, Expect::Any).await.expect("stored");
                model.insert(key, (seed, len));
            }
            Op::StoreIfAbsent(key, len) => match put(&cache, key, seed, len, true, Expect::Absent)
                .await
            {
                Ok(()) => {
                    assert!(model.insert(key, (seed, len)).is_none(), "stored over a live object");
                }
                Err(CacheError::PreconditionFailed { .. }) => assert!(model.contains_key(&key)),
                Err(error) => panic!("{error}"),
            },
            Op::Abandon(key, len) => {
                let mut writer = cache
                    .writer(&format!("key-{key}"), None, StoreOptions::default())
                    .await
                    .expect("a writer");
                writer.write(&body(seed, len)).await.expect("written");
            }
            Op::Remove(key) => {
                let removed = cache.remove(&format!("key-{key}")).await.expect("removed");
                assert_eq!(removed, model.remove(&key).is_some());
            }
            Op::Lookup(key) => check(&cache, key, &model, false).await,
            Op::LookupMapped(key) => check(&cache, key, &model, true).await,
            Op::Reopen => {
                cache.close().await.expect("closed");
                drop(cache);
                cache = scratch.reopened(64 * MIB).await;
            }
        }
    }
    for key in 0..8 {
        check(&cache, key, &model, true).await;
    }
    let mut walk = cache.iter();
    let mut seen = HashMap::new();
    while let Some(meta) = walk.next().await {
        let meta = meta.expect("read");
        assert!(seen.insert(meta.key.clone(), meta.len).is_none(), "{} twice", meta.key);
    }
    let expected: HashMap<String, u64> =
        model.iter().map(|(k, (_, len))| (format!("key-{k}"), *len as u64)).collect();
    assert_eq!(seen, expected);
    nothing_is_pinned(&cache).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_gives_what_a_map_would(ops in proptest::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(ops));
    }
}

/// Many tasks on the same few keys. Each body names its version; a lookup that starts after a store was acknowledged
/// must give that version or a later one (or a miss), and every byte must belong to the version it claims.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_the_same_keys_never_go_back_in_time() {
    const KEYS: usize = 4;
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    let acknowledged: Arc<Vec<AtomicU64>> =
        Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let mut tasks = Vec::new();
    for key in 0..KEYS {
        let (cache, acknowledged) = (cache.clone(), acknowledged.clone());
        tasks.push(tokio::spawn(async move {
            for version in 1..=60u64 {
                let len = 1000 + usize::try_from(version * 7919 % 200_000).expect("small");
                let data = versioned(key, version, len);
                match cache.store(&format!("k{key}"), data).await {
                    Ok(()) => acknowledged[key].store(version, Ordering::SeqCst),
                    Err(CacheError::NoSpace { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                if version % 13 == 0 {
                    cache.remove(&format!("k{key}")).await.expect("removed");
                }
            }
        }));
    }
    for reader in 0..4usize {
        let (cache, acknowledged) = (cache.clone(), acknowledged.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..300usize {
                let key = (round + reader) % KEYS;
                let least = acknowledged[key].load(Ordering::SeqCst);
                let name = format!("k{key}");
                let found = if round % 2 == 0 {
                    cache.lookup(&name).await
                } else {
                    cache.lookup_zero_copy(&name).await
                };
                if let Some(found) = found.expect("looked up") {
                    let version = u64::from_le_bytes(found[8..16].try_into().expect("eight bytes"));
                    assert!(
                        version >= least,
                        "{name}: version {version} after {least} was acknowledged"
                    );
                    assert!(found == versioned(key, version, found.len()), "{name}: mixed bytes");
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("no task failed");
    }
    nothing_is_pinned(&cache).await;
    assert_eq!(cache.stats().checksum_failures, 0);
}

fn versioned(key: usize, version: u64, len: usize) -> bytes::Bytes {
    let mut data = body(version << 8 | key as u64, len.max(16)).to_vec();
    data[..8].copy_from_slice(&(key as u64).to_le_bytes());
    data[8..16].copy_from_slice(&version.to_le_bytes());
    data.into()
}

/// Far more is stored than fits: everything that is found is right, and the cache never holds more than its size.
#[tokio::test]
async fn eviction_keeps_to_the_size_and_to_the_truth() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    for round in 0..3u64 {
        for key in 0..300u64 {
            let len = usize::try_from((key * 7919 + round * 104_729) % (300 * KIB as u64))
                .expect("small");
            cache.store(&format!("k{key}"), body(round << 32 | key, len)).await.expect("stored");
        }
    }
    let mut found = 0;
    for key in 0..300u64 {
        let len = usize::try_from((key * 7919 + 2 * 104_729) % (300 * KIB as u64)).expect("small");
        if let Some(bytes) = cache.lookup_zero_copy(&format!("k{key}")).await.expect("looked up") {
            assert!(bytes == body(2 << 32 | key, len), "k{key}");
            found += 1;
        }
    }
    let stats = cache.stats();
    assert!(stats.evictions > 0 && found > 20, "{found} found, {stats:?}");
    assert!(stats.bytes <= stats.capacity, "{stats:?}");
}
