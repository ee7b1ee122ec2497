//! What every part of an open cache shares, and the small acts that more than one of them needs.
//!
//! Lock order: `space` is a leaf; nothing is locked, awaited or read from the device while it is held.
use std::fmt;
use std::hash::Hasher;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use siphasher::sip::SipHasher13;
use straightway_buffer::{LargeBufferPool, PooledBuffer};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::commit::{Change, Committer, Why};
use crate::device::Device;
use crate::error::CacheError;
use crate::format::layout::Layout;
use crate::format::location::Location;
use crate::index::Index;
use crate::io::pool::BlockingPool;
use crate::io::{IoEngine, Keep};
use crate::meta::{Entries, Entry, Version};
use crate::observe::{Observer, Removal};
use crate::pack::PackQueue;
use crate::purge::{Purge, Rules};
use crate::reclaim::Reclaim;
use crate::scrub::Scrub;
use crate::segment::pin::PinTable;
use crate::segment::space::{Kind, Opened, Reservation, SpaceMap};
use crate::stats::Counters;
use crate::zero_copy::ZeroCopyManager;

/// Extents are addressed in units of this many bytes.
pub(crate) const UNIT_BYTES: u64 = 64;
/// Alignment of everything that O_DIRECT touches.
pub(crate) const BLOCK_BYTES: u64 = BLOCK as u64;
/// The same, as a length in memory.
pub(crate) const BLOCK: usize = crate::format::BLOCK_BYTES;

/// The shared state of an open cache.
pub(crate) struct Core {
    pub(crate) path: PathBuf,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) io: Arc<dyn IoEngine>,
    pub(crate) blocking: Arc<BlockingPool>,
    pub(crate) buffers: LargeBufferPool,
    pub(crate) layout: Layout,
    pub(crate) secret: [u8; 16],
    pub(crate) align: u64,
    pub(crate) index: Index,
    pub(crate) pins: PinTable,
    pub(crate) space: Mutex<Space>,
    pub(crate) reclaim: Reclaim,
    pub(crate) committer: Committer,
    pub(crate) rules: Arc<Rules>,
    pub(crate) packer: PackQueue,
    pub(crate) entries: Entries,
    pub(crate) counters: Counters,
    pub(crate) zero_copy: ZeroCopyManager,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) ttl: Duration,
    pub(crate) max_object: u64,
    pub(crate) verify_ahead: u64,
    pub(crate) pin_wait: Duration,
    pub(crate) scrub_rate: u64,
    pub(crate) scrub: Scrub,
    /// When the cache was opened.
    pub(crate) opened: Instant,
}

/// The map of the data area, with the openings that are not journaled yet.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) map: SpaceMap,
    /// In order; the committer journals them before anything that was put into them.
    pub(crate) opens: Vec<Opened>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A reservation whose segment cannot be reclaimed while this, or what was made of it by [`Self::keep`], lives.
#[derive(Debug)]
pub(crate) struct Held {
    pinned: Arc<PinnedForWriting>,
    pub(crate) reservation: Reservation,
}

#[derive(Debug)]
struct PinnedForWriting {
    core: Arc<Core>,
    leader: u32,
}

impl Drop for PinnedForWriting {
    fn drop(&mut self) {
        self.core.pins.unpin(self.leader);
        self.core.reclaim.nudge();
    }
}

impl Held {
    pub(crate) fn new(core: Arc<Core>, reservation: Reservation) -> Self {
        let pinned = PinnedForWriting { core, leader: reservation.leader };
        Self { pinned: Arc::new(pinned), reservation }
    }

    /// What a write takes along: a body may be given up while its writes are still on their way, and they must not
    /// land in a segment that has become somebody else's.
    pub(crate) fn keep(&self) -> Keep {
        self.pinned.clone()
    }

    /// Gives back what was not used; an abandoned extent gives back everything.
    pub(crate) fn shrink(&self, used: u64) {
        self.pinned.core.space.lock().map.shrink(&self.reservation, used);
    }
}

/// See [`Core::hash`].
pub(crate) fn hash_key(secret: &[u8; 16], key: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_key(secret);
    hasher.write(key.as_bytes());
    hasher.finish()
}

