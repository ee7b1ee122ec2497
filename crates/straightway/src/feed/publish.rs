//! The feed as the rest of the node sees it: publish, read, join.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use straightway_cache::{ObjectMeta, Observer, Purge, Removal};
use straightway_codec::event::{self, Event, EventRef, Kind, Scope, Stats};
use straightway_codec::{
    CodecError, Encoder, FallbackManager, OptimizerMode, SerializationOptimizer, Stamp,
    TypeRegistry, WireType,
};
use tokio::sync::watch;

use super::hub::Hub;
use super::limits::FeedLimits;
use super::ring::{Forms, Ring, Slot};
use super::seats::{FeedStats, Joining};
use crate::http::etag;

/// Idle bytes that the feed's buffer pool keeps.
const POOL_BYTES: usize = 8 << 20;
/// Urgency of what happens to objects; the node's numbers have none.
const OBJECT_PRIORITY: u8 = 1;
/// Purges overtake.
pub(super) const URGENT_PRIORITY: u8 = 2;
/// The node's numbers are worth nothing after this long, in milliseconds.
const STATS_TTL_MS: u32 = 10_000;

/// The live feed of a node; of use without one, too.
#[derive(Debug)]
pub struct Feed {
    pub(super) shared: Arc<Shared>,
    hub: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What publishers, the hub's thread and those who read by themselves share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: String,
    pub(super) epoch: u64,
    pub(super) limits: FeedLimits,
    pub(super) forms: Forms,
    pub(super) registry: TypeRegistry,
    pub(super) fallback: FallbackManager,
    pub(super) ring: RwLock<Ring>,
    /// The node's newest numbers: there is only ever one.
    pub(super) stats: Mutex<Option<Arc<Slot>>>,
    pub(super) stats_version: AtomicU64,
    /// For those who read the ring by themselves: changes with every event.
    pub(super) head: watch::Sender<u64>,
    pub(super) waker: mio::Waker,
    pub(super) woken: AtomicBool,
    pub(super) stopping: AtomicBool,
    /// `None` once the hub has ended.
    pub(super) joining: Mutex<Option<Vec<Joining>>>,
    pub(super) subscribers: AtomicUsize,
    pub(super) by_address: Mutex<HashMap<IpAddr, usize>>,
    pub(super) counts: Counts,
    pub(super) started: Instant,
}

/// What the feed counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) events: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) deliveries: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) overtaken: AtomicU64,
    pub(super) lagging_closed: AtomicU64,
    pub(super) violations: AtomicU64,
    pub(super) silent: AtomicU64,
    pub(super) streams: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Why a feed could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// Types or buffers.
    #[error("the feed's types or buffers cannot be set up")]
    Codec(#[from] CodecError),
    /// Sockets or threads.
    #[error("the system refused what the feed's thread needs")]
    Io(#[from] std::io::Error),
}

impl Feed {
    /// Starts the feed's thread.
    pub fn start(node: String, limits: FeedLimits, mode: OptimizerMode) -> Result<Self, FeedError> {
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), super::hub::WAKE)?;
        let optimizer = Arc::new(SerializationOptimizer::new(mode));
        let ring = Ring::new(limits.history_bytes, limits.history_events, limits.history_age);
        let shared = Arc::new(Shared {
            node,
            epoch: now_ms(),
            limits,
            forms: Forms::new(Encoder::new(optimizer, POOL_BYTES)?),
            registry: event::registry()?,
            fallback: FallbackManager::default(),
            ring: RwLock::new(ring),
            stats: Mutex::default(),
            stats_version: AtomicU64::new(0),
            head: watch::Sender::new(1),
            waker,
            woken: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            joining: Mutex::new(Some(Vec::new())),
            subscribers: AtomicUsize::new(0),
            by_address: Mutex::default(),
            counts: Counts::default(),
            started: Instant::now(),
        });
        let hub = Hub::new(shared.clone(), poll);
        let thread =
            std::thread::Builder::new().name("feed".to_owned()).spawn(move || hub.run())?;
        Ok(Self { shared, hub: Mutex::new(Some(thread)) })
    }

    /// Who tells the feed what happens in the cache.
    pub(crate) fn observer(&self) -> Arc<FeedObserver> {
        Arc::new(FeedObserver(self.shared.clone()))
    }

    /// Tells an event to all who want to hear it. Does not block: encoding takes less than a microsecond.
    pub fn publish(&self, event: &EventRef<'_>) {
        self.shared.publish(event, OBJECT_PRIORITY, 0);
    }

    /// As [`Self::publish`], of something that is worth nothing after `ttl_ms` milliseconds, or overtakes others.
    pub fn publish_with(&self, event: &EventRef<'_>, priority: u8, ttl_ms: u32) {
        self.shared.publish(event, priority, ttl_ms);
    }

    /// Tells the node's numbers; older ones that were not sent yet are forgotten.
    pub fn publish_stats(&self, stats: &Stats) {
        self.shared.publish_stats(stats);
    }

    /// Whether anybody listens.
    pub(crate) fn has_listeners(&self) -> bool {
        self.shared.subscribers.load(Ordering::Relaxed) > 0 || self.shared.head.receiver_count() > 0
    }

    /// The types, for content negotiation elsewhere.
    pub(crate) fn forms(&self) -> &Forms {
        &self.shared.forms
    }

    /// Negotiation and its counters.
    pub(crate) fn fallback(&self) -> &FallbackManager {
        &self.shared.fallback
    }

    /// Its numbers.
    pub fn stats(&self) -> FeedStats {
        self.shared.stats_now()
    }

    /// Tells all subscribers to come back later, and ends the thread.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.head.send_modify(|_| {});
        self.shared.wake();
        if let Some(thread) = self.hub.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the feed's thread panicked");
        }
    }
}

