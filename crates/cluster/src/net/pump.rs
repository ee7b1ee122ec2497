//! The task that keeps a lane connected and carries its queue to the peer.
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, ConnectionError, SendStream, WriteError};
use straightway_wire::raft::Lane;
use straightway_wire::{QUIC_CUT, Segments, WireError, encode_hello};
use tokio::sync::watch;

use super::backoff::Backoff;
use super::close::{CloseCode, Closed};
use super::encoder::{Encoded, Encoder};
use super::endpoint::{self, NotDialled};
use super::lane::{OutLane, add};
use super::peer::Peer;
use super::queue::Outgoing;
use super::shared::Shared;

/// A connection that lasted so long was a good one: the next wait is short again.
const GOOD: Duration = Duration::from_secs(1);

/// After so many dials in a row that nobody answered, the peer's own connection is closed, if it has one. The QUIC library sends
/// to where it last heard the peer from, as long as it has any connection with it, and goes on with an address that is silent:
/// the peer was killed, and started elsewhere. It looks anew when the peer dials again.
const UNANSWERED: u32 = 3;

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
            other => Self::NotDialled(NotDialled::other(other.to_string())),
        }
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
    let mut unanswered = 0_u32;
    loop {
        let connected = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            changed = redial.changed() => {
                // It is there now, or elsewhere: what was sent before may have been lost.
                backoff.reset();
                if changed.is_err() {
                    break;
                }
                continue;
            }
            connected = dial_with_hello(&shared, &peer, lane) => connected.map_err(Lost::NotDialled),
        };
        let lost = match connected {
            Ok((connection, stream)) => {
                unanswered = 0;
                let since = Instant::now();
                out.opened(&connection);
                // Whoever was dialled just now is there: an older wish to dial is fulfilled.
                redial.mark_unchanged();
                shared.connected(&peer, lane);
                let lost = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => {
                        connection.close(CloseCode::Stopping.var_int(), CloseCode::Stopping.to_string().as_bytes());
                        break;
                    }
                    lost = pump(&shared, &peer, out, &connection, stream, &mut redial) => lost,
                };
                connection.close(CloseCode::Superseded.var_int(), b"");
                if since.elapsed() >= GOOD {
                    backoff.reset();
                    out.accepted();
                }
                lost
            }
            Err(lost) => {
                let answered =
                    matches!(&lost, Lost::NotDialled(NotDialled { closed: Some(_), .. }));
                unanswered = if answered { 0 } else { unanswered.saturating_add(1) };
                if lane == Lane::Control && unanswered > 0 && unanswered.is_multiple_of(UNANSWERED)
                {
                    peer.hang_up(lane, CloseCode::Superseded, "it is not reached the other way");
                }
                lost
            }
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
            () = out.hinted.notified() => {}
            () = tokio::time::sleep(backoff.wait()) => {}
        }
    }
    out.closed();
}

impl Lost {
    const RESTARTED: NotDialled = NotDialled { closed: None, silent: false, reason: String::new() };
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
        encode_hello(&mut hello, &shared.hello(lane))
            .map_err(|error| NotDialled::other(error.to_string()))?;
        stream.write_all_chunks(hello.finish()).await.map_err(|error| match error {
            WriteError::ConnectionLost(error) => NotDialled::lost(&error),
            other => NotDialled::other(other.to_string()),
        })?;
        Ok(stream)
    };
    match tokio::time::timeout(limits.dial, greet).await {
        Ok(greeted) => greeted.map(|stream| (connection, stream)),
        Err(_) => Err(NotDialled::other(format!("it took no hello within {:?}", limits.dial))),
    }
}

