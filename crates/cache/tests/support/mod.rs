//! What the cache's tests share: a cache in a scratch folder, and bodies in which every byte can be told apart.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use straightway_cache::{CacheBuilder, CacheError, RawDiskCache};
use tempfile::TempDir;

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

/// How long is waited for what comes for certain, on a machine and a disk that others keep busy too.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A scratch folder beside the sources, so that the file lies on a real file system and not on tmpfs.
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        let here = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        Self { dir: TempDir::new_in(here).expect("a scratch folder") }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("test.cache")
    }

    /// A store that needs room waits for it as long as it takes: to make room is to flush.
    pub fn builder(&self, size: usize) -> CacheBuilder {
        RawDiskCache::builder(self.path()).size(size as u64).pin_wait(PATIENCE)
    }

    pub async fn cache(&self, size: usize) -> RawDiskCache {
        self.builder(size).open().await.expect("the cache opens")
    }

    /// As [`Self::cache`], after one of this file was closed: a write of an upload that was given up holds the file
    /// until the device is done with it.
    pub async fn reopened(&self, size: usize) -> RawDiskCache {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.builder(size).open().await {
                Err(CacheError::InUse { .. }) if Instant::now() < deadline => {
                    tokio::task::yield_now().await;
                }
                opened => return opened.expect("the cache opens"),
            }
        }
    }
}

/// Waits until nothing is pinned any more: the cache's own threads pin what they move, and writes of an upload that was
/// given up their place, after the test's own pins are gone. One that is forgotten stays for ever.
pub async fn nothing_is_pinned(cache: &RawDiskCache) {
    let deadline = Instant::now() + PATIENCE;
    while cache.zero_copy_stats().await.pins_held > 0 {
        assert!(Instant::now() < deadline, "{:?}", cache.zero_copy_stats().await);
        tokio::task::yield_now().await;
    }
}

/// Incompressible bytes that only this seed and offset have.
pub fn body(seed: u64, len: usize) -> Bytes {
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

/// Both ends of a connection.
pub fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    (client, listener.accept().expect("accepted").0)
}
