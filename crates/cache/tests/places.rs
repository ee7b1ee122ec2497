//! Where the file lies: a full disk, a file system in memory (where rewriting changes what is queued in sockets), a
//! block device, and each of the I/O backends.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use straightway_cache::{CacheError, IoMode, RawDiskCache, fsck};
use support::{KIB, MIB, PATIENCE, Scratch, body};

/// A small file system in memory; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(scratch: &Scratch, size: &str) -> Option<Self> {
        let place = scratch.path().with_extension("mount");
        std::fs::create_dir(&place).expect("a folder");
        let options = format!("size={size}");
        let mounted = quietly(
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&place),
        );
        mounted.then_some(Self(place))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        quietly(Command::new("umount").arg(&self.0));
    }
}

fn quietly(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// As [`RawDiskCache::new`] opens it, but for stores that wait for room as long as it takes.
async fn opened(path: &Path) -> Result<RawDiskCache, CacheError> {
    RawDiskCache::builder(path).size(16 << 20).pin_wait(PATIENCE).open().await
}

async fn works(cache: &RawDiskCache) {
    for len in [0, 500, 70 * KIB, 900 * KIB] {
        cache.store("object", body(len as u64, len)).await.expect("stored");
        assert!(
            cache.lookup("object").await.expect("read") == Some(body(len as u64, len)),
            "{len}"
        );
        assert!(
            cache.lookup_zero_copy("object").await.expect("read") == Some(body(len as u64, len)),
            "{len}"
        );
    }
    for key in 0..60u64 {
        cache.store(&format!("k{key}"), body(key, 300 * KIB)).await.expect("stored");
    }
    let last = cache.lookup_zero_copy("k59").await.expect("read").expect("the youngest is there");
    assert!(last == body(59, 300 * KIB));
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_left_behind() {
    let scratch = Scratch::new();
    let Some(place) = Mounted::tmpfs(&scratch, "2m") else {
        println!("SKIP mounting a file system needs root: a full disk was not tried");
        return;
    };
    let path = place.0.join("c");
    let refused = RawDiskCache::new(&path, 16 << 20, 4096, Duration::ZERO).await;
    assert!(matches!(refused, Err(CacheError::DiskFull { .. })), "{refused:?}");
    assert!(!path.exists(), "the partial file is removed");
}

#[tokio::test]
async fn a_file_in_memory_works_and_sendfile_is_used_only_if_it_is_safe_there() {
    let scratch = Scratch::new();
    let Some(place) = Mounted::tmpfs(&scratch, "32m") else {
        println!("SKIP mounting a file system needs root: tmpfs was not tried");
        return;
    };
    let cache = opened(&place.0.join("c")).await.expect("opened");
    assert!(
        !cache.info().sendfile,
        "rewriting shared pages changes what is queued: {:?}",
        cache.info()
    );
    works(&cache).await;
    cache.close().await.expect("closed");
}

#[tokio::test]
async fn a_block_device_works_and_survives_reopening() {
    let scratch = Scratch::new();
    let image = scratch.path().with_extension("image");
    std::fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("an image");
    let attached = Command::new("losetup").args(["-f", "--show"]).arg(&image).output();
    let device = attached
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let Some(device) = device else {
        println!("SKIP no loop device here: block devices were not tried");
        return;
    };
    let outcome = tokio::spawn(use_device(PathBuf::from(&device))).await;
    quietly(Command::new("losetup").args(["-d", &device]));
    outcome.expect("the device works");
}

/// Who looks after a system's devices (udev) locks one that was just attached or written, for a moment.
async fn opened_device(device: &Path) -> Result<RawDiskCache, CacheError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match opened(device).await {
            Err(CacheError::InUse { .. }) if Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            outcome => return outcome,
        }
    }
}

async fn use_device(device: PathBuf) {
    let cache = opened_device(&device).await.expect("an empty device is formatted");
    works(&cache).await;
    cache.close().await.expect("closed");
    drop(cache);
    let deadline = Instant::now() + PATIENCE;
    let checked = loop {
        match fsck(&device, |_| {}) {
            Err(CacheError::InUse { .. }) if Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            outcome => break outcome,
        }
    };
    assert!(checked.expect("checked").is_clean());
    let cache = opened_device(&device).await.expect("opened again");
    assert!(cache.contains("k59").await.expect("looked up"));
    let too_large = RawDiskCache::new(Path::new("/dev/null"), 16 << 20, 4096, Duration::ZERO).await;
    assert!(too_large.is_err(), "a character device is no cache");
}

#[tokio::test]
async fn every_backend_reads_what_every_other_wrote() {
    let scratch = Scratch::new();
    for (round, mode) in
        [IoMode::Standard, IoMode::IoUring, IoMode::Portable, IoMode::Auto].into_iter().enumerate()
    {
        let cache = match scratch.builder(16 * MIB).io(mode).open().await {
            Err(CacheError::EngineUnavailable { .. }) => {
                println!("SKIP this kernel refuses io_uring");
                continue;
            }
            other => other.expect("opened"),
        };
        for before in 0..round {
            let found = cache.lookup(&format!("round-{before}")).await.expect("read");
            assert!(
                found.is_none_or(|found| found == body(before as u64, 200 * KIB)),
                "{mode:?} reads round {before}"
            );
        }
        works(&cache).await;
        cache
            .store(&format!("round-{round}"), body(round as u64, 200 * KIB))
            .await
            .expect("stored");
        cache.close().await.expect("closed");
    }
}