/// Writes all that waits at once, and again, until the connection is lost. What comes while a write is under way makes up the
/// next one. When there is nothing to say for a while, a sign of life asks for an echo.
async fn pump(
    shared: &Shared,
    peer: &Peer,
    out: &OutLane,
    connection: &Connection,
    stream: SendStream,
    redial: &mut watch::Receiver<u64>,
) -> Lost {
    let limits = &shared.limits;
    let hello = shared.hello(out.lane);
    let encoder = Encoder::new(hello.max_message);
    let mut writer = Writer { out, stream, redial, encoder, sent: Sent::default() };
    let (mut batch, mut passing) = (Vec::with_capacity(64), Vec::new());
    loop {
        out.drain_into(&mut batch, limits.batch_bytes);
        if batch.is_empty() {
            tokio::select! {
                () = out.wake.notified() => {}
                error = connection.closed() => return error.into(),
                _ = writer.redial.changed() => return Lost::Restarted,
                () = tokio::time::sleep(limits.keep_alive) => {
                    let id = shared.ids.next_id();
                    if out.pinged(id)
                        && writer.encoder.ping(id).is_ok()
                        && let Err(lost) = writer.write(shared).await
                    {
                        return lost;
                    }
                }
            }
            continue;
        }
        if let Some(agreed) = peer.agreed(out.lane, &hello) {
            writer.encoder.agree(agreed, out.lane == Lane::Append);
        }
        let messages = batch.len();
        if let Err(lost) = writer.send(shared, &mut batch, &mut passing).await {
            // Some of them may have arrived.
            add(&out.counters.dropped, messages + passing.len());
            return lost;
        }
        out.caught_up();
    }
}

/// What is counted once it is written.
#[derive(Default)]
struct Sent {
    messages: usize,
    /// Of each, its payload's length and whether it is in chunks.
    lens: Vec<(usize, bool)>,
}

/// A lane's connection, and what is to be written to it.
struct Writer<'a> {
    out: &'a OutLane,
    stream: SendStream,
    redial: &'a mut watch::Receiver<u64>,
    encoder: Encoder,
    sent: Sent,
}

impl Writer<'_> {
    /// Sends a batch: in one write, but for long messages. Of those, each chunk is one, and takes along what has come
    /// meanwhile and need not wait for their end.
    async fn send(
        &mut self,
        shared: &Shared,
        batch: &mut Vec<Outgoing>,
        passing: &mut Vec<Outgoing>,
    ) -> Result<(), Lost> {
        for item in batch.drain(..) {
            self.encode(item);
            while self.next_chunk() {
                self.write(shared).await?;
                self.out.drain_passing(passing, shared.limits.batch_bytes);
                for item in passing.drain(..) {
                    self.encode(item);
                }
            }
        }
        self.write(shared).await
    }

    fn encode(&mut self, item: Outgoing) {
        // Signs of life are no messages.
        let echo = matches!(item, Outgoing::Echo(_));
        match self.encoder.encode(item) {
            Ok(_) if echo => {}
            Ok(Encoded { len, streamed }) => {
                self.sent.messages += 1;
                self.sent.lens.push((len, streamed));
            }
            Err(error) => self.not_sent(&error),
        }
    }

    /// Whether another chunk has been put in and is not the last one of its message.
    fn next_chunk(&mut self) -> bool {
        self.encoder.next_chunk().unwrap_or_else(|error| {
            self.not_sent(&error);
            false
        })
    }

    fn not_sent(&self, error: &WireError) {
        add(&self.out.counters.dropped, 1);
        tracing::warn!(%error, lane = ?self.out.lane, "a message could not be sent");
    }

    async fn write(&mut self, shared: &Shared) -> Result<(), Lost> {
        let (segments, counters) = (&mut self.encoder.segments, &self.out.counters);
        let bytes = segments.len_bytes();
        if bytes == 0 {
            return Ok(());
        }
        tokio::select! {
            written = self.stream.write_all_chunks(segments.finish()) => written?,
            _ = self.redial.changed() => return Err(Lost::Restarted),
        }
        segments.clear();
        let Sent { messages, lens } = &mut self.sent;
        for (len, streamed) in lens.drain(..) {
            shared.wire.sent(len, streamed);
        }
        add(&counters.sent, std::mem::take(messages));
        add(&counters.sent_bytes, bytes);
        add(&counters.batches, 1);
        Ok(())
    }
}

/// What the peer said, if it closed.
pub(crate) fn refusal(lost: &NotDialled) -> Option<&Closed> {
    lost.closed.as_ref().filter(|closed| {
        !matches!(closed.code, CloseCode::Done | CloseCode::Stopping | CloseCode::Superseded)
    })
}