impl Shared {
    /// Wakes the hub's thread, once for any number of events that it has not looked at.
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!(%error, "the feed's thread could not be woken");
        }
    }

    /// Encodes, frames and appends an event. Does not block: encoding takes less than a microsecond.
    pub(super) fn publish(&self, event: &EventRef<'_>, priority: u8, ttl_ms: u32) {
        let mut ring = self.ring.write();
        let offset = ring.next();
        let stamp = Stamp { priority, ttl_ms, offset, time_us: now_us() };
        let message = self.forms.encoder.encode_as::<Event, _>(stamp, event.size_hint(), event);
        let slot = message.and_then(|message| {
            Slot::new(message, event.kind, self.started.elapsed(), &self.forms)
        });
        match slot {
            Ok(slot) => ring.push(Arc::new(slot), &self.forms),
            Err(error) => {
                return tracing::warn!(%error, key = event.key, "an event could not be told");
            }
        }
        drop(ring);
        count(&self.counts.events, 1);
        self.head.send_if_modified(|head| {
            *head = offset + 1;
            true
        });
        if self.subscribers.load(Ordering::Relaxed) > 0 {
            self.wake();
        }
    }

    fn publish_stats(&self, stats: &Stats) {
        // The offset of the next event: numbers take no place in the order, and whoever saw them has seen all before.
        let offset = self.ring.read().next();
        let stamp = Stamp { priority: 0, ttl_ms: STATS_TTL_MS, offset, time_us: now_us() };
        let message = self.forms.encoder.encode(stamp, stats);
        match message.and_then(|message| {
            Slot::new(message, Kind::Stats, self.started.elapsed(), &self.forms)
        }) {
            Ok(slot) => *self.stats.lock() = Some(Arc::new(slot)),
            Err(error) => return tracing::warn!(%error, "the node's numbers could not be told"),
        }
        self.stats_version.fetch_add(1, Ordering::AcqRel);
        self.head.send_modify(|_| {});
        if self.subscribers.load(Ordering::Relaxed) > 0 {
            self.wake();
        }
    }

    pub(super) fn stats_now(&self) -> FeedStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        let (history_events, history_bytes, head) = {
            let ring = self.ring.read();
            (ring.len() as u64, ring.bytes() as u64, ring.next())
        };
        let fallback = self.fallback.stats();
        FeedStats {
            subscribers: self.subscribers.load(Ordering::Relaxed) as u64,
            streams: read(&counts.streams),
            head,
            events: read(&counts.events),
            history_events,
            history_bytes,
            accepted: read(&counts.accepted),
            refused: read(&counts.refused),
            deliveries: read(&counts.deliveries),
            sent_bytes: read(&counts.sent_bytes),
            writes: read(&counts.writes),
            gaps: read(&counts.gaps),
            expired: read(&counts.expired),
            overtaken: read(&counts.overtaken),
            lagging_closed: read(&counts.lagging_closed),
            violations: read(&counts.violations),
            silent: read(&counts.silent),
            json_encoded: read(&self.forms.json),
            deflated: read(&self.forms.deflated),
            zstd_encoded: read(&self.forms.zstd),
            fallbacks: fallback.no_offer + fallback.peer_lacks_rkyv + fallback.invalid_payload,
            fallbacks_recovered: fallback.recovered,
        }
    }
}

/// Turns what happens in the cache into events.
#[derive(Debug)]
pub(crate) struct FeedObserver(Arc<Shared>);

impl FeedObserver {
    /// Tells an event of this node.
    pub(crate) fn tell(&self, event: &EventRef<'_>) {
        let event = EventRef { node: &self.0.node, ..*event };
        self.0.publish(&event, OBJECT_PRIORITY, 0);
    }

    /// Tells a purge, ahead of what waits.
    pub(crate) fn tell_purge(&self, key: &str, scope: Scope) {
        let event =
            EventRef { kind: Kind::Purged, key, scope, node: &self.0.node, ..EventRef::default() };
        self.0.publish(&event, URGENT_PRIORITY, 0);
    }
}

