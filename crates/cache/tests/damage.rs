//! Damage: flipped bits anywhere, a truncated file. What is damaged is a miss; everything else is served.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use straightway_cache::{CacheError, RawDiskCache};
use support::{KIB, MIB, Scratch, body};

const OBJECTS: u64 = 40;

fn len_of(key: u64) -> usize {
    if key.is_multiple_of(4) { 150 * KIB } else { 3 * KIB + usize::try_from(key).expect("small") }
}

async fn fill(scratch: &Scratch) {
    let cache = scratch.cache(16 * MIB).await;
    for key in 0..OBJECTS {
        cache.store(&format!("k{key}"), body(key, len_of(key))).await.expect("stored");
    }
    cache.close().await.expect("closed");
}

fn flip(path: &Path, offset: u64, bit: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset).expect("written");
}

/// How many objects are served right, and how many are missing; a wrong one fails the test.
async fn audit(cache: &RawDiskCache) -> (u64, u64) {
    let (mut right, mut missing) = (0, 0);
    for key in 0..OBJECTS {
        match cache.lookup_zero_copy(&format!("k{key}")).await.expect("looked up") {
            Some(bytes) => {
                assert!(bytes == body(key, len_of(key)), "k{key} is wrong");
                right += 1;
            }
            None => missing += 1,
        }
    }
    (right, missing)
}

#[tokio::test]
async fn one_flipped_bit_costs_at_most_one_object() {
    let scratch = Scratch::new();
    fill(&scratch).await;
    let pristine = std::fs::read(scratch.path()).expect("read");
    let used: Vec<u64> = (0..pristine.len() as u64)
        .filter(|o| pristine[usize::try_from(*o).expect("small")] != 0)
        .collect();
    let mut damaged = 0;
    // Every area of the file that holds anything, from the first superblock to the last extent.
    for step in 0..120u64 {
        let position = usize::try_from(step * (used.len() as u64 - 1) / 119).expect("small");
        let offset = used[position];
        std::fs::write(scratch.path(), &pristine).expect("restored");
        flip(&scratch.path(), offset, u8::try_from(step % 8).expect("small"));
        let cache = scratch.cache(16 * MIB).await;
        let (right, missing) = audit(&cache).await;
        assert!(missing <= 1, "{missing} objects lost to one bit at {offset}");
        assert_eq!(right + missing, OBJECTS);
        assert_eq!(cache.stats().checksum_failures, missing, "counted, at {offset}");
        let (right_again, _) = audit(&cache).await;
        assert_eq!(right_again, right, "a miss stays a miss");
        assert_eq!(cache.stats().checksum_failures, missing, "and is counted once");
        damaged += missing;
    }
    assert!(damaged > 0, "no bit hit an object: that proves nothing");
}

#[tokio::test]
async fn metadata_that_is_damaged_in_one_copy_costs_nothing() {
    let scratch = Scratch::new();
    fill(&scratch).await;
    let pristine = std::fs::read(scratch.path()).expect("read");
    for offset in [8, 64, 4096 + 8, 4096 + 64] {
        std::fs::write(scratch.path(), &pristine).expect("restored");
        flip(&scratch.path(), offset, 3);
        let cache = scratch.cache(16 * MIB).await;
        assert_eq!(audit(&cache).await, (OBJECTS, 0), "superblock byte {offset}");
        // Opening has mended the bad copy: the other one may now be damaged.
        let mended = std::fs::read(scratch.path()).expect("read");
        assert!(mended[..8192] == pristine[..8192], "superblock byte {offset}");
    }
}

#[tokio::test]
async fn both_superblocks_damaged_is_refused_and_the_file_left_alone() {
    let scratch = Scratch::new();
    fill(&scratch).await;
    flip(&scratch.path(), 64, 0);
    flip(&scratch.path(), 4096 + 64, 0);
    let before = std::fs::read(scratch.path()).expect("read");
    let refused = scratch.builder(16 * MIB).open().await;
    assert!(matches!(refused, Err(CacheError::Damaged { .. })), "{refused:?}");
    assert_eq!(std::fs::read(scratch.path()).expect("read"), before);
    let formatted = scratch.builder(16 * MIB).format(true).open().await.expect("formatted");
    assert_eq!(audit(&formatted).await, (0, OBJECTS));
}

#[tokio::test]
async fn a_file_truncated_while_open_gives_misses_and_errors_and_no_crash() {
    let scratch = Scratch::new();
    let cache = scratch.cache(16 * MIB).await;
    for key in 0..OBJECTS {
        cache.store(&format!("k{key}"), body(key, len_of(key))).await.expect("stored");
    }
    OpenOptions::new()
        .write(true)
        .open(scratch.path())
        .expect("opened")
        .set_len(4096)
        .expect("truncated");
    for key in 0..OBJECTS {
        let name = format!("k{key}");
        let opened = cache.open(&name).await.expect("a miss is no error");
        assert!(opened.is_none(), "{name} cannot be verified any more");
    }
    assert!(cache.stats().io_errors > 0);
}
