//! What is said between the hub and one subscriber: the greeting, commands and their answers, the end.
use std::io::{self, Read as _};
use std::net::TcpStream as StdTcpStream;

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Token};
use straightway_buffer::SharedPacket;
use straightway_codec::event::{GapReason, Hello, Subscribe, Subscribed, TypeEntry};
use straightway_codec::ws::{CloseCode, Incoming, Opcode, Violation, put_head};
use straightway_codec::{Codec, CodecError, Encoding, Envelope, FallbackReason, JsonCodec, Stamp};

use super::conn::Conn;
use super::filter::Filter;
use super::hub::Hub;
use super::limits::FeedLimits;
use super::publish::{SWEEP, count, now_ms};
use super::seats::{Joining, Subscriber};

/// Reads from one socket before others have their turn.
const READS: usize = 4;
/// Kernel memory for what a subscriber has not taken.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

impl Hub {
    /// Takes in those who joined.
    pub(super) fn welcome(&mut self) {
        let joining = self.shared.joining.lock().as_mut().map(std::mem::take).unwrap_or_default();
        if joining.is_empty() {
            return;
        }
        self.catch_up();
        for joining in joining {
            if let Err(error) = self.take_in(joining) {
                tracing::debug!(%error, "a subscriber went away at once");
            }
        }
    }

