//! What the two halves of a connection tell each other: the service that answers requests, and the socket that sends.
//!
//! hyper stands between them and passes only bytes. The service knows which way a body should leave and what object it
//! pins; the socket knows when bytes move and when the last one is gone. Both write it here, and a sweep that runs a
//! few times a second (see `server::worker`) reads it to find connections that are overdue, so that a request sets no timer.
//!
//! Everything is written by the one thread that the connection lives on; the atomics are there because the type must be
//! `Sync`, not because threads race on them.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use parking_lot::Mutex;
use straightway_buffer::Reason;
use straightway_cache::{Object, ReadPath};

use super::access::Record;
use crate::counters::{Cut, Shard, bump};
use crate::state::NodeState;

/// Costs below this body length are sampled, above it always measured: reading the clock twice costs 50 ns.
const ALWAYS_MEASURED_BYTES: u64 = 16 * 1024;
/// One in this many small transfers is measured while the way out stays the same.
const SAMPLE_EVERY: u64 = 8;
/// How long the rest of a refused body is read and thrown away before the connection is closed.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Part of a request head is here, or the connection is new.
    Head,
    /// Between requests.
    Idle,
    /// A request is being worked on.
    Handling,
    /// Waiting for the client to send more of its body.
    Receiving,
    /// The answer is complete on our side and on its way out.
    Flushing,
    /// The answer is out; the rest of an unwanted body is thrown away.
    Lingering,
}

impl Phase {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Head,
            1 => Self::Idle,
            2 => Self::Handling,
            3 => Self::Receiving,
            4 => Self::Flushing,
            _ => Self::Lingering,
        }
    }
}

/// The record that service, socket and sweep share for one connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    node: Arc<NodeState>,
    worker: usize,
    /// The worker's clock in milliseconds, moved by its sweep.
    clock_ms: Arc<AtomicU64>,
    encrypted: bool,
    peer: Option<SocketAddr>,
    phase: AtomicU8,
    since_ms: AtomicU64,
    /// When the socket last refused bytes without having taken any since; 0: it takes them.
    stalled_ms: AtomicU64,
    started_ns: AtomicU64,
    way: AtomicU8,
    last_way: AtomicU8,
    body_len: AtomicU64,
    sent: AtomicU64,
    cost_ns: AtomicU64,
    measured: AtomicBool,
    turns: AtomicU64,
    linger: AtomicBool,
    sending: Mutex<Option<Object>>,
    /// The request as the access log will tell it, once the answer is out.
    logged: Mutex<Option<Box<Record>>>,
    cut: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

const NO_WAY: u8 = 0;
const NOT_CUT: u8 = 0;

impl Exchange {
    pub(crate) fn new(
        node: Arc<NodeState>,
        worker: usize,
        clock_ms: Arc<AtomicU64>,
        encrypted: bool,
        peer: Option<SocketAddr>,
    ) -> Self {
        let now_ms = clock_ms.load(Ordering::Relaxed);
        Self {
            node,
            worker,
            clock_ms,
            encrypted,
            peer,
            phase: AtomicU8::new(Phase::Head as u8),
            since_ms: AtomicU64::new(now_ms),
            stalled_ms: AtomicU64::new(0),
            started_ns: AtomicU64::new(0),
            way: AtomicU8::new(NO_WAY),
            last_way: AtomicU8::new(NO_WAY),
            body_len: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            cost_ns: AtomicU64::new(0),
            measured: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            linger: AtomicBool::new(false),
            sending: Mutex::new(None),
            logged: Mutex::new(None),
            cut: AtomicU8::new(NOT_CUT),
            waker: Mutex::new(None),
        }
    }

    pub(crate) fn node(&self) -> &NodeState {
        &self.node
    }

    pub(crate) fn counters(&self) -> &Shard {
        self.node.shard(self.worker)
    }

    /// What a copy of an object is made for.
    pub(crate) fn copy_reason(&self) -> Reason {
        if self.encrypted { Reason::Encrypt } else { Reason::SmallRead }
    }

    /// Whether the bytes are encrypted in user space: then they are copied there, and mapped slices must not be sent.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether the peer is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since_ms.store(self.clock_ms.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Bytes came in.
    pub(crate) fn received(&self) {
        match self.phase() {
            Phase::Idle => self.enter(Phase::Head),
            Phase::Receiving => self.enter(Phase::Receiving),
            _ => {}
        }
    }

    /// A request head is complete.
    pub(crate) fn start_request(&self) {
        self.enter(Phase::Handling);
        self.linger.store(false, Ordering::Relaxed);
        self.started_ns.store(self.node.now_ns(), Ordering::Relaxed);
    }

