//! What is done with a member's message: the wire crate's handler, between the network's queues and the node's.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use raft::prelude::MessageType as RaftType;
use straightway_buffer::{Reason, count_copied};
use straightway_wire::raft::{Lane, deserialize_raft_message_fast, lane_of, memory_of};
use straightway_wire::{
    Event, Frame, MessageType, RaftProtocolHandler, RaftSink, RpcReply, RpcRequestView, RpcService,
    Segments, Ticket, WireError,
};
use tokio::sync::mpsc;

use super::close::CloseCode;
use super::inbound::Refused;
use super::peer::Peer;
use super::queue::Outgoing;
use super::refusals::Refusal;
use super::rpc;
use super::shared::{Held, Inbound, Shared};

/// Handles the messages of one lane that a member dialled.
pub(crate) struct Dispatcher {
    inbox: Arc<Inbox>,
    handler: RaftProtocolHandler<Arc<Inbox>, Calls>,
    /// What the handler answers on the spot. One part: it is queued whole or not at all.
    out: Segments,
}

impl Dispatcher {
    pub(crate) fn new(shared: &Arc<Shared>, peer: &Arc<Peer>, lane: Lane) -> Self {
        let kept = AtomicUsize::new(0);
        let inbox = Inbox { shared: Arc::clone(shared), peer: Arc::clone(peer), lane, kept };
        let (inbox, calls) = (Arc::new(inbox), Calls(Arc::clone(shared), Arc::clone(peer)));
        // Of one connection; of all together, the service lets no more than that be under way and says so by name.
        let most = shared.limits.calls_answered.saturating_add(1);
        let (pending, metrics) = (peer.calls.clone(), Arc::clone(&shared.wire));
        let handler = RaftProtocolHandler::new(Arc::clone(&inbox), calls, pending, most, metrics);
        Self { inbox, handler, out: Segments::new(usize::MAX) }
    }

    /// Does what a message asks for. Waits while the node is busy, and with it the peer.
    ///
    /// `kept`: bytes that stay in memory as long as a slice of the frame's payload does.
    pub(crate) async fn dispatch(&mut self, frame: Frame, kept: usize) -> Result<(), Refused> {
        let Inbox { shared, peer, lane, kept: of_frame } = &*self.inbox;
        of_frame.store(kept, Ordering::Relaxed);
        let kind = frame.header.msg_type;
        let placed = match kind {
            MessageType::RaftMessage
            | MessageType::Heartbeat
            | MessageType::Close
            | MessageType::Error => true,
            MessageType::Request | MessageType::Response => *lane == Lane::Control,
            _ => false,
        };
        if !placed {
            let text = format!("a {kind:?} has no place on the {lane:?} lane");
            return Err(Refused::new(Refusal::Message, CloseCode::Protocol, text));
        }
        let event = self.handler.process_message_zero_copy(peer.id, frame, &mut self.out)?;
        if !self.out.is_empty() {
            let frames = self.out.finish().first_mut().map(std::mem::take);
            self.out.clear();
            if let (Some(frames), Some(out)) = (frames, peer.out(*lane)) {
                // A copy: otherwise they would keep the memory that is used again here.
                let frames = Bytes::copy_from_slice(&frames);
                let alive = kind == MessageType::Heartbeat;
                // Dropped if there is no room: that says nothing about whether the peer can be reached.
                out.put(if alive { Outgoing::Echo(frames) } else { Outgoing::Frames(frames) });
            }
        }
        match event {
            Some(Event::Busy(frame)) => {
                let room = self.inbox.room(memory_of(&frame.payload)).await;
                let room = room.ok_or_else(|| Refused::quietly(CloseCode::Stopping))?;
                self.inbox.take(frame, room).map_err(|error| {
                    shared.wire.refused();
                    refused(&error)
                })
            }
            Some(Event::Refused(error)) => Err(refused(&error)),
            Some(Event::Closed(notice) | Event::PeerError(notice)) => {
                tracing::info!(peer = peer.id, notice.code, notice.text, "a notice");
                Ok(())
            }
            Some(Event::Pong(id)) => {
                if let Some(out) = peer.out(*lane) {
                    out.echoed(id);
                }
                Ok(())
            }
            // Signs of life, and answers that nobody waits for any more.
            _ => Ok(()),
        }
    }
}