    fn take_in(&mut self, joining: Joining) -> io::Result<()> {
        let Joining { subscriber, filter, since, seat } = joining;
        let Subscriber { stream, unread, agreed, deflate, mut wanted } = subscriber;
        if wanted.from.is_none() {
            (wanted.from, wanted.epoch) = (Some(since), None);
        }
        stream.set_nonblocking(true)?;
        // An answer of a few bytes must not wait for the acknowledgement of the one before.
        stream.set_nodelay(true)?;
        bound_kernel(&stream, &self.shared.limits)?;
        let mut socket = TcpStream::from_std(stream);
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut socket, Token(index), interest) {
            self.free.push(index);
            return Err(error);
        }
        let max_message = self.shared.limits.max_message;
        let mut conn =
            Conn::new(socket, index, agreed.encoding, agreed.zstd, deflate, max_message, seat);
        conn.budget = self.full_budget();
        conn.filter = self.filters.enter(filter);
        if self.drained_by.is_some() {
            conn.close(CloseCode::Restart, "the node stops; come back in a second");
        }
        let outcome = self.greet(&mut conn, &wanted, agreed.encoding, unread);
        self.put_back(index, Box::new(conn), outcome);
        Ok(())
    }

    fn greet(
        &mut self,
        conn: &mut Conn,
        wanted: &Subscribe,
        encoding: Encoding,
        unread: Bytes,
    ) -> io::Result<()> {
        if encoding == Encoding::Rkyv {
            let next = self.view.next();
            let head = wanted.from.map_or(next, |from| from.min(next));
            let hello = self.hello(head).map_err(io::Error::other)?;
            conn.queue_frame(hello)?;
        }
        self.place(conn, wanted)?;
        let mut unread = Vec::from(unread);
        self.hear(conn, &mut unread);
        self.pump(conn)
    }

    /// Puts a subscriber where it wants to go on. Tells what it asked for and cannot get; answers whether that is
    /// nothing.
    fn place(&self, conn: &mut Conn, wanted: &Subscribe) -> io::Result<bool> {
        conn.on_lag = wanted.on_lag;
        conn.may_lag = self.shared.limits.max_lag;
        let (oldest, next) = (self.view.oldest(), self.view.next());
        let Some(from) = wanted.from else {
            conn.cursor = next;
            return Ok(true);
        };
        conn.cursor = from;
        // An offset that is yet to come was given by another life of the node.
        if wanted.epoch.is_some_and(|epoch| epoch != self.shared.epoch) || from > next {
            self.send_gap(conn, oldest, GapReason::Restarted)?;
            conn.may_lag += next - oldest;
            return Ok(false);
        }
        if from < oldest {
            self.send_gap(conn, oldest, GapReason::Expired)?;
            conn.may_lag += next - oldest;
            return Ok(false);
        }
        conn.cursor = from;
        // What is kept for those who resume is not held against them.
        conn.may_lag += next - conn.cursor;
        Ok(true)
    }

    fn hello(&self, head: u64) -> Result<SharedPacket, CodecError> {
        let shared = &self.shared;
        let encode = || {
            let types = shared.registry.types().map(|info| TypeEntry {
                name: info.name.to_owned(),
                id: info.id,
                version: info.version,
                fingerprint: info.fingerprint,
            });
            let millis = shared.limits.heartbeat.as_millis();
            let hello = Hello {
                node: shared.node.clone(),
                epoch: shared.epoch,
                head,
                oldest: self.view.oldest(),
                heartbeat_ms: u32::try_from(millis).unwrap_or(u32::MAX),
                max_message: u32::try_from(shared.limits.max_message).unwrap_or(u32::MAX),
                dictionary: straightway_codec::compress::EVENTS.number(),
                types: types.collect(),
            };
            let stamp = Stamp { offset: hello.head, time_us: now_ms() * 1000, ..Stamp::default() };
            let mut message = shared.forms.encoder.encode(stamp, &hello)?;
            put_head(&mut message, Opcode::Binary)?;
            Ok(message)
        };
        // The same for all who come before the next event.
        shared.forms.encoder.cached::<Hello>(head, SWEEP, encode)
    }

    /// Reads what a subscriber says.
    pub(super) fn listen(&mut self, index: usize) {
        let Some(mut conn) = self.conns.get_mut(index).and_then(Option::take) else { return };
        conn.talkative = false;
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut outcome = Ok(());
        let mut reads = 0;
        loop {
            if reads == READS {
                self.hear_again(&mut conn);
                break;
            }
            reads += 1;
            match conn.socket.read(&mut scratch) {
                // It has said goodbye, or has been told why: what is left of that goes out first.
                Ok(0) if conn.closing.is_some() => {
                    conn.agree(None);
                    break;
                }
                Ok(0) => {
                    outcome = Err(io::ErrorKind::UnexpectedEof.into());
                    break;
                }
                // What comes after the end is thrown away, so that the peer learns why it ended.
                Ok(_) if conn.closing.is_some_and(|closing| closing.deaf) => {}
                Ok(read) => self.hear(&mut conn, &mut scratch[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.scratch = scratch;
        let outcome = outcome.and_then(|()| self.pump(&mut conn));
        self.put_back(index, conn, outcome);
    }

    /// Understands what a subscriber said.
    fn hear(&mut self, conn: &mut Conn, bytes: &mut [u8]) {
        conn.silent_for = 0;
        conn.pinged = false;
        let mut at = 0;
        while at < bytes.len() {
            // Out of the connection while its messages are looked at.
            let mut reader = conn.reader.take();
            let read = reader.read(&mut bytes[at..]);
            let (taken, verdict) = match read {
                Ok((taken, None)) => (taken, Ok(())),
                Ok((taken, Some(incoming))) => (taken, self.answer(conn, &incoming)),
                Err(violation) => (bytes.len() - at, Err(violation)),
            };
            conn.reader = reader;
            at += taken;
            if let Err(violation) = verdict {
                count(&self.shared.counts.violations, 1);
                tracing::debug!(%violation, "a subscriber broke the protocol");
                conn.close_deaf(violation.code, violation.what);
                return;
            }
        }
    }

    fn answer(&mut self, conn: &mut Conn, incoming: &Incoming<'_>) -> Result<(), Violation> {
        if conn.closing.is_some() && !matches!(incoming, Incoming::Close(_)) {
            return Ok(());
        }
        let (code, what) = match incoming {
            Incoming::Pong(_) => return Ok(()),
            Incoming::Close(why) => {
                conn.agree(why.map(|(code, _)| code));
                return Ok(());
            }
            Incoming::Ping(_) => (CloseCode::Policy, "more pings than are answered"),
            _ => (CloseCode::TooMany, "more commands than are taken"),
        };
        conn.budget = conn.budget.checked_sub(1).ok_or(Violation { code, what })?;
        match incoming {
            Incoming::Ping(payload) => conn.queue(Opcode::Pong, payload),
            Incoming::Text(text) => self.command_text(conn, text),
            Incoming::Binary(bytes) => self.command(conn, bytes),
            Incoming::Pong(_) | Incoming::Close(_) => Ok(()),
        }
        .map_err(|_| Violation { code: CloseCode::Policy, what: "answers that are not taken" })
    }

    fn command_text(&mut self, conn: &mut Conn, text: &str) -> io::Result<()> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Command {
            #[serde(default)]
            id: String,
            subscribe: Subscribe,
        }
        match serde_json::from_str::<Command>(text) {
            Ok(command) => self.subscribe(conn, &command.id, &command.subscribe, Encoding::Json),
            Err(error) => {
                let error = format!("not a command: {error}; send {{\"subscribe\": {{...}}}}");
                self.reply(
                    conn,
                    "",
                    Subscribed { error: Some(error), ..Subscribed::default() },
                    Encoding::Json,
                )
            }
        }
    }

    /// A command in rkyv: the registry is asked what it is. One that cannot be read is answered in JSON.
    fn command(&mut self, conn: &mut Conn, bytes: &[u8]) -> io::Result<()> {
        let shared = self.shared.clone();
        let (pool, limit) = (shared.forms.encoder.pool(), shared.limits.max_message);
        match Envelope::<Subscribe>::open(bytes, &shared.registry, pool, limit) {
            Ok(envelope) => {
                conn.peer.succeeded(&shared.fallback);
                self.subscribe(conn, &envelope.id, &envelope.payload, conn.peer.encoding())
            }
            Err(error) => {
                conn.peer.failed(&shared.fallback, FallbackReason::InvalidPayload);
                let refused =
                    Subscribed { error: Some(error.to_string()), ..Subscribed::default() };
                self.reply(conn, "", refused, Encoding::Json)
            }
        }
    }

    fn subscribe(
        &mut self,
        conn: &mut Conn,
        id: &str,
        wanted: &Subscribe,
        encoding: Encoding,
    ) -> io::Result<()> {
        let filter = match Filter::of(wanted) {
            Ok(filter) => filter,
            Err(error) => {
                let refused =
                    Subscribed { error: Some(error.to_string()), ..Subscribed::default() };
                return self.reply(conn, id, refused, encoding);
            }
        };
        let entered = self.filters.enter(filter);
        self.filters.leave(std::mem::replace(&mut conn.filter, entered));
        conn.stats_seen = 0;
        conn.ahead_to = 0;
        let resumed = if wanted.from.is_none() {
            // A new filter, not a new place: what is under way is not lost.
            conn.on_lag = wanted.on_lag;
            true
        } else {
            conn.ahead.clear();
            self.place(conn, wanted)?
        };
        let epoch = self.shared.epoch;
        self.reply(
            conn,
            id,
            Subscribed { epoch, from: conn.cursor, resumed, error: None },
            encoding,
        )
    }

    fn reply(
        &self,
        conn: &mut Conn,
        id: &str,
        reply: Subscribed,
        encoding: Encoding,
    ) -> io::Result<()> {
        let pool = self.shared.forms.encoder.pool();
        let frame = match encoding {
            Encoding::Rkyv => {
                let envelope = Envelope::new(id, reply);
                envelope.encode(pool).map(|message| (Opcode::Binary, message))
            }
            Encoding::Json => {
                let text =
                    serde_json::json!({ "type": "subscribed", "id": id, "subscribed": reply });
                JsonCodec.encode(&text, pool).map(|message| (Opcode::Text, message))
            }
        };
        let (opcode, message) = frame.map_err(io::Error::other)?;
        conn.queue(opcode, &message)
    }
}

/// Without a bound the kernel may let megabytes gather for each subscriber that does not read, and wait for a quarter of an hour for
/// one that is gone: it waits as long as the feed does.
fn bound_kernel(stream: &StdTcpStream, limits: &FeedLimits) -> io::Result<()> {
    rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    {
        let patience = limits.heartbeat.saturating_add(limits.pong_timeout).as_millis();
        // More than a kernel takes is as good as for ever.
        let patience = i32::try_from(patience).unwrap_or(i32::MAX).cast_unsigned();
        rustix::net::sockopt::set_tcp_user_timeout(stream, patience)?;
    }
    Ok(())
}
