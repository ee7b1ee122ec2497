//! Finding objects, and the pinned handle through which their bytes leave.
//!
//! A reader looks the key up in the index, pins the segment, and only then believes what it found: the description is
//! that of the pinned segment and its full key must match, so that an index slot read while it changed is a miss and
//! never another object's bytes.
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use straightway_buffer::{PooledBuffer, Reason};

use crate::core::{Core, UNIT_BYTES};
use crate::device::CacheFile;
use crate::error::CacheError;
use crate::format::crc32c;
use crate::format::extent::CHUNK_BYTES;
use crate::format::location::Location;
use crate::meta::{Entry, ObjectMeta, Version, WINDOW, WINDOW_BYTES, WINDOW_CHUNKS, check_key};
use crate::observe::Removal;
use crate::zero_copy::ReadPath;

/// A stored object, pinned: its bytes stay where they are until the last clone of it, or of its [`Bytes`], is dropped.
#[derive(Debug, Clone)]
pub struct Object(Arc<Pinned>);

#[derive(Debug)]
struct Pinned {
    core: Arc<Core>,
    entry: Arc<Entry>,
    location: Location,
    leader: u32,
    /// Set when a part of it was found damaged or unreadable.
    damaged: AtomicBool,
    since: Instant,
}

/// A pin that is older than this is given up when stores find no space.
const OVERDUE: Duration = Duration::from_secs(10);
/// What was found in memory is taken to be there for this long: what was just used is not what the kernel evicts.
const RESIDENT_FOR_MS: u64 = 100;

impl Drop for Pinned {
    fn drop(&mut self) {
        self.core.pins.unpin(self.leader);
        self.core.reclaim.nudge();
    }
}

/// The mapped body together with its pin: what a [`Bytes`] owns.
struct MappedBody {
    slice: crate::device::MappedSlice,
    _pinned: Arc<Pinned>,
}

impl AsRef<[u8]> for MappedBody {
    fn as_ref(&self) -> &[u8] {
        self.slice.as_ref()
    }
}

impl Object {
    /// Its description.
    pub fn meta(&self) -> &ObjectMeta {
        &self.0.entry.meta
    }

