//! Journal blocks that are lost in both copies, as a medium that lied about a flush would lose them: the cache may
//! forget, up to starting empty, but it never gives back an older version or a removed object.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use std::collections::BTreeMap;

use support::{KIB, MIB, Scratch, body};

const BLOCK: usize = 4096;

/// Where each journal block lies, by its number; two places each.
fn journal_blocks(image: &[u8]) -> BTreeMap<u64, Vec<usize>> {
    let mut found: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (n, block) in image.as_chunks::<BLOCK>().0.iter().enumerate() {
        if block.starts_with(b"SwJournl") {
            let seq = u64::from_le_bytes(block[16..24].try_into().expect("eight bytes"));
            found.entry(seq).or_default().push(n * BLOCK);
        }
    }
    found
}

#[tokio::test]
async fn a_lost_block_costs_objects_and_never_brings_back_older_ones() {
    let scratch = Scratch::new();
    // Large enough that no checkpoint is written meanwhile: the journal alone knows.
    let cache = scratch.cache(64 * MIB).await;
    // New keys, overwrites and removals, each in a journal block of its own.
    for key in 0..12u64 {
        cache.store(&format!("k{key}"), body(key, 2 * KIB)).await.expect("stored");
    }
    for key in 0..6u64 {
        cache.store(&format!("k{key}"), body(100 + key, 100 * KIB)).await.expect("stored again");
    }
    for key in [0, 6, 7] {
        cache.remove(&format!("k{key}")).await.expect("removed");
    }
    cache.store("last", body(500, 3 * KIB)).await.expect("stored");
    // As the file is now, without the checkpoint that closing would write.
    let image = std::fs::read(scratch.path()).expect("read");
    cache.close().await.expect("closed");
    drop(cache);
    let blocks = journal_blocks(&image);
    assert!(blocks.len() >= 20 && blocks.values().all(|places| places.len() == 2), "{blocks:?}");
    let (mut empty, mut partial) = (0, 0);
    for places in blocks.values() {
        let mut damaged = image.clone();
        for place in places {
            damaged[*place..place + BLOCK].fill(0);
        }
        std::fs::write(scratch.path(), &damaged).expect("written");
        let cache = scratch.cache(64 * MIB).await;
        let mut found = 0;
        for key in 0..12u64 {
            let Some(bytes) = cache.lookup(&format!("k{key}")).await.expect("looked up") else {
                continue;
            };
            found += 1;
            let right = match key {
                1..=5 => body(100 + key, 100 * KIB),
                8..=11 => body(key, 2 * KIB),
                _ => panic!("k{key} was removed"),
            };
            assert!(bytes == right, "k{key}: an older version came back");
        }
        if found == 0 {
            empty += 1;
        } else {
            partial += 1;
        }
        // And it works: what is stored from here on survives the next start.
        cache.store("after", body(9, 5 * KIB)).await.expect("stored");
        cache.close().await.expect("closed");
        drop(cache);
        let cache = scratch.cache(64 * MIB).await;
        assert_eq!(cache.lookup("after").await.expect("looked up"), Some(body(9, 5 * KIB)));
        cache.close().await.expect("closed");
    }
    println!(
        "{} blocks lost one at a time: {empty} empty starts, {partial} partial ones",
        blocks.len()
    );
    // The last blocks may be lost without anybody being able to tell; an earlier one may not.
    assert!(partial > 0 && empty > 0);
}
