//! What the cache knows of an object besides its bytes, and the bounded memory of it.
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::core::UNIT_BYTES;
use crate::error::CacheError;
use crate::format::extent::{CHUNK_BYTES, ExtentView};
use crate::format::location::Location;

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 2048;

/// Which incarnation of an object: changes with every store of the key, and when the object is moved on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    pub(crate) unit: u64,
    pub(crate) seq: u64,
}

/// An object's description, as stored in front of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key it is stored under.
    pub key: String,
    /// Body length in bytes.
    pub len: u64,
    /// MIME type, when one was given.
    pub content_type: Option<String>,
    /// Tags for group invalidation.
    pub tags: Vec<String>,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub stored_ms: u64,
    /// When it stops being served, in milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
    /// When its content last changed, in milliseconds since the Unix epoch (the time of storing unless given).
    pub last_modified_ms: u64,
    /// SHA-256 of the body, when the writer computed it.
    pub digest: Option<[u8; 32]>,
}

impl ObjectMeta {
    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|end| now_ms >= end)
    }
}

/// Checks a key: 1 to 2048 bytes without NUL.
pub(crate) fn check_key(key: &str) -> Result<(), CacheError> {
    let reason = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "it is longer than 2048 bytes"
    } else if key.as_bytes().contains(&0) {
        "it holds a NUL byte"
    } else {
        return Ok(());
    };
    Err(CacheError::InvalidKey { reason })
}

/// An extent's description in memory: where its parts lie in the file, and which of them have been verified.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) meta: ObjectMeta,
    pub(crate) hash: u64,
    /// The purges that it comes after.
    pub(crate) generation: u64,
    /// The purges that it is known to have survived.
    judged: AtomicU64,
    pub(crate) version: Version,
    /// Absolute offset of the body.
    pub(crate) body: u64,
    /// Absolute offset of the checksums behind it.
    pub(crate) trailer: u64,
    pub(crate) extent_len: u64,
    verified: Box<[AtomicU64]>,
    /// Windows that are not verified yet: the whole is asked about in one step, whatever its size.
    unverified: AtomicU64,
    /// When the whole body was last found in memory, in milliseconds of the cache's life; 0: never.
    resident_ms: AtomicU64,
}

/// The body is verified in steps of this many bytes.
pub(crate) const WINDOW_BYTES: u64 = WINDOW as u64;
/// The same, as a length in memory.
pub(crate) const WINDOW: usize = 1 << 20;
/// Checksummed chunks in a window.
pub(crate) const WINDOW_CHUNKS: u64 = WINDOW_BYTES / CHUNK_BYTES as u64;

impl Entry {
    pub(crate) fn new(
        meta: ObjectMeta,
        hash: u64,
        generation: u64,
        version: Version,
        parts: Parts,
    ) -> Self {
        let windows = meta.len.div_ceil(WINDOW_BYTES);
        let words = usize::try_from(windows.div_ceil(64)).unwrap_or(usize::MAX);
        let verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        let Parts { body, trailer, extent_len } = parts;
        let (unverified, resident_ms) = (AtomicU64::new(windows), AtomicU64::new(0));
        Self {
            meta,
            hash,
            generation,
            judged: AtomicU64::new(generation),
            version,
            body,
            trailer,
            extent_len,
            verified,
            unverified,
            resident_ms,
        }
    }

    /// The entry for a header found at `offset`.
    pub(crate) fn from_view(view: &ExtentView<'_>, offset: u64, unit: u64) -> Self {
        let meta = ObjectMeta {
            key: view.key().to_owned(),
            len: view.body_len(),
            content_type: view.content_type().map(str::to_owned),
            tags: view.tags().map(str::to_owned).collect(),
            stored_ms: view.stored_ms(),
            expires_ms: view.expires_ms(),
            last_modified_ms: view.last_modified_ms(),
            digest: view.digest(),
        };
        let parts = Parts {
            body: offset + u64::from(view.body_offset()),
            trailer: offset + view.trailer_offset(),
            extent_len: view.extent_len(),
        };
        let version = Version { unit, seq: view.seq() };
        Self::new(meta, view.key_hash(), view.generation(), version, parts)
    }