    /// A body of `len` bytes is going out this way. The object stays pinned until its last byte is gone, and the
    /// sweep looks whether the pin is wanted back.
    pub(crate) fn start_body(&self, way: ReadPath, len: u64, object: Option<Object>) {
        let code = way as u8 + 1;
        let turn = self.turns.load(Ordering::Relaxed);
        self.turns.store(turn.wrapping_add(1), Ordering::Relaxed);
        let changed = self.last_way.load(Ordering::Relaxed) != code;
        self.last_way.store(code, Ordering::Relaxed);
        self.way.store(code, Ordering::Relaxed);
        self.body_len.store(len, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
        self.cost_ns.store(0, Ordering::Relaxed);
        let measured = way != ReadPath::Pread
            && (changed || len >= ALWAYS_MEASURED_BYTES || turn.is_multiple_of(SAMPLE_EVERY));
        self.measured.store(measured, Ordering::Relaxed);
        if object.is_some() {
            *self.sending.lock() = object;
        }
    }

    /// The way of the body that is going out.
    pub(crate) fn way(&self) -> Option<ReadPath> {
        match self.way.load(Ordering::Relaxed) {
            1 => Some(ReadPath::Pread),
            2 => Some(ReadPath::Mapped),
            3 => Some(ReadPath::Sendfile),
            _ => None,
        }
    }

    /// Whether the cost of sending is to be told with [`Self::sent`].
    pub(crate) fn is_measured(&self) -> bool {
        self.measured.load(Ordering::Relaxed)
    }

    /// The kernel took bytes.
    pub(crate) fn sent(&self, bytes: usize, cost_ns: u64) {
        bump(&self.sent, bytes as u64);
        if cost_ns > 0 {
            bump(&self.cost_ns, cost_ns);
        }
        if self.stalled_ms.load(Ordering::Relaxed) != 0 {
            self.stalled_ms.store(0, Ordering::Relaxed);
        }
    }

    /// The kernel took nothing.
    pub(crate) fn refused(&self) {
        if self.stalled_ms.load(Ordering::Relaxed) == 0 {
            self.stalled_ms.store(self.clock_ms.load(Ordering::Relaxed).max(1), Ordering::Relaxed);
        }
    }

    /// The write buffers are empty. Ends the exchange when the answer was complete.
    pub(crate) fn flushed(&self) {
        if self.phase() != Phase::Flushing {
            return;
        }
        self.log(true);
        self.settle();
        self.counters().count_latency(
            self.node.now_ns().saturating_sub(self.started_ns.load(Ordering::Relaxed)),
        );
        self.enter(Phase::Idle);
    }

    /// Whether requests are logged.
    pub(crate) fn logs(&self) -> bool {
        self.node.access.is_some()
    }

    /// Notes a request and its answer for the access log.
    pub(crate) fn note(&self, method: &Method, target: &Uri, status: StatusCode) {
        let (method, target) = (method.clone(), target.to_string());
        let (bytes, took, peer) = (0, Duration::ZERO, self.peer);
        let record = Record { peer, method, target, status, bytes, took, complete: false };
        *self.logged.lock() = Some(Box::new(record));
    }

    fn log(&self, complete: bool) {
        let Some(access) = &self.node.access else { return };
        let Some(mut record) = self.logged.lock().take() else { return };
        record.bytes = self.sent.load(Ordering::Relaxed);
        let started = self.started_ns.load(Ordering::Relaxed);
        record.took = Duration::from_nanos(self.node.now_ns().saturating_sub(started));
        record.complete = complete;
        access.tell(*record);
    }

    /// Counts what was sent and lets the object go.
    fn settle(&self) {
        let sent = self.sent.load(Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
        bump(&self.counters().sent_bytes, sent);
        let Some(way) = self.way() else { return };
        self.way.store(NO_WAY, Ordering::Relaxed);
        if way == ReadPath::Pread {
            return;
        }
        let len = self.body_len.load(Ordering::Relaxed);
        let manager = self.node.cache.zero_copy();
        manager.record(way, sent.min(len));
        let cost_ns = self.cost_ns.load(Ordering::Relaxed);
        if cost_ns > 0 && sent >= len {
            manager.observe(way, len, cost_ns);
        }
        drop(self.sending.lock().take());
    }

    /// After the answer, the rest of the request's body is to be read and thrown away.
    pub(crate) fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::linger`] was asked for.
    pub(crate) fn lingers(&self) -> bool {
        self.linger.load(Ordering::Relaxed)
    }

    /// Remembers whom to wake when the sweep or the node ends this connection.
    pub(crate) fn register(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    /// Wakes the connection's task.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.lock().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Why the connection must end now, if it must.
    pub(crate) fn cut(&self) -> Option<Cut> {
        match self.cut.load(Ordering::Relaxed) {
            NOT_CUT => None,
            1 => Some(Cut::Idle),
            2 => Some(Cut::Header),
            3 => Some(Cut::Stalled),
            _ => Some(Cut::Revoked),
        }
    }

    /// Looks whether a time limit has passed or the bytes being sent are wanted back, and if so ends the connection.
    /// `slack_ms` is how far the worker's clock may lag behind: no limit strikes early.
    pub(crate) fn check(&self, now_ms: u64, slack_ms: u64) {
        if self.cut().is_some() {
            return;
        }
        let limits = &self.node.limits;
        let lasts = |since_ms: u64, limit: Duration| {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            now_ms.saturating_sub(since_ms) >= limit_ms.saturating_add(slack_ms)
        };
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        let stalled_ms = self.stalled_ms.load(Ordering::Relaxed);
        let cut = match self.phase() {
            Phase::Head if lasts(since_ms, limits.header_timeout) => Cut::Header,
            Phase::Idle if lasts(since_ms, limits.idle_timeout) => Cut::Idle,
            Phase::Receiving if lasts(since_ms, limits.send_timeout) => Cut::Stalled,
            Phase::Lingering if lasts(since_ms, LINGER) => Cut::Idle,
            Phase::Handling | Phase::Flushing
                if stalled_ms != 0 && lasts(stalled_ms, limits.send_timeout) =>
            {
                Cut::Stalled
            }
            Phase::Handling | Phase::Flushing if self.is_revoked() => Cut::Revoked,
            _ => return,
        };
        self.cut.store(cut as u8 + 1, Ordering::Relaxed);
        self.counters().count_cut(cut);
        self.wake();
    }

    fn is_revoked(&self) -> bool {
        self.sending.lock().as_ref().is_some_and(Object::is_revoked)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if matches!(self.phase(), Phase::Handling | Phase::Receiving | Phase::Flushing) {
            bump(&self.counters().aborted_responses, 1);
        }
        self.log(false);
        self.settle();
    }
}
