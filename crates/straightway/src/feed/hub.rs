//! The feed's one thread: gives every subscriber what it has not seen, and hears what they say.
//!
//! A pass walks over all subscribers in steps of a few, looking at the sockets in between; nobody is waited for. Those
//! whose sockets take nothing are passed over until they do, and then go on from their cursors. Subscribers that stand
//! at the same place with the same filter get the same run of frames: it is made once a pass, as one piece if it is
//! short, since many small slices cost more than one copy that all share.
//!
//! A first event is written at once. While they come thick and fast a pass begins at most once in the flush window, so
//! that what has come in between goes out in one write.
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use straightway_buffer::{Reason, SharedPacket};
use straightway_codec::Stamp;
use straightway_codec::event::{Gap, GapReason, Kind, OnLag};
use straightway_codec::ws::{CloseCode, Opcode};

use super::conn::{Conn, Wrote};
use super::publish::{SWEEP, Shared, count, now_ms};
use super::ring::{Form, Slot};
use super::view::{Filters, View};

/// Its own wake-up call among the sockets' tokens.
pub(super) const WAKE: Token = Token(usize::MAX);
/// Subscribers that are given something before the sockets are looked at again.
const STEP: usize = 128;
/// Events in one write.
const BURST_EVENTS: usize = 64;
/// Bytes in one write, or one event.
const BURST_BYTES: usize = 64 * 1024;
/// Runs up to this many bytes are copied together, once for all who get them.
const FLATTEN_BYTES: usize = 16 * 1024;
/// Writes to one subscriber before others have their turn.
const BURSTS: usize = 16;
/// Urgent events that may be ahead of their turn at one subscriber.
const MAX_AHEAD: usize = 32;
/// Sweeps that a message may take to arrive.
const MAX_PARTIAL: u16 = 10;
/// How long subscribers have to say goodbye when the node stops.
const DRAIN: Duration = Duration::from_secs(1);

/// See the module's text.
pub(super) struct Hub {
    pub(super) shared: Arc<Shared>,
    pub(super) poll: Poll,
    pub(super) conns: Vec<Option<Box<Conn>>>,
    pub(super) free: Vec<usize>,
    pub(super) filters: Filters,
    pub(super) view: View,
    /// Where the pass that is under way stands.
    pass: Option<usize>,
    last_pass: Instant,
    /// There is something that no pass has seen.
    dirty: bool,
    bursts: Vec<Burst>,
    /// Sockets that had more to say than was listened to.
    pub(super) talkative: Vec<usize>,
    pub(super) scratch: Vec<u8>,
    next_sweep: Instant,
    pub(super) drained_by: Option<Instant>,
}

/// A run of events for all who stand at `start`.
struct Burst {
    start: u64,
    filter: u32,
    form: Form,
    end: u64,
    frames: Vec<SharedPacket>,
    events: u64,
    bytes: u64,
    /// When the first of the events in it is worth nothing any more, in milliseconds since the Unix epoch.
    until: Option<u64>,
}

impl Hub {
    pub(super) fn new(shared: Arc<Shared>, poll: Poll) -> Self {
        let now = Instant::now();
        Self {
            shared,
            poll,
            conns: Vec::new(),
            free: Vec::new(),
            filters: Filters::default(),
            view: View::default(),
            pass: None,
            last_pass: now,
            dirty: false,
            bursts: Vec::new(),
            talkative: Vec::new(),
            scratch: vec![0; 16 * 1024],
            next_sweep: now + SWEEP,
            drained_by: None,
        }
    }

