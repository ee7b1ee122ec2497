//! One lane to one peer: a queue, a connection that this node dials, and the task that carries from one to the other.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, ConnectionError, SendStream, WriteError};
use parking_lot::Mutex;
use raft::prelude::Message;
use straightway_wire::raft::{Lane, encoded_len, serialize_raft_message_vectored};
use straightway_wire::{
    ChunkWriter, LARGE_MESSAGE_THRESHOLD, MessageHeader, MessageType, QUIC_CUT, Segments,
    WireError, begin_frame, encode_hello, encode_request, encode_response, end_frame,
};
use tokio::sync::{Notify, watch};

use super::close::{CloseCode, Closed};
use super::endpoint::{self, NotDialled};
use super::limits::NetLimits;
use super::peer::Peer;
use super::queue::{Outgoing, Put, Queue, QueueLimits};
use super::shared::Shared;

/// A connection that lasted so long was a good one: the next wait is short again.
const GOOD: Duration = Duration::from_secs(1);

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
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    batches: AtomicU64,
    replaced: AtomicU64,
    dropped: AtomicU64,
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
    lane: Lane,
    waiting: Mutex<Waiting>,
    wake: Notify,
    redial: watch::Sender<u64>,
    connection: Mutex<Option<Connection>>,
    /// Whether it was told that the peer cannot be reached, and the queue has not been empty since.
    told: AtomicBool,
    pub(crate) counters: Counters,
}

impl OutLane {
    pub(crate) fn new(lane: Lane, limits: QueueLimits) -> Self {
        Self {
            lane,
            waiting: Mutex::new(Waiting { queue: Queue::new(limits), open: true }),
            wake: Notify::new(),
            redial: watch::Sender::new(0),
            connection: Mutex::new(None),
            told: AtomicBool::new(false),
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

    /// Whether there is a connection, or may be in a moment.
    pub(crate) fn is_open(&self) -> bool {
        self.waiting.lock().open
    }

    /// Makes its task leave the connection it has, if any, and dial at once.
    pub(crate) fn redial(&self) {
        self.redial.send_modify(|times| *times = times.wrapping_add(1));
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
        }
    }

    fn opened(&self, connection: &Connection) {
        *self.connection.lock() = Some(connection.clone());
        self.waiting.lock().open = true;
        add(&self.counters.connections, 1);
    }

    /// From now on messages are dropped; those that waited are.
    fn closed(&self) {
        *self.connection.lock() = None;
        let dropped = {
            let mut waiting = self.waiting.lock();
            waiting.open = false;
            waiting.queue.clear()
        };
        add(&self.counters.dropped, dropped);
    }

    /// Once all that waited has been sent, it is news again when something cannot be.
    fn caught_up(&self) {
        if self.waiting.lock().queue.messages() == 0 {
            self.told.store(false, Ordering::Relaxed);
        }
    }

    fn drain_into(&self, batch: &mut Vec<Outgoing>, bytes: usize) {
        self.waiting.lock().queue.drain_into(batch, bytes);
    }
}

/// Why there is no connection.
#[derive(Debug)]
enum Lost {
    /// The peer was started again: its new process is to be dialled.
    Restarted,
    NotDialled(NotDialled),
}

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        Self::NotDialled(NotDialled::lost(&error))
    }
}

impl From<WriteError> for Lost {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            other => Self::NotDialled(NotDialled { closed: None, reason: other.to_string() }),
        }
    }
}

/// Waits before dialling: doubled each time, with jitter so that nodes do not dial in step.
#[derive(Debug)]
struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    seed: u64,
}

impl Backoff {
    fn new(first: Duration, most: Duration, seed: u64) -> Self {
        Self { first, most, next: first, seed: seed | 1 }
    }

    fn reset(&mut self) {
        self.next = self.first;
    }

    /// Three quarters to five quarters of the present wait.
    fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        // Xorshift: enough to tell nodes apart.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let eighths = 6 + u32::try_from(self.seed % 5).unwrap_or(0);
        wait * eighths / 8
    }
}

