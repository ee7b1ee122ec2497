//! The cache itself: what callers hold.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use straightway_buffer::{LargeBufferPool, Reason};

use crate::commit::{Change, Current, Why};
use crate::config::CacheBuilder;
use crate::core::Core;
use crate::error::CacheError;
use crate::iter::ObjectIter;
use crate::meta::{ObjectMeta, check_key};
use crate::open::{Opened, open};
use crate::purge::{Purge, Purged};
use crate::read::Object;
use crate::segment::space::Kind;
use crate::stats::{CacheStats, ZeroCopyStats};
use crate::threads::Threads;
use crate::write::{Expect, ObjectWriter, StoreOptions, Stored};
use crate::zero_copy::{FileRange, ReadPath, ZeroCopyManager};

/// Objects whose removals are under way at once in [`RawDiskCache::discard`].
const DISCARDED_TOGETHER: usize = 64;

/// A cache in one preallocated file or block device. Clones share it; the last one dropped stops its threads.
#[derive(Debug, Clone)]
pub struct RawDiskCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    threads: Threads,
    info: CacheInfo,
}

/// A run of adjacent regions that is filled from its start and freed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first region.
    pub first_region: u32,
    /// How many regions it takes.
    pub regions: u32,
    /// What is in it.
    pub kind: SegmentKind,
    /// Bytes of live extents in it, estimated.
    pub live_bytes: u64,
    /// Whether it is still being filled.
    pub open: bool,
}

/// What a segment holds: objects below 64 KiB or larger ones, on their first life or kept because they were used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// Small objects on their first life.
    SmallNew,
    /// Large objects on their first life.
    LargeNew,
    /// Small objects that were used.
    SmallKept,
    /// Large objects that were used.
    LargeKept,
}

/// What a cache found out about itself when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheInfo {
    /// The I/O backend in use.
    pub engine: &'static str,
    /// Whether writes bypass the page cache.
    pub direct: bool,
    /// Whether the file is mapped.
    pub mapped: bool,
    /// Whether `sendfile` was found safe against rewriting, and is used.
    pub sendfile: bool,
    /// Bytes of the data area.
    pub capacity: u64,
    /// Size of a region in bytes.
    pub region_size: u64,
    /// Number of regions.
    pub regions: u32,
    /// Objects that the index can hold.
    pub index_slots: u64,
    /// Memory that the index takes, in bytes.
    pub index_bytes: u64,
    /// Largest object in bytes.
    pub max_object: u64,
    /// Objects found when the cache was opened.
    pub recovered_objects: u64,
    /// How long opening took, in microseconds.
    pub recovery_us: u64,
}

impl RawDiskCache {
    /// Opens the cache at `path`, creating it with `size` bytes when it does not exist. A zero `ttl` means that objects
    /// do not expire.
    ///
    /// # Errors
    /// [`CacheError::Geometry`] for sizes that do not fit together, [`CacheError::InUse`], [`CacheError::Foreign`],
    /// [`CacheError::NewerFormat`], [`CacheError::Damaged`], [`CacheError::DiskFull`], [`CacheError::Io`].
    pub async fn new(
        path: impl AsRef<Path>,
        size: u64,
        block_size: u32,
        ttl: Duration,
    ) -> Result<Self, CacheError> {
        Self::builder(path).size(size).block_size(block_size).ttl(ttl).open().await
    }

    /// All settings.
    pub fn builder(path: impl AsRef<Path>) -> CacheBuilder {
        CacheBuilder::new(path.as_ref())
    }

    pub(crate) async fn open_with(builder: CacheBuilder) -> Result<Self, CacheError> {
        let path = builder.path.clone();
        let opening = tokio::task::spawn_blocking(move || open(builder));
        let Opened { core, queues, info } = opening.await.map_err(|error| CacheError::Io {
            what: "opening the cache",
            path,
            source: io::Error::other(error),
        })??;
        let threads = Threads::start(&core, queues)?;
        Ok(Self(Arc::new(Shared { core, threads, info })))
    }

