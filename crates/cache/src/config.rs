//! How a cache is opened.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cache::RawDiskCache;
use crate::clock::{Clock, SystemClock};
use crate::error::CacheError;
use crate::io::IoMode;
use crate::observe::{NoObserver, Observer};
use crate::zero_copy::ZeroCopyConfig;

/// Settings of a cache; see each method for its default.
#[derive(Debug, Clone)]
pub struct CacheBuilder {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    pub(crate) ttl: Duration,
    pub(crate) io: IoMode,
    pub(crate) format: bool,
    pub(crate) max_object: Option<u64>,
    pub(crate) average_object: u64,
    pub(crate) verify_ahead: u64,
    pub(crate) scrub_rate: u64,
    pub(crate) zero_copy: ZeroCopyConfig,
    pub(crate) metadata_cache: u64,
    pub(crate) pin_wait: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl CacheBuilder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            size: 1 << 30,
            block_size: 4096,
            ttl: Duration::ZERO,
            io: IoMode::Auto,
            format: false,
            max_object: None,
            average_object: 8 * 1024,
            verify_ahead: 64 << 20,
            scrub_rate: 0,
            zero_copy: ZeroCopyConfig::default(),
            metadata_cache: 16 << 20,
            pin_wait: Duration::from_secs(5),
            clock: Arc::new(SystemClock),
            observer: Arc::new(NoObserver),
        }
    }

    /// Size of the file in bytes, metadata included (default 1 GiB). For a block device: at most the device's size.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = bytes;
        self
    }

    /// Alignment of large objects: a power of two from 512 B to 1 MiB (default 4096).
    #[must_use]
    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    /// Lifetime of objects stored without one of their own (default: none, they do not expire).
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The I/O backend (default [`IoMode::Auto`]).
    #[must_use]
    pub fn io(mut self, mode: IoMode) -> Self {
        self.io = mode;
        self
    }

    /// Whether a file that is not a cache, or a newer or damaged one, may be overwritten (default: no).
    #[must_use]
    pub fn format(mut self, yes: bool) -> Self {
        self.format = yes;
        self
    }

    /// Largest object in bytes (default: a quarter of the cache).
    #[must_use]
    pub fn max_object(mut self, bytes: u64) -> Self {
        self.max_object = Some(bytes);
        self
    }

    /// Expected mean object size in bytes; fixes the size of the index when the file is created (default 8 KiB).
    #[must_use]
    pub fn average_object(mut self, bytes: u64) -> Self {
        self.average_object = bytes;
        self
    }

    /// Objects up to this many bytes are verified whole before their first byte is served; larger ones window by
    /// window (default 64 MiB).
    #[must_use]
    pub fn verify_ahead(mut self, bytes: u64) -> Self {
        self.verify_ahead = bytes;
        self
    }

    /// Bytes per second that the background scrubber verifies; 0 turns it off (default).
    #[must_use]
    pub fn scrub_rate(mut self, bytes_per_second: u64) -> Self {
        self.scrub_rate = bytes_per_second;
        self
    }

    /// Thresholds of the zero-copy paths; changeable later through [`RawDiskCache::zero_copy`].
    #[must_use]
    pub fn zero_copy(mut self, config: ZeroCopyConfig) -> Self {
        self.zero_copy = config;
        self
    }

    /// Memory for descriptions of recently used objects, in bytes (default 16 MiB).
    #[must_use]
    pub fn metadata_cache(mut self, bytes: u64) -> Self {
        self.metadata_cache = bytes;
        self
    }

    /// How long a store may wait for readers to leave the space it needs (default 5 s).
    #[must_use]
    pub fn pin_wait(mut self, wait: Duration) -> Self {
        self.pin_wait = wait;
        self
    }

    /// The source of the time of day (default: the system's clock).
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Who hears of stored and removed objects (default: nobody).
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Opens the cache, creating the file when it does not exist.
    pub async fn open(self) -> Result<RawDiskCache, CacheError> {
        RawDiskCache::open_with(self).await
    }
}
