//! One lane to one peer: its queue, and the connection that this node dials for it.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use parking_lot::Mutex;
use straightway_wire::RequestId;
use straightway_wire::raft::Lane;
use tokio::sync::{Notify, watch};

use super::close::CloseCode;
use super::queue::{Outgoing, Put, Queue, QueueLimits};

/// What a lane has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Whether it is connected.
    pub connected: bool,
    /// Messages that wait.
    pub queued: usize,
    /// Bytes of them.
    pub queued_bytes: usize,
    /// Messages sent.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Writes in which they were sent.
    pub batches: u64,
    /// Heartbeats that a newer one took the place of.
    pub replaced: u64,
    /// Messages dropped, because the queue was full or the peer away.
    pub dropped: u64,
    /// Connections made.
    pub connections: u64,
    /// Messages received.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Bytes of them that were copied together on arrival.
    pub gathered_bytes: u64,
    /// How long the last sign of life on this connection took to the peer's lane and back; the peer may have been busy
    /// meanwhile. One is sent when nothing else was for [`super::NetLimits::keep_alive`].
    pub round_trip: Option<Duration>,
}

impl LaneStats {
    /// The round trip in microseconds; 0 while it is not known.
    pub fn rtt_us(&self) -> u64 {
        self.round_trip.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }
}

/// After so long, an echo is taken for lost.
const LOST_ECHO: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) batches: AtomicU64,
    replaced: AtomicU64,
    pub(crate) dropped: AtomicU64,
    connections: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) gathered_bytes: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

#[derive(Debug)]
struct Waiting {
    queue: Queue,
    /// Whether there is a connection, or it is too early to say that there is none.
    open: bool,
}

/// The sending half of a lane.
#[derive(Debug)]
pub(crate) struct OutLane {
    pub(crate) lane: Lane,
    waiting: Mutex<Waiting>,
    /// Something waits.
    pub(crate) wake: Notify,
    /// Counts wishes that its task leaves the connection it has and dials at once.
    pub(crate) redial: watch::Sender<u64>,
    /// The peer may be somewhere else than was known: its task need not wait before it dials again.
    pub(crate) hinted: Notify,
    connection: Mutex<Option<Connection>>,
    /// Whether it was told that the peer cannot be reached, and the queue has not been empty since.
    told: AtomicBool,
    /// What the peer said last when it closed, as it was told.
    refused: Mutex<Option<CloseCode>>,
    /// The sign of life that waits for its echo, and since when.
    pinged: Mutex<Option<(RequestId, Instant)>>,
    round_trip: Mutex<Option<Duration>>,
    pub(crate) counters: Counters,
}

impl OutLane {
    pub(crate) fn new(lane: Lane, limits: QueueLimits) -> Self {
        Self {
            lane,
            waiting: Mutex::new(Waiting { queue: Queue::new(limits), open: true }),
            wake: Notify::new(),
            redial: watch::Sender::new(0),
            hinted: Notify::new(),
            connection: Mutex::new(None),
            told: AtomicBool::new(false),
            refused: Mutex::new(None),
            pinged: Mutex::new(None),
            round_trip: Mutex::new(None),
            counters: Counters::default(),
        }
    }

    /// Puts a message into the queue; `false`: it was dropped.
    pub(crate) fn put(&self, item: Outgoing) -> bool {
        let put = {
            let mut waiting = self.waiting.lock();
            if waiting.open { waiting.queue.put(item) } else { Put::Full }
        };
        match put {
            Put::Queued => {
                self.wake.notify_one();
                true
            }
            Put::Replaced => {
                add(&self.counters.replaced, 1);
                true
            }
            Put::Full => {
                add(&self.counters.dropped, 1);
                false
            }
        }
    }