    /// Where the index points to for this extent.
    pub(crate) fn location(&self) -> Location {
        Location::new(self.version.unit, self.version.seq, self.units())
    }

    /// The extent's length in units of the index.
    pub(crate) fn units(&self) -> u64 {
        self.extent_len / UNIT_BYTES
    }

    /// The windows that a range of the body touches.
    pub(crate) fn windows(range: &Range<u64>) -> Range<u64> {
        if range.is_empty() {
            0..0
        } else {
            range.start / WINDOW_BYTES..(range.end - 1) / WINDOW_BYTES + 1
        }
    }

    pub(crate) fn was_resident(&self, now_ms: u64, within_ms: u64) -> bool {
        let then_ms = self.resident_ms.load(Ordering::Relaxed);
        then_ms != 0 && now_ms.saturating_sub(then_ms) < within_ms
    }

    pub(crate) fn set_resident(&self, now_ms: u64) {
        self.resident_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// The newest generation whose purges are known not to cover it.
    pub(crate) fn judged(&self) -> u64 {
        self.judged.load(Ordering::Relaxed)
    }

    pub(crate) fn set_judged(&self, generation: u64) {
        self.judged.fetch_max(generation, Ordering::Relaxed);
    }

    pub(crate) fn is_verified(&self, window: u64) -> bool {
        let (word, bit) = Self::bit(window);
        self.verified.get(word).is_some_and(|w| w.load(Ordering::Acquire) & bit != 0)
    }

    pub(crate) fn set_verified(&self, window: u64) {
        let (word, bit) = Self::bit(window);
        if let Some(w) = self.verified.get(word)
            && w.fetch_or(bit, Ordering::AcqRel) & bit == 0
        {
            self.unverified.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether every window is verified.
    pub(crate) fn is_verified_whole(&self) -> bool {
        self.unverified.load(Ordering::Acquire) == 0
    }

    fn bit(window: u64) -> (usize, u64) {
        (usize::try_from(window / 64).unwrap_or(usize::MAX), 1 << (window % 64))
    }

    fn weight(&self) -> u64 {
        let tags: usize = self.meta.tags.iter().map(|tag| tag.len() + size_of::<String>()).sum();
        let text =
            self.meta.key.len() + self.meta.content_type.as_ref().map_or(0, String::len) + tags;
        // Two allocations' overhead, the map's own slot, and the entry.
        (size_of::<Self>() + text + self.verified.len() * 8 + 96) as u64
    }
}

/// Where an extent's parts lie in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) body: u64,
    pub(crate) trailer: u64,
    pub(crate) extent_len: u64,
}

/// Descriptions of recently used extents, bounded in bytes. Keyed by place and segment, which never name two extents.
#[derive(Debug)]
pub(crate) struct Entries {
    cache: Cache<Version, Arc<Entry>, ByWeight>,
}

#[derive(Debug, Clone)]
struct ByWeight;

impl Weighter<Version, Arc<Entry>> for ByWeight {
    fn weight(&self, _key: &Version, entry: &Arc<Entry>) -> u64 {
        entry.weight()
    }
}

impl Entries {
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let expected = usize::try_from(capacity_bytes / 400).unwrap_or(usize::MAX).max(16);
        Self { cache: Cache::with_weighter(expected, capacity_bytes.max(1), ByWeight) }
    }

    pub(crate) fn find(&self, version: Version) -> Option<Arc<Entry>> {
        self.cache.get(&version)
    }

    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        self.cache.insert(entry.version, entry);
    }

    pub(crate) fn remove(&self, version: Version) {
        self.cache.remove(&version);
    }

    pub(crate) fn weight(&self) -> u64 {
        self.cache.weight()
    }
}