    /// Runs until the feed is stopped and its subscribers are gone.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            if let Err(error) = self.poll.poll(&mut events, Some(self.patience()))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the feed's sockets cannot be watched; it ends");
                return;
            }
            for event in &events {
                let Token(index) = event.token();
                if event.token() == WAKE {
                    self.dirty |= self.shared.woken.swap(false, Ordering::AcqRel);
                    continue;
                }
                if event.is_writable()
                    && let Some(Some(conn)) = self.conns.get_mut(index)
                {
                    conn.blocked = false;
                    self.serve(index);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.listen(index);
                }
            }
            for index in std::mem::take(&mut self.talkative) {
                self.listen(index);
            }
            self.welcome();
            self.step();
            let now = Instant::now();
            if now >= self.next_sweep {
                self.next_sweep = now + SWEEP;
                self.sweep();
            }
            if self.is_drained(now) {
                return;
            }
        }
    }

    /// How long there is nothing to do.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        if self.pass.is_some() || !self.talkative.is_empty() {
            return Duration::ZERO;
        }
        let sweep = self.next_sweep.saturating_duration_since(now);
        if self.dirty {
            let due = self.last_pass + self.shared.limits.flush_window;
            return due.saturating_duration_since(now).min(sweep);
        }
        if self.drained_by.is_some() { Duration::from_millis(10) } else { sweep }
    }

    /// Begins a pass when one is due, and goes on with the one that is under way.
    fn step(&mut self) {
        if self.pass.is_none() {
            let due = self.last_pass.elapsed() >= self.shared.limits.flush_window;
            if !self.dirty || !due {
                return;
            }
            self.dirty = false;
            self.pass = Some(0);
        }
        let Some(at) = self.pass else { return };
        self.catch_up();
        let end = (at + STEP).min(self.conns.len());
        for index in at..end {
            self.serve(index);
        }
        self.pass = (end < self.conns.len()).then_some(end);
        if self.pass.is_none() {
            self.last_pass = Instant::now();
        }
    }

    /// Looks at what was published since the last look.
    pub(super) fn catch_up(&mut self) {
        if self.view.catch_up(&self.shared.ring.read()) {
            self.bursts.clear();
            self.filters.forget_before(self.view.oldest());
        }
    }

    /// Gives a subscriber what it has not seen, as far as its socket takes it.
    fn serve(&mut self, index: usize) {
        let Some(mut conn) = self.conns.get_mut(index).and_then(Option::take) else { return };
        let outcome = self.pump(&mut conn);
        self.put_back(index, conn, outcome);
    }

    pub(super) fn put_back(&mut self, index: usize, conn: Box<Conn>, outcome: io::Result<()>) {
        match outcome {
            Ok(()) if !conn.is_over() => self.conns[index] = Some(conn),
            Ok(()) => self.let_go(index, *conn),
            Err(error) => {
                tracing::debug!(%error, "a subscriber is gone");
                self.let_go(index, *conn);
            }
        }
    }

    fn let_go(&mut self, index: usize, mut conn: Conn) {
        drop(self.poll.registry().deregister(&mut conn.socket));
        self.filters.leave(conn.filter);
        self.free.push(index);
    }

    pub(super) fn pump(&mut self, conn: &mut Conn) -> io::Result<()> {
        for _ in 0..BURSTS {
            if conn.blocked {
                return Ok(());
            }
            if (!conn.is_clear() || conn.closing.is_some()) && conn.flush()? == Wrote::Some {
                return Ok(());
            }
            if conn.closing.is_some() {
                return Ok(());
            }
            if self.tell_gap(conn)? || self.overtake(conn)? {
                continue;
            }
            if conn.cursor < self.view.next() {
                self.send_burst(conn)?;
            } else {
                conn.may_lag = self.shared.limits.max_lag;
                if !self.send_stats(conn)? {
                    return Ok(());
                }
            }
        }
        // It has far to go and reads fast: others first.
        self.hear_again(conn);
        Ok(())
    }

    /// Has a subscriber listened to, and served, again.
    pub(super) fn hear_again(&mut self, conn: &mut Conn) {
        if !std::mem::replace(&mut conn.talkative, true) {
            self.talkative.push(conn.index);
        }
    }

    /// Tells a subscriber that stands before the oldest event, or too far behind the newest, what it does not get.
    fn tell_gap(&mut self, conn: &mut Conn) -> io::Result<bool> {
        let (oldest, next) = (self.view.oldest(), self.view.next());
        let lagging = next.saturating_sub(conn.cursor) > conn.may_lag;
        if conn.cursor >= oldest && !lagging {
            return Ok(false);
        }
        if conn.on_lag == OnLag::Disconnect {
            count(&self.shared.counts.lagging_closed, 1);
            conn.close(CloseCode::Lagging, &format!("you are behind; go on from {}", conn.cursor));
            return Ok(true);
        }
        // Half of what is allowed, so that the next event is not too much again.
        let half = self.shared.limits.max_lag / 2;
        let to = if lagging { oldest.max(next.saturating_sub(half)) } else { oldest };
        self.send_gap(conn, to, GapReason::Lagging)?;
        Ok(true)
    }

    pub(super) fn send_gap(&self, conn: &mut Conn, to: u64, reason: GapReason) -> io::Result<()> {
        let gap = Gap { from: conn.cursor, to, reason };
        count(&self.shared.counts.gaps, 1);
        conn.cursor = to;
        let forms = &self.shared.forms;
        let stamp = Stamp { offset: to, time_us: now_ms() * 1000, ..Stamp::default() };
        let message = forms.encoder.encode(stamp, &gap).map_err(io::Error::other)?;
        let slot = Slot::new(message, Kind::Gap, self.shared.started.elapsed(), forms);
        let slot = slot.map_err(io::Error::other)?;
        conn.queue_frame(slot.frame(conn.form(), forms).clone())
    }

    /// Sends an urgent event ahead of others when there are too many of those to be sent at once.
    fn overtake(&mut self, conn: &mut Conn) -> io::Result<bool> {
        let soon = conn.cursor + BURST_EVENTS as u64;
        if self.view.next() <= soon || conn.ahead.len() == MAX_AHEAD {
            return Ok(false);
        }
        let beyond = soon.max(conn.ahead_to);
        let Some(slot) = self.view.urgent_after(beyond).cloned() else { return Ok(false) };
        conn.ahead_to = slot.offset;
        if !conn.ahead.contains(&slot.offset) && self.filters.wants(conn.filter, &slot) {
            conn.ahead.push(slot.offset);
            count(&self.shared.counts.overtaken, 1);
            let forms = &self.shared.forms;
            let frame = slot.ahead(forms).map_err(io::Error::other)?;
            conn.queue_frame(frame.frame(conn.form(), forms).clone())?;
        }
        Ok(true)
    }

    fn send_burst(&mut self, conn: &mut Conn) -> io::Result<()> {
        let (start, filter, form) = (conn.cursor, conn.filter, conn.form());
        // Whoever was sent something ahead stands apart until it has passed it.
        conn.ahead.retain(|offset| *offset >= start);
        let alone = !conn.ahead.is_empty();
        let same = |burst: &Burst| {
            (burst.start, burst.filter, burst.form) == (start, filter, form)
                && burst.until.is_none_or(|end| now_ms() < end)
        };
        let known = if alone { None } else { self.bursts.iter().position(same) };
        let made;
        let burst = if let Some(known) = known {
            &self.bursts[known]
        } else {
            let burst = self.gather(start, filter, form, &conn.ahead);
            if alone {
                made = burst;
                &made
            } else {
                if self.bursts.len() == 64 {
                    self.bursts.clear();
                }
                self.bursts.push(burst);
                let Some(burst) = self.bursts.last() else { return Ok(()) };
                burst
            }
        };
        conn.cursor = burst.end;
        let counts = &self.shared.counts;
        match &burst.frames[..] {
            [] => return Ok(()),
            [one] => conn.send(one)?,
            several => conn.send_all(several)?,
        };
        count(&counts.writes, 1);
        count(&counts.deliveries, burst.events);
        count(&counts.sent_bytes, burst.bytes);
        Ok(())
    }

    /// The events from `start` on that a filter lets through, as few frames as is worth while.
    fn gather(&mut self, start: u64, filter: u32, form: Form, ahead: &[u64]) -> Burst {
        let mut burst = Burst {
            start,
            filter,
            form,
            end: start,
            frames: Vec::new(),
            events: 0,
            bytes: 0,
            until: None,
        };
        let now_ms = now_ms();
        let mut bytes = 0;
        for slot in self.view.from(start) {
            let overtaken = ahead.contains(&slot.offset);
            let expired = slot.expires_ms.is_some_and(|end| now_ms >= end);
            if expired {
                count(&self.shared.counts.expired, 1);
            }
            if !overtaken && !expired && self.filters.wants(filter, slot) {
                let frame = slot.frame(form, &self.shared.forms);
                if burst.events > 0 && bytes + frame.len() > BURST_BYTES {
                    break;
                }
                bytes += frame.len();
                burst.until = [burst.until, slot.expires_ms].into_iter().flatten().min();
                burst.frames.push(frame.clone());
                burst.events += 1;
            }
            burst.end = slot.offset + 1;
            if burst.frames.len() == BURST_EVENTS {
                break;
            }
        }
        burst.bytes = bytes as u64;
        if burst.frames.len() > 1 && bytes <= FLATTEN_BYTES {
            self.flatten(&mut burst.frames, bytes);
        }
        burst
    }

    fn flatten(&self, frames: &mut Vec<SharedPacket>, bytes: usize) {
        // Without a buffer they go out one by one.
        let Ok(mut run) = self.shared.forms.encoder.pool().acquire(bytes) else { return };
        for frame in &*frames {
            run.fill_from(frame, Reason::Gather);
        }
        *frames = vec![run.share()];
    }

    /// Sends the node's numbers if there are newer ones; `false`: there are none.
    fn send_stats(&mut self, conn: &mut Conn) -> io::Result<bool> {
        let version = self.shared.stats_version.load(Ordering::Acquire);
        if conn.stats_seen == version {
            return Ok(false);
        }
        let Some(slot) = self.shared.stats.lock().clone() else { return Ok(false) };
        if slot.offset > conn.cursor {
            // Whoever gets numbers has seen all events before them: those come with the next pass.
            self.dirty = true;
            return Ok(false);
        }
        conn.stats_seen = version;
        if !self.filters.wants_kind(conn.filter, Kind::Stats) {
            return Ok(false);
        }
        if slot.expires_ms.is_some_and(|end| now_ms() >= end) {
            count(&self.shared.counts.expired, 1);
            return Ok(false);
        }
        let frame = slot.frame(conn.form(), &self.shared.forms);
        count(&self.shared.counts.writes, 1);
        count(&self.shared.counts.deliveries, 1);
        count(&self.shared.counts.sent_bytes, frame.len() as u64);
        conn.send(frame)?;
        Ok(true)
    }

    /// Looks after every subscriber, once a second.
    fn sweep(&mut self) {
        let limits = self.shared.limits;
        let seconds = |time: Duration| u16::try_from(time.as_secs().max(1)).unwrap_or(u16::MAX);
        let (heartbeat, patience) = (seconds(limits.heartbeat), seconds(limits.pong_timeout));
        let full = self.full_budget();
        let step = u16::try_from(limits.commands_per_second).unwrap_or(u16::MAX).max(1);
        let head = self.view.next();
        if self.is_empty() {
            // Nobody is there to keep old events for.
            self.view = View::default();
            self.bursts.clear();
        }
        for index in 0..self.conns.len() {
            let Some(mut conn) = self.conns[index].take() else { continue };
            conn.budget = conn.budget.saturating_add(step).min(full);
            conn.silent_for = conn.silent_for.saturating_add(1);
            conn.partial_for =
                if conn.reader.is_under_way() { conn.partial_for.saturating_add(1) } else { 0 };
            let outcome = if let Some(closing) = &mut conn.closing {
                closing.sweeps_left = closing.sweeps_left.saturating_sub(1);
                if closing.sweeps_left == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
            } else if conn.partial_for > MAX_PARTIAL {
                count(&self.shared.counts.violations, 1);
                conn.close(CloseCode::Policy, "a message that does not end");
                self.pump(&mut conn)
            } else if conn.pinged && conn.silent_for >= heartbeat.saturating_add(patience) {
                count(&self.shared.counts.silent, 1);
                conn.close(CloseCode::Silent, "nothing was heard of you");
                self.pump(&mut conn)
            } else if !conn.pinged && conn.silent_for >= heartbeat {
                conn.pinged = true;
                // Where the stream stands, for those who look into pings.
                conn.queue(Opcode::Ping, &head.to_le_bytes()).and_then(|()| self.pump(&mut conn))
            } else {
                Ok(())
            };
            self.put_back(index, conn, outcome);
        }
    }

    pub(super) fn full_budget(&self) -> u16 {
        u16::try_from(self.shared.limits.commands_per_second.saturating_mul(2)).unwrap_or(u16::MAX)
    }

    /// Says goodbye when the feed is stopped; whether everybody is gone, or had time enough.
    fn is_drained(&mut self, now: Instant) -> bool {
        if !self.shared.stopping.load(Ordering::Acquire) {
            return false;
        }
        let Some(by) = self.drained_by else {
            self.drained_by = Some(now + DRAIN);
            for index in 0..self.conns.len() {
                let Some(mut conn) = self.conns[index].take() else { continue };
                // Spread over some seconds, so that they do not all come back at once.
                let wait = 500 + index * 37 % 5000;
                conn.close(CloseCode::Restart, &format!("the node stops; come back in {wait} ms"));
                let outcome = self.pump(&mut conn);
                self.put_back(index, conn, outcome);
            }
            return self.is_empty();
        };
        now >= by || self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.conns.len()
    }
}

/// Whoever joins from here on is let go of, whatever ended the thread.
impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.shared.joining.lock().take());
    }
}