fn refused(error: &WireError) -> Refused {
    Refused::new(Refusal::RaftMessage, CloseCode::Protocol, error.to_string())
}

/// The node's queue, as one member fills it.
struct Inbox {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    lane: Lane,
    /// Of the frame at hand, how much memory its payload keeps as long as a slice of it lives. This is no part of the peer's
    /// share, which is taken before the message is read: most messages have no slice of their frame, and would take a thousand
    /// times what they need. Whoever gets the message counts it, once it is known what is sliced and what was copied out.
    kept: AtomicUsize,
}

/// Room for one message: a share of the peer's memory, as large as the message itself will be
/// ([`memory_of`]: its bytes and the list of its entries), and a place in the queue.
struct Room<'a> {
    held: Held,
    place: mpsc::Permit<'a, Inbound>,
}

impl Inbox {
    /// What is larger than the whole share takes all of it.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.clamp(1, self.shared.limits.inbound(self.lane))).unwrap_or(u32::MAX)
    }

    /// Room that is there.
    fn room_now(&self, bytes: usize) -> Option<Room<'_>> {
        let share = self.share(bytes);
        let held = Arc::clone(self.peer.received(self.lane)).try_acquire_many_owned(share).ok()?;
        Some(Room { held: Held::new(held), place: self.shared.inbound.try_reserve().ok()? })
    }

    /// Room, once there is some; `None`: the node stops.
    async fn room(&self, bytes: usize) -> Option<Room<'_>> {
        let share = self.share(bytes);
        let held =
            Arc::clone(self.peer.received(self.lane)).acquire_many_owned(share).await.ok()?;
        Some(Room { held: Held::new(held), place: self.shared.inbound.reserve().await.ok()? })
    }

    /// Hands a message of Raft on, if it is one that this peer may send on this lane.
    fn take(&self, frame: Frame, room: Room<'_>) -> Result<(), WireError> {
        let (peer, lane, me) = (self.peer.id, self.lane, self.shared.node.raft_id);
        let len = frame.payload.len();
        let wrong = |reason| WireError::Invalid { what: "a Raft message", reason };
        let mut message = deserialize_raft_message_fast(frame.payload)?;
        if message.from != peer || message.to != me {
            return Err(wrong(format!(
                "it is from {} to {}, on the connection of {peer} to {me}",
                message.from, message.to
            )));
        }
        let kind = message.get_msg_type();
        // What announces a snapshot travels with the entries that it stands for; its bytes do not.
        let expected =
            if kind == RaftType::MsgSnapshot { Some(Lane::Append) } else { lane_of(kind) };
        if expected != Some(lane) {
            return Err(wrong(format!("a {kind:?} has no place on the {lane:?} lane")));
        }
        // A mark of a read is not worth the frame's memory.
        if !message.context.is_empty() {
            count_copied(message.context.len(), Reason::Gather);
            message.context = Bytes::copy_from_slice(&message.context);
        }
        // What has no slice of it keeps nothing of the frame.
        let snapshot = message.get_snapshot().data.len();
        let slices = snapshot > 0 || !message.get_entries().is_empty();
        let frame_bytes = if slices { self.kept.load(Ordering::Relaxed) } else { len };
        let (message, Room { held, place }) = (Box::new(message), room);
        place.send(Inbound::Raft { peer, lane, message, frame_bytes, held });
        Ok(())
    }
}

impl RaftSink for Inbox {
    fn deliver(&self, from: u64, message: Frame) -> Result<(), WireError> {
        let left = self.offer(from, message)?;
        left.map_or(Ok(()), |_| Err(WireError::Full { what: "the node's queue of messages" }))
    }

    /// Room comes first: a message that comes back is as it was.
    fn offer(&self, _: u64, message: Frame) -> Result<Option<Frame>, WireError> {
        let room = self.room_now(memory_of(&message.payload));
        let Some(room) = room else { return Ok(Some(message)) };
        self.take(message, room).map(|()| None)
    }
}

/// Calls of one member.
struct Calls(Arc<Shared>, Arc<Peer>);

impl RpcService for Calls {
    fn call(&self, _: u64, request: RpcRequestView, ticket: Ticket) -> Option<RpcReply> {
        rpc::answer(&self.0, &self.1, request, ticket)
    }
}