/// Keeps a lane connected, and sends what is put into its queue, until the node stops or the peer is removed.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, lane: Lane) {
    let Some(out) = peer.out(lane) else { return };
    let limits = &shared.limits;
    let seed = shared.node.raft_id.rotate_left(32) ^ peer.id ^ (shared.node.boot << 16);
    let mut backoff = Backoff::new(limits.redial_first, limits.redial_most, seed);
    let mut redial = out.redial.subscribe();
    let mut stop = peer.stopped();
    loop {
        let connected = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            connected = dial_with_hello(&shared, &peer, lane) => connected.map_err(Lost::NotDialled),
        };
        let lost = match connected {
            Ok((connection, stream)) => {
                // Whoever was dialled just now is there: an older wish to dial is fulfilled.
                redial.mark_unchanged();
                let since = Instant::now();
                out.opened(&connection);
                shared.connected(&peer, lane);
                let lost = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => {
                        connection.close(CloseCode::Stopping.var_int(), CloseCode::Stopping.to_string().as_bytes());
                        break;
                    }
                    lost = pump(limits, out, &connection, stream, &mut redial) => lost,
                };
                connection.close(CloseCode::Superseded.var_int(), b"");
                if since.elapsed() >= GOOD {
                    backoff.reset();
                }
                lost
            }
            Err(lost) => lost,
        };
        out.closed();
        match lost {
            Lost::Restarted => {
                backoff.reset();
                shared.lost(&peer, lane, out, &Lost::RESTARTED);
                continue;
            }
            Lost::NotDialled(lost) => shared.lost(&peer, lane, out, &lost),
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            changed = redial.changed() => {
                backoff.reset();
                if changed.is_err() {
                    break;
                }
            }
            () = tokio::time::sleep(backoff.wait()) => {}
        }
    }
    out.closed();
}

impl Lost {
    const RESTARTED: NotDialled = NotDialled { closed: None, reason: String::new() };
}

/// A connection on `lane`, and the stream on which the hello was sent.
pub(crate) async fn dial_with_hello(
    shared: &Shared,
    peer: &Peer,
    lane: Lane,
) -> Result<(Connection, SendStream), NotDialled> {
    let limits = &shared.limits;
    let addresses = peer.addresses();
    let connection =
        endpoint::dial(&shared.endpoint, peer.key, &addresses, endpoint::alpn(lane), limits)
            .await?;
    let greet = async {
        let mut stream = connection.open_uni().await.map_err(|error| NotDialled::lost(&error))?;
        let mut hello = Segments::new(QUIC_CUT);
        let broken = |reason: String| NotDialled { closed: None, reason };
        encode_hello(&mut hello, &shared.hello(lane)).map_err(|error| broken(error.to_string()))?;
        stream.write_all_chunks(hello.finish()).await.map_err(|error| match error {
            WriteError::ConnectionLost(error) => NotDialled::lost(&error),
            other => broken(other.to_string()),
        })?;
        Ok(stream)
    };
    match tokio::time::timeout(limits.dial, greet).await {
        Ok(greeted) => greeted.map(|stream| (connection, stream)),
        Err(_) => Err(NotDialled {
            closed: None,
            reason: format!("it took no hello within {:?}", limits.dial),
        }),
    }
}