impl Observer for FeedObserver {
    fn stored(&self, key: &str, meta: &ObjectMeta) {
        let etag = etag::of(meta);
        let event = EventRef {
            kind: Kind::Stored,
            key,
            node: &self.0.node,
            len: meta.len,
            content_type: meta.content_type.as_deref(),
            tags: &meta.tags,
            etag: Some(&etag),
            expires_ms: meta.expires_ms,
            scope: Scope::Key,
        };
        self.0.publish(&event, OBJECT_PRIORITY, 0);
    }

    fn removed(&self, key: &str, why: Removal) {
        let kind = match why {
            Removal::Removed => Kind::Removed,
            Removal::Expired => Kind::Expired,
            _ => Kind::Evicted,
        };
        self.tell(&EventRef { kind, key, ..EventRef::default() });
    }

    fn purged(&self, what: &Purge) {
        let (key, scope) = match what {
            Purge::Key(key) => (key.as_str(), Scope::Key),
            Purge::Prefix(prefix) => (prefix.as_str(), Scope::Prefix),
            Purge::Tag(tag) => (tag.as_str(), Scope::Tag),
            _ => ("", Scope::All),
        };
        self.tell_purge(key, scope);
    }
}

/// A place among the subscribers; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
}

impl Shared {
    /// A seat for one more subscriber, if there is one.
    pub(super) fn seat(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Seat> {
        let limits = &self.limits;
        let take = |taken: usize| (taken < limits.max_subscribers).then_some(taken + 1);
        let seated = self.subscribers.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        if seated.is_err() {
            count(&self.counts.refused, 1);
            return None;
        }
        // Those on this machine are not told apart by their address.
        let address = address.filter(|address| !address.to_canonical().is_loopback());
        let seat = Seat { shared: self.clone(), address };
        if let Some(address) = address {
            let mut by_address = self.by_address.lock();
            let taken = by_address.entry(address).or_default();
            *taken += 1;
            if *taken > limits.max_per_address {
                drop(by_address);
                count(&self.counts.refused, 1);
                return None;
            }
        }
        count(&self.counts.accepted, 1);
        Some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.subscribers.fetch_sub(1, Ordering::AcqRel);
        if let Some(address) = self.address {
            let mut by_address = self.shared.by_address.lock();
            if let Some(taken) = by_address.get_mut(&address) {
                *taken -= 1;
                if *taken == 0 {
                    by_address.remove(&address);
                }
            }
        }
    }
}

/// Offset, and what stands there: what a reader of the ring gets.
pub(crate) struct Batch {
    pub(crate) slots: Vec<Arc<Slot>>,
    /// Where to go on.
    pub(crate) next: u64,
    /// Events that were not kept long enough: the first one, and the first one after them.
    pub(crate) gap: Option<(u64, u64)>,
}

impl Feed {
    /// Up to `most` events from `cursor` on.
    pub(crate) fn read(&self, cursor: u64, most: usize) -> Batch {
        let ring = self.shared.ring.read();
        let oldest = ring.oldest();
        let gap = (cursor < oldest).then_some((cursor, oldest));
        let start = cursor.max(oldest);
        let slots: Vec<_> = ring.from(start).take(most).cloned().collect();
        let next = start + slots.len() as u64;
        if gap.is_some() {
            count(&self.shared.counts.gaps, 1);
        }
        Batch { slots, next, gap }
    }

    /// The newest numbers, if they are newer than `seen`.
    pub(crate) fn newer_stats(&self, seen: &mut u64) -> Option<Arc<Slot>> {
        let version = self.shared.stats_version.load(Ordering::Acquire);
        if version == *seen {
            return None;
        }
        *seen = version;
        let slot = self.shared.stats.lock().clone()?;
        slot.expires_ms.is_none_or(|end| now_ms() < end).then_some(slot)
    }

    /// Changes when there is something new to read.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.shared.head.subscribe()
    }

    /// Whether the node is about to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// The offset that the next event gets.
    pub(crate) fn head(&self) -> u64 {
        self.shared.ring.read().next()
    }

    /// Changes when offsets start again.
    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &FeedLimits {
        &self.shared.limits
    }

    /// A seat for one more reader of the ring, if there is one; given back when dropped.
    pub(crate) fn stream(&self) -> Option<StreamSeat> {
        let most = self.shared.limits.max_streams as u64;
        let take = |taken: u64| (taken < most).then_some(taken + 1);
        let streams = &self.shared.counts.streams;
        if streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            count(&self.shared.counts.refused, 1);
            return None;
        }
        Some(StreamSeat(self.shared.clone()))
    }

    pub(crate) fn node(&self) -> &str {
        &self.shared.node
    }
}

/// See [`Feed::stream`].
pub(crate) struct StreamSeat(Arc<Shared>);

impl Drop for StreamSeat {
    fn drop(&mut self) {
        self.0.counts.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long the feed's thread rests between two looks at every subscriber.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

const _: () = assert!(
    Stats::VERSION == 1 && Event::VERSION == 1,
    "tell subscribers which versions there are"
);