impl Core {
    /// The keyed hash that stands for a key: nobody who does not know the secret can make two keys collide.
    pub(crate) fn hash(&self, key: &str) -> u64 {
        hash_key(&self.secret, key)
    }

    /// Reserves and pins space if some is free. The caller owns the pin.
    pub(crate) fn try_reserve(&self, kind: Kind, len: u64, align: u64) -> Option<Reservation> {
        let mut space = self.space.lock();
        let (reservation, opened) = space.map.reserve(kind, len, align)?;
        if let Some(opened) = opened {
            self.install_pins(&opened);
            space.opens.push(opened);
        }
        if self.pins.pin_leader(reservation.leader) {
            return Some(reservation);
        }
        space.map.shrink(&reservation, 0);
        None
    }

    fn install_pins(&self, opened: &Opened) {
        if let Some(sealed) = opened.sealed {
            self.pins.seal(sealed);
        }
        if opened.gained_from == opened.first {
            self.pins.open(opened.first, opened.regions, opened.seq);
        } else {
            self.pins.extend(opened.first, opened.gained_from..opened.first + opened.regions);
        }
    }

    /// Reserves space, waiting for the reclaimer (at most `pin_wait`) when none is free.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        kind: Kind,
        len: u64,
        align: u64,
    ) -> Result<Held, CacheError> {
        match self.reserve_now_or_ask(kind, len, align)? {
            Ok(held) => Ok(held),
            Err(asked) => match tokio::time::timeout(self.pin_wait, asked).await {
                Ok(Ok(held)) => Ok(held),
                _ => Err(self.no_space(len)),
            },
        }
    }

    /// As [`Self::reserve`], for threads that may block.
    pub(crate) fn reserve_blocking(
        self: &Arc<Self>,
        kind: Kind,
        len: u64,
        align: u64,
    ) -> Result<Held, CacheError> {
        match self.reserve_now_or_ask(kind, len, align)? {
            Ok(held) => Ok(held),
            Err(asked) => asked.blocking_recv().map_err(|_| self.no_space(len)),
        }
    }

    /// Space at once, unless others wait for some already; else a place in their queue.
    fn reserve_now_or_ask(
        self: &Arc<Self>,
        kind: Kind,
        len: u64,
        align: u64,
    ) -> Result<Result<Held, oneshot::Receiver<Held>>, CacheError> {
        let now = self.reclaim.nobody_waits().then(|| self.try_reserve(kind, len, align)).flatten();
        if let Some(reservation) = now {
            self.reclaim.nudge_if_low(self);
            return Ok(Ok(Held::new(self.clone(), reservation)));
        }
        self.reclaim.ask(self, kind, len, align).map(Err).ok_or_else(|| self.no_space(len))
    }

    fn no_space(&self, len: u64) -> CacheError {
        self.counters.no_space.add(1);
        CacheError::NoSpace { len }
    }

    /// Makes a committed change visible; gives the hash that had to leave the index for it, if one had to. Called by the
    /// committer alone, in journal order.
    pub(crate) fn apply(&self, change: Change, previous: Option<Location>) -> Option<u64> {
        match change {
            Change::Insert { entry, upload, .. } => {
                self.gone(previous);
                let displaced = self.place(entry.hash, entry.location());
                self.counters.stores.add(1);
                // Of what a purge covers was told that it is gone: an upload that began before is not news.
                if !self.rules.is_purged(&entry) {
                    self.observer.stored(&entry.meta.key, &entry.meta);
                }
                self.entries.insert(entry);
                // From here on a sweep finds the object.
                drop(upload);
                displaced
            }
            Change::Move { hash, to, .. } => {
                self.gone(previous);
                self.counters.reinsertions.add(1);
                self.place(hash, to)
            }
            Change::Remove { hash, why, .. } => {
                self.index.remove(hash);
                self.gone(previous);
                self.tell(why, previous.is_some());
                None
            }
            Change::Free { .. } => None,
            Change::Purge { rule, tally } => {
                let what = Purge::of(&rule.scope);
                self.rules.apply(rule, tally);
                self.observer.purged(&what);
                None
            }
        }
    }

    /// Counts and tells a removal that somebody asked for.
    fn tell(&self, why: Why, found: bool) {
        match why {
            Why::Swept => {}
            Why::Discarded => self.counters.removes.add(u64::from(found)),
            Why::Removed { key, live } => {
                if live && found {
                    self.counters.removes.add(1);
                    self.observer.removed(&key, Removal::Removed);
                }
            }
            Why::Purged { key, live } => {
                self.counters.purged.add(u64::from(live && found));
                self.observer.purged(&Purge::Key(key));
            }
        }
    }

    /// Enters an extent into the index and into its segment's list; gives the hash that had to leave for it.
    fn place(&self, hash: u64, location: Location) -> Option<u64> {
        let inserted = self.index.insert(hash, location, |old| self.is_stale(old));
        let mut space = self.space.lock();
        if let Some(segment) = space.map.segment_at_mut(location.unit() * UNIT_BYTES) {
            segment.live_bytes += location.size_units() * UNIT_BYTES;
            segment.slots.push(inserted.slot);
        }
        drop(space);
        let (displaced, was) = inserted.displaced?;
        self.gone(Some(was));
        self.counters.evictions.add(1);
        Some(displaced)
    }

    /// Takes an extent off its segment's account.
    pub(crate) fn gone(&self, location: Option<Location>) {
        let Some(location) = location else { return };
        let mut space = self.space.lock();
        if let Some(segment) = space.map.segment_of_mut(location) {
            segment.live_bytes =
                segment.live_bytes.saturating_sub(location.size_units() * UNIT_BYTES);
        }
    }

    /// Whether a location's segment has been freed since.
    pub(crate) fn is_stale(&self, location: Location) -> bool {
        self.region_of(location)
            .is_none_or(|region| !self.pins.is_current(region, location.seq_bits()))
    }

    pub(crate) fn region_of(&self, location: Location) -> Option<u32> {
        let offset = (location.unit() * UNIT_BYTES).checked_sub(self.layout.data_offset)?;
        u32::try_from(offset / self.layout.region_size)
            .ok()
            .filter(|region| *region < self.layout.regions)
    }

    /// Drops an object that a reader found expired or damaged. Not journaled: after a restart it is found again.
    pub(crate) fn drop_found(&self, entry: &Entry, location: Location, why: Removal) {
        if !self.index.remove_if(entry.hash, location) {
            return;
        }
        self.gone(Some(location));
        self.entries.remove(entry.version);
        match why {
            Removal::Expired => self.counters.expired.add(1),
            Removal::Corrupt => {
                self.counters.checksum_failures.add(1);
                tracing::warn!(key = %entry.meta.key, offset = entry.body, "stored bytes fail their checksum; the object is dropped");
            }
            Removal::Evicted => self.counters.evictions.add(1),
            Removal::Removed => {}
        }
        self.observer.removed(&entry.meta.key, why);
    }

    /// Reads an extent's header into `buffer` and checks that it is the one that `version` names.
    pub(crate) fn parse_header(&self, buffer: &[u8], version: Version) -> Option<Arc<Entry>> {
        let view = crate::format::extent::ExtentHeader::parse(buffer).ok()?;
        let offset = version.unit * UNIT_BYTES;
        let inside =
            offset.checked_add(view.extent_len()).is_some_and(|end| end <= self.layout.size);
        let genuine = view.seq() == version.seq && view.key_hash() == self.hash(view.key());
        (inside && genuine).then(|| Arc::new(Entry::from_view(&view, offset, version.unit)))
    }

    /// How many bytes to read to be sure to have the whole header of an extent at `offset`.
    pub(crate) fn header_read_len(&self, offset: u64) -> usize {
        usize::try_from((self.layout.size - offset).min(BLOCK_BYTES)).unwrap_or(0)
    }

    /// Milliseconds from the opening of the cache to `then`.
    pub(crate) fn up_ms(&self, then: Instant) -> u64 {
        u64::try_from(then.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    /// A buffer of one journal block.
    pub(crate) fn journal_block(&self) -> io::Result<PooledBuffer> {
        self.aligned(BLOCK)
    }

    /// An aligned buffer from the pool.
    pub(crate) fn aligned(&self, len: usize) -> io::Result<PooledBuffer> {
        self.buffers.acquire(len).map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))
    }

    pub(crate) fn io_error(&self, what: &'static str, source: io::Error) -> CacheError {
        self.counters.io_errors.add(1);
        CacheError::Io { what, path: self.path.clone(), source }
    }
}