    /// Stores `data` under `key`.
    ///
    /// When this returns, the object survives the death of the process; one that replaced another is on the medium.
    pub async fn store(&self, key: &str, data: Bytes) -> Result<(), CacheError> {
        self.store_with(key, data, StoreOptions::default()).await.map(|_| ())
    }

    /// Stores `data` under `key` with its own lifetime, type, tags or precondition.
    pub async fn store_with(
        &self,
        key: &str,
        data: Bytes,
        options: StoreOptions,
    ) -> Result<Stored, CacheError> {
        let mut writer = self.writer(key, Some(data.len() as u64), options).await?;
        writer.write(&data).await?;
        writer.finish(None).await
    }

    /// Stores a body as it arrives, of known or unknown length, without holding it in memory.
    ///
    /// # Errors
    /// [`CacheError::Body`] when the stream fails: nothing is stored then.
    pub async fn store_stream<S, E>(
        &self,
        key: &str,
        len: Option<u64>,
        mut body: S,
        options: StoreOptions,
    ) -> Result<Stored, CacheError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::error::Error + Send + Sync + 'static,
    {
        let mut writer = self.writer(key, len, options).await?;
        while let Some(chunk) = next(&mut body).await {
            let chunk = chunk.map_err(|source| CacheError::Body {
                key: key.to_owned(),
                received: writer.written(),
                source: Box::new(source),
            })?;
            writer.write(&chunk).await?;
        }
        writer.finish(None).await
    }

    /// Starts to store a body of known or unknown length.
    #[expect(clippy::unused_async, reason = "may come to wait for admission")]
    pub async fn writer(
        &self,
        key: &str,
        len: Option<u64>,
        options: StoreOptions,
    ) -> Result<ObjectWriter, CacheError> {
        check_key(key)?;
        ObjectWriter::new(self.0.core.clone(), key, len, options)
    }

    /// The object's bytes, copied to the heap by `pread`.
    pub async fn lookup(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        match self.open(key).await? {
            Some(object) => object.read(0..object.len(), Reason::SmallRead).await.map(Some),
            None => Ok(None),
        }
    }

    /// The object's bytes as a slice of the mapping, pinned until the last clone of it is dropped. An object below
    /// [`mmap_threshold`](crate::ZeroCopyConfig::mmap_threshold), or any object where there is no mapping, is read into
    /// a buffer instead.
    pub async fn lookup_zero_copy(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let Some(object) = self.open(key).await? else { return Ok(None) };
        let manager = self.zero_copy();
        let mapped = object.len() >= manager.config().mmap_threshold as u64;
        let bytes = if mapped { object.bytes() } else { None };
        let Some(bytes) = bytes else {
            manager.count_skipped();
            return object.read(0..object.len(), Reason::SmallRead).await.map(Some);
        };
        // Verified whole before it is handed out: nobody checks it afterwards.
        object.verify().await?;
        manager.count_mapped(object.len());
        Ok(Some(bytes))
    }

    /// Opens an object for reading in parts. Counts a hit or a miss.
    pub async fn open(&self, key: &str) -> Result<Option<Object>, CacheError> {
        self.0.core.open(key).await
    }

