//! The zero-copy paths at work: small and large objects, both lookups beside each other, a mixed workload, statistics.
//!
//! ```sh
//! cargo run --release -p straightway-cache --example zero_copy_example
//! ```
use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use straightway_cache::{RawDiskCache, ZeroCopyConfig};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // In the current folder: on many systems the temporary one is memory, not a disk.
    let folder = tempfile::TempDir::new_in(".")?;
    let path = folder.path().join("example.cache");
    let cache = RawDiskCache::new(&path, 128 * MIB as u64, 4096, Duration::from_hours(1)).await?;
    println!("zero copy available: {}, {:?}", cache.is_zero_copy_available(), cache.info());
    small_and_large(&cache).await?;
    side_by_side(&cache).await?;
    mixed(&cache).await?;
    threshold_at_run_time(&cache).await?;
    print_statistics(&cache).await;
    cache.close().await?;
    Ok(())
}

/// Below 64 KiB an object is read into a pooled buffer; from 64 KiB on it is a slice of the mapping.
async fn small_and_large(cache: &RawDiskCache) -> Result<(), Box<dyn Error>> {
    for (key, len) in [("small", 4 * KIB), ("large", 4 * MIB)] {
        cache.store(key, noise(len as u64, len)).await?;
        let found = cache.lookup_zero_copy(key).await?.ok_or("a miss")?;
        assert_eq!(found, noise(len as u64, len));
        println!(
            "{key}: {len} bytes, {}",
            if cache.locate(&found).is_some() { "mapped" } else { "copied" }
        );
    }
    Ok(())
}

/// The published workload: 20 objects of 2 MiB, handed out and, since handing out reads nothing, also read.
async fn side_by_side(cache: &RawDiskCache) -> Result<(), Box<dyn Error>> {
    for n in 0..20 {
        cache.store(&format!("object-{n}"), noise(n, 2 * MIB)).await?;
        // Verified once, so that neither side pays for it.
        cache.lookup(&format!("object-{n}")).await?;
    }
    let started = Instant::now();
    for n in 0..20 {
        cache.lookup(&format!("object-{n}")).await?.ok_or("a miss")?;
    }
    let regular = started.elapsed();
    let started = Instant::now();
    for n in 0..20 {
        cache.lookup_zero_copy(&format!("object-{n}")).await?.ok_or("a miss")?;
    }
    let mapped = started.elapsed();
    println!(
        "20 x 2 MiB: regular {regular:?}, zero-copy {mapped:?}: handed out {:.0} times as fast",
        regular.as_secs_f64() / mapped.as_secs_f64()
    );
    Ok(())
}

/// Sizes as they come, with overwrites and removals in between.
async fn mixed(cache: &RawDiskCache) -> Result<(), Box<dyn Error>> {
    for n in 0..200u64 {
        let len = usize::try_from(n * 7919 % 300_000)?;
        let key = format!("mixed-{}", n % 50);
        cache.store(&key, noise(n, len)).await?;
        let found = cache.lookup_zero_copy(&key).await?.ok_or("a miss")?;
        assert_eq!(found, noise(n, len));
        if n % 10 == 0 {
            assert!(cache.remove(&key).await?);
            // What was handed out stays as it was.
            assert_eq!(found, noise(n, len));
        }
    }
    Ok(())
}

/// Settings change while the cache is in use.
async fn threshold_at_run_time(cache: &RawDiskCache) -> Result<(), Box<dyn Error>> {
    cache
        .zero_copy()
        .set_config(ZeroCopyConfig { mmap_threshold: KIB, ..cache.zero_copy().config() });
    let found = cache.lookup_zero_copy("small").await?.ok_or("a miss")?;
    println!(
        "small, with a threshold of 1 KiB: {}",
        if cache.locate(&found).is_some() { "mapped" } else { "copied" }
    );
    Ok(())
}

async fn print_statistics(cache: &RawDiskCache) {
    let stats = cache.zero_copy_stats().await;
    println!(
        "mmap reads: {} ({} MiB), skipped: {}",
        stats.mmap_reads,
        stats.mmap_bytes / MIB as u64,
        stats.mmap_skipped
    );
    println!("sendfile transfers: {} ({} bytes)", stats.sendfile_transfers, stats.sendfile_bytes);
    println!(
        "bytes copied per byte served: {:.3}",
        stats.bytes_copied as f64 / stats.bytes_served as f64
    );
    let total = stats.mmap_reads + stats.mmap_skipped;
    println!("efficiency: {:.1} %", stats.mmap_reads as f64 / total as f64 * 100.0);
    println!("{:?}", cache.stats());
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}