/// Writes all that waits at once, and again, until the connection is lost. There is no timer: what comes while a write is under way
/// makes up the next one.
async fn pump(
    limits: &NetLimits,
    out: &OutLane,
    connection: &Connection,
    mut stream: SendStream,
    redial: &mut watch::Receiver<u64>,
) -> Lost {
    let mut encoder = Encoder::new(limits.message(out.lane));
    let mut batch = Vec::with_capacity(64);
    loop {
        out.drain_into(&mut batch, limits.batch_bytes);
        if batch.is_empty() {
            tokio::select! {
                () = out.wake.notified() => {}
                error = connection.closed() => return error.into(),
                _ = redial.changed() => return Lost::Restarted,
            }
            continue;
        }
        let messages = batch.len();
        for item in batch.drain(..) {
            if let Err(error) = encoder.encode(item) {
                add(&out.counters.dropped, 1);
                tracing::warn!(%error, lane = ?out.lane, "a message could not be sent");
            }
        }
        let bytes = encoder.segments.len_bytes();
        tokio::select! {
            written = stream.write_all_chunks(encoder.segments.finish()) => {
                if let Err(error) = written {
                    add(&out.counters.dropped, messages);
                    return error.into();
                }
            }
            _ = redial.changed() => return Lost::Restarted,
        }
        encoder.segments.clear();
        add(&out.counters.sent, messages);
        add(&out.counters.sent_bytes, bytes);
        add(&out.counters.batches, 1);
        out.caught_up();
    }
}

/// Makes frames, in memory that is used again.
#[derive(Debug)]
struct Encoder {
    segments: Segments,
    /// A message that is sent in chunks, as a whole.
    long: Segments,
    /// Tells chunked messages apart.
    stream: u32,
    /// Longest message that the peer takes.
    most: usize,
}

impl Encoder {
    fn new(most: u32) -> Self {
        let segments = || Segments::new(QUIC_CUT);
        Self { segments: segments(), long: segments(), stream: 0, most: most as usize }
    }

    /// Appends a message, or leaves everything as it was.
    fn encode(&mut self, item: Outgoing) -> Result<(), WireError> {
        let start = self.segments.mark();
        let encoded = match item {
            Outgoing::Raft(message) => self.raft(&message),
            Outgoing::Request { id, method, payload, deadline_ms } => {
                let header = MessageHeader::new(MessageType::Request)
                    .with_request_id(id)
                    .with_deadline_ms(deadline_ms);
                encode_request(&mut self.segments, &header, super::rpc::SERVICE, &method, payload)
            }
            Outgoing::Response { id, reply } => encode_response(&mut self.segments, id, reply),
        };
        if encoded.is_err() {
            self.segments.truncate(start);
        }
        encoded
    }

    fn raft(&mut self, message: &Message) -> Result<(), WireError> {
        let header = MessageHeader::new(MessageType::RaftMessage);
        let len = encoded_len(message);
        // The peer would close the connection, and lose what else is on it.
        if len > self.most {
            let (len, limit) = (len as u64, self.most as u64);
            return Err(WireError::TooLarge { what: "a Raft message", len, limit });
        }
        if len <= LARGE_MESSAGE_THRESHOLD {
            let frame = begin_frame(&mut self.segments, &header);
            serialize_raft_message_vectored(message, &mut self.segments)?;
            return end_frame(&mut self.segments, frame);
        }
        self.long.clear();
        serialize_raft_message_vectored(message, &mut self.long)?;
        let parts = self.long.finish().iter_mut().map(std::mem::take).collect::<Vec<_>>();
        self.stream = self.stream.wrapping_add(1);
        let mut writer = ChunkWriter::new(header, parts, self.stream)?;
        while writer.next_chunk(&mut self.segments)? {}
        Ok(())
    }
}

/// What the peer said, if it closed.
pub(crate) fn refusal(lost: &NotDialled) -> Option<&Closed> {
    lost.closed.as_ref().filter(|closed| {
        !matches!(closed.code, CloseCode::Done | CloseCode::Stopping | CloseCode::Superseded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_differ() {
        let (first, most) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most, 7);
        for expected in [50, 100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.wait();
            assert!(
                wait >= expected * 3 / 4 && wait <= expected * 5 / 4,
                "{wait:?} of {expected:?}"
            );
        }
        backoff.reset();
        assert!(backoff.wait() <= first * 5 / 4);
        let mut other = Backoff::new(first, most, 8);
        let waits = |backoff: &mut Backoff| (0..8).map(|_| backoff.wait()).collect::<Vec<_>>();
        backoff.reset();
        assert_ne!(waits(&mut backoff), waits(&mut other));
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