    /// Sends the object's bytes to a socket; `None` when there is no such object. Waits while a non-blocking socket is
    /// full; a blocking one is written to on a thread that may block.
    pub async fn sendfile_to_socket(
        &self,
        key: &str,
        socket: impl AsFd,
    ) -> Result<Option<u64>, CacheError> {
        match self.open(key).await? {
            Some(object) => crate::send::send_object(self, &object, socket.as_fd()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Removes an object. When this returns, the removal is on the medium: no crash brings the object back.
    /// `false`: there was none.
    pub async fn remove(&self, key: &str) -> Result<bool, CacheError> {
        self.remove_if(key, Expect::Any).await
    }

    /// As [`Self::remove`], if `expect` holds at the moment the removal takes effect.
    ///
    /// # Errors
    /// [`CacheError::PreconditionFailed`] when it does not; nothing is removed then.
    pub async fn remove_if(&self, key: &str, expect: Expect) -> Result<bool, CacheError> {
        check_key(key)?;
        let core = &self.0.core;
        let live = core.peek(key).await?;
        let hash = core.hash(key);
        let failed = || CacheError::PreconditionFailed { key: key.to_owned() };
        let current = match (expect, &live) {
            (Expect::Any, _) => Current::Any,
            (Expect::Absent, None) => return Ok(false),
            (Expect::Version(version), Some(entry)) if entry.version == version => {
                Current::Is(Some(entry.location()))
            }
            _ => return Err(failed()),
        };
        let live = live.is_some();
        let why = Why::Removed { key: key.to_owned(), live };
        let committed = core.committer.commit(Change::Remove { hash, current, why }, None).await?;
        if !committed.applied {
            return Err(failed());
        }
        Ok(live && committed.previous.is_some())
    }

    /// Lets objects go whose keys nobody asks for any more: no lookup finds them when this returns, but nothing is flushed
    /// for it, so that a crash may bring them back, and observers are not told. Cheaper than [`Self::remove`] by a read
    /// and a flush each.
    pub async fn discard(&self, keys: &[String]) -> Result<(), CacheError> {
        let core = &self.0.core;
        for some in keys.chunks(DISCARDED_TOGETHER) {
            let change = |key: &String| Change::Remove {
                hash: core.hash(key),
                current: Current::Any,
                why: Why::Discarded,
            };
            core.committer.commit_all(some.iter().map(change).collect()).await?;
        }
        Ok(())
    }

    /// Purges: takes effect in constant time, however many objects are covered, and for all of them at once. When this
    /// returns, no lookup finds a covered object, whatever crashes; what was found before may still be read to its end.
    /// An upload that began before the purge is purged with the rest.
    ///
    /// The answer waits at most 5 s for the objects to be counted.
    ///
    /// # Errors
    /// [`CacheError::InvalidKey`] for an empty or too long prefix or tag, [`CacheError::TooManyPurges`] when 64 purges
    /// or more are not swept yet.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use straightway_cache::{Purge, RawDiskCache};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = RawDiskCache::new(dir.path().join("c"), 4 << 20, 4096, Duration::ZERO).await?;
    /// cache.store("img/1", bytes::Bytes::from_static(b"one")).await?;
    /// cache.store("img/2", bytes::Bytes::from_static(b"two")).await?;
    /// cache.store("css/1", bytes::Bytes::from_static(b"three")).await?;
    /// let purged = cache.purge(Purge::Prefix("img/".into())).await?;
    /// assert_eq!((purged.objects, purged.complete), (2, true));
    /// assert!(!cache.contains("img/1").await? && cache.contains("css/1").await?);
    /// # Ok(()) }
    /// ```
    pub async fn purge(&self, what: Purge) -> Result<Purged, CacheError> {
        crate::purge::purge(&self.0.core, what).await
    }

    /// Whether a live object has this key. Not counted as a hit.
    pub async fn contains(&self, key: &str) -> Result<bool, CacheError> {
        Ok(self.0.core.peek(key).await?.is_some())
    }

    /// Looks at an object's description without counting a hit or keeping it alive.
    pub async fn stat(&self, key: &str) -> Result<Option<ObjectMeta>, CacheError> {
        Ok(self.0.core.peek(key).await?.map(|entry| entry.meta.clone()))
    }

    /// Walks over all objects.
    #[expect(
        clippy::iter_not_returning_iterator,
        reason = "reading a description may wait for the device"
    )]
    pub fn iter(&self) -> ObjectIter {
        self.iter_from(0)
    }

    /// Goes on where an earlier walk stood.
    pub fn iter_from(&self, cursor: u64) -> ObjectIter {
        ObjectIter::new(self.0.core.clone(), cursor)
    }

    /// Counters of the cache.
    pub fn stats(&self) -> CacheStats {
        let core = &self.0.core;
        CacheStats {
            objects: core.index.len() as u64,
            bytes: core.space.lock().map.live_bytes(),
            capacity: self.0.info.capacity,
            ..core.counters.snapshot()
        }
    }

    /// Counters of the zero-copy paths.
    #[expect(clippy::unused_async, reason = "the published signature is async")]
    pub async fn zero_copy_stats(&self) -> ZeroCopyStats {
        self.zero_copy_stats_now()
    }

    /// As [`Self::zero_copy_stats`], for callers that are not async.
    pub fn zero_copy_stats_now(&self) -> ZeroCopyStats {
        ZeroCopyStats { pins_held: self.0.core.pins.pins_held(), ..self.zero_copy().stats() }
    }

    /// Whether objects can be served from the mapping here.
    pub fn is_zero_copy_available(&self) -> bool {
        self.0.info.mapped
    }

    /// Thresholds and choices of the zero-copy paths.
    pub fn zero_copy(&self) -> &ZeroCopyManager {
        &self.0.core.zero_copy
    }

    /// The pool of aligned buffers that reads and writes go through.
    pub fn buffers(&self) -> &LargeBufferPool {
        &self.0.core.buffers
    }

    /// What was found at start.
    pub fn info(&self) -> &CacheInfo {
        &self.0.info
    }

    /// What the data area holds, segment by segment; regions that none of them names are free.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let space = self.0.core.space.lock();
        let info = |segment: &crate::segment::space::Segment| SegmentInfo {
            first_region: segment.first,
            regions: segment.regions,
            kind: match segment.kind {
                Kind::SmallProbation => SegmentKind::SmallNew,
                Kind::LargeProbation => SegmentKind::LargeNew,
                Kind::SmallMain => SegmentKind::SmallKept,
                Kind::LargeMain => SegmentKind::LargeKept,
            },
            live_bytes: segment.live_bytes,
            open: segment.open,
        };
        space.map.segments().map(info).collect()
    }