    /// Body length in bytes.
    pub fn len(&self) -> u64 {
        self.0.entry.meta.len
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which incarnation of the key this is.
    pub fn version(&self) -> Version {
        self.0.entry.version
    }

    /// The whole body as a slice of the mapping; `None` where there is no mapping. One small allocation, no copy,
    /// whatever the size.
    ///
    /// Whoever reads the slice's bytes reads the file: if another process truncates it, that is a SIGBUS. Handing the
    /// slice to a system call is safe (it fails with EFAULT).
    pub fn bytes(&self) -> Option<Bytes> {
        let file = self.0.core.mapped_file()?;
        let len = usize::try_from(self.len()).ok()?;
        if len == 0 {
            return Some(Bytes::new());
        }
        let slice = file.slice(self.0.entry.body, len)?;
        Some(Bytes::from_owner(MappedBody { slice, _pinned: self.0.clone() }))
    }

    /// Whether this range is verified and in memory, so that sending it neither blocks nor risks wrong bytes.
    pub fn is_ready(&self, range: Range<u64>) -> bool {
        let entry = &self.0.entry;
        Entry::windows(&range).all(|window| entry.is_verified(window)) && self.0.is_resident(&range)
    }

    /// Brings the range into memory and verifies it, off the caller's thread.
    ///
    /// # Errors
    /// [`CacheError::Corrupt`] when the bytes fail their checksum, [`CacheError::Io`] when they cannot be read; the
    /// object is dropped from the cache in both cases.
    pub async fn prepare(&self, range: Range<u64>) -> Result<(), CacheError> {
        self.check(&range)?;
        if self.is_ready(range.clone()) {
            return Ok(());
        }
        let pinned = self.0.clone();
        let job = self.0.core.blocking.run(move || pinned.warm(&range));
        job.await.ok_or(CacheError::Closed)?
    }

    /// Verifies what was not verified since the cache was opened; in memory or not does not matter. Costs nothing the
    /// second time, whatever the size.
    pub(crate) async fn verify(&self) -> Result<(), CacheError> {
        if self.0.entry.is_verified_whole() {
            return Ok(());
        }
        let pinned = self.0.clone();
        let whole = 0..self.len();
        let job = self.0.core.blocking.run(move || pinned.warm(&whole));
        job.await.ok_or(CacheError::Closed)?
    }

    /// Copies the range into a pooled buffer (or, over 64 KiB, a buffer of its own); counted under `reason`. Verifies what was not
    /// verified yet.
    pub async fn read(&self, range: Range<u64>, reason: Reason) -> Result<Bytes, CacheError> {
        self.check(&range)?;
        let core = &self.0.core;
        let started = Instant::now();
        if !self.is_ready(range.clone()) {
            self.prepare(range.clone()).await?;
        }
        let len = usize::try_from(range.end - range.start).map_err(|_| self.range_error(&range))?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = core.buffers.acquire(len)?;
        buffer.set_len(len)?;
        let offset = self.0.entry.body + range.start;
        // In memory by now: a read of the page cache does not block for long.
        core.device.read_at(&mut buffer, offset).map_err(|source| self.0.unreadable(source))?;
        straightway_buffer::count_copied(len, reason);
        core.zero_copy.count_copied(len as u64);
        core.zero_copy.record(ReadPath::Pread, len as u64);
        let spent = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        core.zero_copy.observe_copy(self.len(), spent);
        Ok(buffer.freeze())
    }

    /// Hints that the range will be wanted soon; returns at once.
    pub fn prefetch(&self, range: Range<u64>) {
        if self.check(&range).is_err() || self.is_ready(range.clone()) {
            return;
        }
        let pinned = self.0.clone();
        self.0.core.blocking.try_run(move || drop(pinned.warm(&range)));
    }

    /// Whether the space is wanted and this pin is overdue: end the response.
    pub fn is_revoked(&self) -> bool {
        self.0.damaged.load(Ordering::Relaxed)
            || (self.0.core.reclaim.is_pressed() && self.0.since.elapsed() > OVERDUE)
    }

    /// Absolute offset of the body in the file.
    pub(crate) fn body_offset(&self) -> u64 {
        self.0.entry.body
    }

    /// Pins what a location of the index points to, on a thread that may block.
    pub(crate) fn pin_blocking(
        core: &Arc<Core>,
        hash: u64,
        location: Location,
    ) -> Result<Self, CacheError> {
        let pinned = core
            .region_of(location)
            .and_then(|region| core.pins.try_pin(region, location.seq_bits()));
        let (leader, seq) = pinned.ok_or(CacheError::Closed)?;
        let guard = Unpin::new(core, leader);
        let version = Version { unit: location.unit(), seq };
        let entry = match core.entries.find(version) {
            Some(entry) => entry,
            None => core
                .load_blocking(version)
                .inspect_err(|_| core.forget_unreadable(hash, location))?,
        };
        std::mem::forget(guard);
        Ok(Self(Arc::new(Pinned {
            core: core.clone(),
            entry,
            location,
            leader,
            damaged: AtomicBool::new(false),
            since: Instant::now(),
        })))
    }

    /// Verifies the whole body, in memory or not, on a thread that may block; ends early when `go_on`, told the bytes of
    /// each window, says so.
    pub(crate) fn verify_blocking(
        &self,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), CacheError> {
        let mut buffer = self.0.core.buffers.acquire(CHUNK_BYTES)?;
        for window in Entry::windows(&(0..self.len())) {
            let bytes = window * WINDOW_BYTES..((window + 1) * WINDOW_BYTES).min(self.len());
            let len = bytes.end - bytes.start;
            self.0.verify_window(window, bytes, &mut buffer)?;
            if !go_on(len) {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn location(&self) -> Location {
        self.0.location
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.0.entry
    }

    fn check(&self, range: &Range<u64>) -> Result<(), CacheError> {
        if range.start <= range.end && range.end <= self.len() {
            Ok(())
        } else {
            Err(self.range_error(range))
        }
    }

    fn range_error(&self, range: &Range<u64>) -> CacheError {
        CacheError::Range { start: range.start, end: range.end, len: self.len() }
    }
}

impl Pinned {
    /// Whether the range is in memory. A small object that was whole in memory a moment ago is not asked about again:
    /// were that wrong, a send would wait for the disk, and nothing worse.
    fn is_resident(&self, range: &Range<u64>) -> bool {
        let Some(file) = self.core.device.file() else { return true };
        let small = self.entry.meta.len <= WINDOW_BYTES;
        let now_ms = self.core.up_ms(self.since);
        if small && self.entry.was_resident(now_ms, RESIDENT_FOR_MS) {
            return true;
        }
        let resident =
            file.resident(self.entry.body + range.start, range.end - range.start).unwrap_or(true);
        if small && resident && range.end - range.start == self.entry.meta.len {
            self.entry.set_resident(now_ms);
        }
        resident
    }

    /// Reads and verifies every window of the range that is not both in memory and verified. Runs where blocking is
    /// allowed. Reading through the page cache is what warms it for `sendfile`; an I/O error is an error here and not
    /// a SIGBUS later.
    fn warm(&self, range: &Range<u64>) -> Result<(), CacheError> {
        let mut buffer = None;
        for window in Entry::windows(range) {
            let bytes =
                window * WINDOW_BYTES..((window + 1) * WINDOW_BYTES).min(self.entry.meta.len);
            if self.entry.is_verified(window) && self.is_resident(&bytes) {
                continue;
            }
            let buffer = match &mut buffer {
                Some(buffer) => buffer,
                none => none.insert(self.core.buffers.acquire(CHUNK_BYTES)?),
            };
            self.core.zero_copy.count_cold();
            self.read_ahead(bytes.start, range.end);
            self.verify_window(window, bytes, buffer)?;
        }
        Ok(())
    }

    /// Has the device read this window and the next while the first is verified.
    fn read_ahead(&self, from: u64, end: u64) {
        if let Some(file) = self.core.device.file() {
            let len = (2 * WINDOW_BYTES).min(end.saturating_sub(from));
            file.will_need(self.entry.body + from, len);
        }
    }

    fn verify_window(
        &self,
        window: u64,
        bytes: Range<u64>,
        buffer: &mut PooledBuffer,
    ) -> Result<(), CacheError> {
        let first_chunk = window * WINDOW_CHUNKS;
        let chunks =
            usize::try_from((bytes.end - bytes.start).div_ceil(CHUNK_BYTES as u64)).unwrap_or(0);
        let mut sums = [0u8; 4 * (WINDOW / CHUNK_BYTES)];
        let sums = &mut sums[..4 * chunks];
        self.core
            .device
            .read_at(sums, self.entry.trailer + 4 * first_chunk)
            .map_err(|source| self.unreadable(source))?;
        let mut at = bytes.start;
        for expected in sums.chunks_exact(4) {
            let len =
                usize::try_from((bytes.end - at).min(CHUNK_BYTES as u64)).unwrap_or(CHUNK_BYTES);
            buffer.set_len(len)?;
            self.core
                .device
                .read_at(buffer, self.entry.body + at)
                .map_err(|source| self.unreadable(source))?;
            if crc32c(buffer).to_le_bytes() != expected {
                self.damaged.store(true, Ordering::Relaxed);
                self.core.drop_found(&self.entry, self.location, Removal::Corrupt);
                return Err(CacheError::Corrupt { key: self.entry.meta.key.clone() });
            }
            at += len as u64;
        }
        self.entry.set_verified(window);
        Ok(())
    }

    /// What cannot be read is not worth keeping: the next reader gets a miss.
    fn unreadable(&self, source: io::Error) -> CacheError {
        self.damaged.store(true, Ordering::Relaxed);
        self.core.drop_found(&self.entry, self.location, Removal::Corrupt);
        self.core.io_error("reading an object", source)
    }
}

impl Core {
    /// The file, where it is mapped.
    pub(crate) fn mapped_file(&self) -> Option<&CacheFile> {
        self.device.file().filter(|file| file.is_mapped())
    }

    /// Pins and describes the live object of a key. Does not count, verify or keep it alive.
    async fn find(self: &Arc<Self>, key: &str) -> Result<Option<Object>, CacheError> {
        check_key(key)?;
        let hash = self.hash(key);
        let Some(location) = self.index.find(hash) else { return Ok(None) };
        let Some(region) = self.region_of(location) else { return Ok(None) };
        let Some((leader, seq)) = self.pins.try_pin(region, location.seq_bits()) else {
            return Ok(None);
        };
        let version = Version { unit: location.unit(), seq };
        let guard = Unpin::new(self, leader);
        let known = self.entries.find(version);
        let entry = if known.is_some() { known } else { self.load(version).await? };
        let Some(entry) = entry else {
            self.forget_unreadable(hash, location);
            return Ok(None);
        };
        if entry.meta.key != key {
            return Ok(None);
        }
        std::mem::forget(guard);
        let object = Object(Arc::new(Pinned {
            core: self.clone(),
            entry,
            location,
            leader,
            damaged: AtomicBool::new(false),
            since: Instant::now(),
        }));
        if self.rules.is_purged(object.entry()) {
            return Ok(None);
        }
        if object.meta().is_expired(self.clock.now_ms()) {
            self.drop_found(object.entry(), location, Removal::Expired);
            return Ok(None);
        }
        Ok(Some(object))
    }

    /// The live object's description, without counting.
    pub(crate) async fn peek(
        self: &Arc<Self>,
        key: &str,
    ) -> Result<Option<Arc<Entry>>, CacheError> {
        Ok(self.find(key).await?.map(|object| object.entry().clone()))
    }

    /// Finds an object for a reader: counts, keeps it alive, and verifies it whole when it is small enough.
    pub(crate) async fn open(self: &Arc<Self>, key: &str) -> Result<Option<Object>, CacheError> {
        let found = self.find(key).await?;
        let Some(object) = found else {
            self.counters.misses.add(1);
            return Ok(None);
        };
        if object.len() <= self.verify_ahead {
            match object.verify().await {
                Ok(()) => {}
                // Damage and unreadable bytes were counted and logged where they were found; to the reader it is a miss.
                Err(CacheError::Corrupt { .. } | CacheError::Io { .. }) => {
                    self.counters.misses.add(1);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        self.index.touch(object.0.entry.hash, object.0.location);
        self.counters.hits.add(1);
        Ok(Some(object))
    }

    /// Reads the description of an extent from the device; `None` when there is no genuine header at that place.
    pub(crate) async fn load(
        self: &Arc<Self>,
        version: Version,
    ) -> Result<Option<Arc<Entry>>, CacheError> {
        let offset = version.unit * UNIT_BYTES;
        let len = self.header_read_len(offset);
        let buffer = match self.io.read(self.buffers.acquire(len)?, offset, len).await {
            Ok(buffer) => buffer,
            Err(error) => {
                self.counters.io_errors.add(1);
                tracing::warn!(%error, offset, "a header could not be read; the object is dropped");
                return Ok(None);
            }
        };
        let entry = self.parse_header(&buffer, version);
        if let Some(entry) = &entry {
            self.entries.insert(entry.clone());
        }
        Ok(entry)
    }

    /// As [`Self::load`], on a thread that may block. A description read here is not kept in memory.
    fn load_blocking(&self, version: Version) -> Result<Arc<Entry>, CacheError> {
        let offset = version.unit * UNIT_BYTES;
        let len = self.header_read_len(offset);
        let mut buffer = self.buffers.acquire(len)?;
        buffer.set_len(len)?;
        self.device
            .read_at(&mut buffer, offset)
            .map_err(|source| self.io_error("reading a header", source))?;
        self.parse_header(&buffer, version)
            .ok_or_else(|| CacheError::Corrupt { key: String::new() })
    }

    /// A location whose header is damaged: counted and logged once, because it leaves the index here.
    fn forget_unreadable(&self, hash: u64, location: Location) {
        if self.index.remove_if(hash, location) {
            self.gone(Some(location));
            self.counters.checksum_failures.add(1);
            tracing::warn!(
                offset = location.unit() * UNIT_BYTES,
                "an extent's header is damaged; the object is dropped"
            );
        }
    }
}

/// Drops a pin unless an [`Object`] took it over.
pub(crate) struct Unpin<'a> {
    core: &'a Core,
    leader: u32,
}

impl<'a> Unpin<'a> {
    pub(crate) fn new(core: &'a Core, leader: u32) -> Self {
        Self { core, leader }
    }
}

impl Drop for Unpin<'_> {
    fn drop(&mut self) {
        self.core.pins.unpin(self.leader);
    }
}