    /// Whether this is news: it is told once, until something was sent again.
    pub(crate) fn tell_once(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// Whether this is another reason than the one that was told last.
    pub(crate) fn tell_refusal(&self, code: CloseCode) -> bool {
        self.refused.lock().replace(code) != Some(code)
    }

    /// The peer has kept a connection: whatever it said before is over.
    pub(crate) fn accepted(&self) {
        *self.refused.lock() = None;
    }

    /// Whether there is a connection, or may be in a moment.
    pub(crate) fn is_open(&self) -> bool {
        self.waiting.lock().open
    }

    /// Makes its task leave the connection it has, if any, and dial at once.
    pub(crate) fn redial(&self) {
        self.redial.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// The same, if it has none: its wait is over, and what it has sent may have gone nowhere.
    pub(crate) fn redial_if_down(&self) {
        if self.connection.lock().is_none() {
            self.redial();
        }
    }

    pub(crate) fn connection(&self) -> Option<Connection> {
        self.connection.lock().clone()
    }

    pub(crate) fn stats(&self) -> LaneStats {
        let (queued, queued_bytes) = {
            let waiting = self.waiting.lock();
            (waiting.queue.messages(), waiting.queue.bytes())
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        LaneStats {
            connected: self.connection.lock().is_some(),
            queued,
            queued_bytes,
            sent: read(&counters.sent),
            sent_bytes: read(&counters.sent_bytes),
            batches: read(&counters.batches),
            replaced: read(&counters.replaced),
            dropped: read(&counters.dropped),
            connections: read(&counters.connections),
            received: read(&counters.received),
            received_bytes: read(&counters.received_bytes),
            gathered_bytes: read(&counters.gathered_bytes),
            round_trip: *self.round_trip.lock(),
        }
    }

    /// A sign of life is sent; `false`: the last one waits for its echo yet.
    pub(crate) fn pinged(&self, id: RequestId) -> bool {
        let mut pinged = self.pinged.lock();
        if pinged.is_some_and(|(_, since)| since.elapsed() < LOST_ECHO) {
            return false;
        }
        *pinged = Some((id, Instant::now()));
        true
    }

    /// An echo has come.
    pub(crate) fn echoed(&self, id: RequestId) {
        let mut pinged = self.pinged.lock();
        if let Some((_, since)) = pinged.take_if(|(waits, _)| *waits == id) {
            *self.round_trip.lock() = Some(since.elapsed());
        }
    }

    pub(crate) fn opened(&self, connection: &Connection) {
        *self.connection.lock() = Some(connection.clone());
        self.waiting.lock().open = true;
        add(&self.counters.connections, 1);
    }

    /// From now on messages are dropped; those that waited are.
    pub(crate) fn closed(&self) {
        *self.connection.lock() = None;
        // An echo that is still to come says nothing of the next connection.
        *self.pinged.lock() = None;
        *self.round_trip.lock() = None;
        let dropped = {
            let mut waiting = self.waiting.lock();
            waiting.open = false;
            waiting.queue.clear()
        };
        add(&self.counters.dropped, dropped);
    }

    /// Once all that waited has been sent, it is news again when something cannot be.
    pub(crate) fn caught_up(&self) {
        if self.waiting.lock().queue.messages() == 0 {
            self.told.store(false, Ordering::Relaxed);
        }
    }

    /// What may go between the chunks of a long message.
    pub(crate) fn drain_passing(&self, batch: &mut Vec<Outgoing>, bytes: usize) {
        self.waiting.lock().queue.drain_passing(batch, bytes);
    }

    pub(crate) fn drain_into(&self, batch: &mut Vec<Outgoing>, bytes: usize) {
        self.waiting.lock().queue.drain_into(batch, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sign_of_life_waits_for_its_echo() {
        let out = OutLane::new(Lane::Control, QueueLimits { messages: 2, bytes: 1 << 20 });
        assert!(out.pinged([1; 16]) && !out.pinged([2; 16]));
        out.echoed([2; 16]);
        assert_eq!(out.stats().round_trip, None, "nobody asked for that");
        out.echoed([1; 16]);
        assert!(out.stats().round_trip.is_some());
        assert!(out.pinged([2; 16]));
        out.closed();
        out.echoed([2; 16]);
        let stats = out.stats();
        assert_eq!((stats.round_trip, stats.rtt_us()), (None, 0), "it was of that connection");
        let took = Some(Duration::from_micros(1500));
        assert_eq!(LaneStats { round_trip: took, ..stats }.rtt_us(), 1500);
    }

    #[test]
    fn a_lane_that_is_down_drops_and_tells_once() {
        let out = OutLane::new(Lane::Control, QueueLimits { messages: 2, bytes: 1 << 20 });
        let message = || Outgoing::Raft(Box::default());
        assert!(out.put(message()) && out.put(message()), "before the first connection they wait");
        assert!(!out.put(message()), "full");
        assert!(out.tell_once() && !out.tell_once());
        out.closed();
        assert!(!out.put(message()), "down");
        let stats = out.stats();
        assert_eq!((stats.queued, stats.dropped, stats.connected), (0, 4, false));
    }
}