    /// Memory that descriptions of objects take now, in bytes.
    pub fn metadata_cache_bytes(&self) -> u64 {
        self.0.core.entries.weight()
    }

    /// Where in the cache file a slice lies, if it is part of the mapping. Compares addresses only.
    pub fn locate(&self, slice: &[u8]) -> Option<FileRange> {
        self.0.core.mapped_file()?.locate(slice)
    }

    /// Sends part of the file to a socket without blocking; may send less than asked.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the socket is full, [`io::ErrorKind::UnexpectedEof`] when the file ends before
    /// the range does, [`io::ErrorKind::Unsupported`] where there is no `sendfile`.
    pub fn try_sendfile(&self, socket: BorrowedFd<'_>, range: FileRange) -> io::Result<usize> {
        let file = self.0.core.device.file().ok_or(io::ErrorKind::Unsupported)?;
        file.sendfile(socket, range)
    }

    /// Writes a last checkpoint and stops the background threads. Stores fail from then on; what was read stays valid.
    /// Calling it again does nothing.
    pub async fn close(&self) -> Result<(), CacheError> {
        let shared = self.0.clone();
        let closing = tokio::task::spawn_blocking(move || shared.threads.stop(&shared.core));
        closing.await.map_err(|_| CacheError::Closed)?
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    pub(crate) fn io_error(&self, what: &'static str, source: io::Error) -> CacheError {
        self.0.core.io_error(what, source)
    }

    /// Counts a transfer that the caller made of a slice of this cache.
    pub fn record(&self, path: ReadPath, bytes: u64) {
        self.zero_copy().record(path, bytes);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.threads.stop(&self.core) {
            tracing::warn!(%error, "the cache was not closed cleanly; it recovers when it is next opened");
        }
    }
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *stream).poll_next(context)).await
}
