//! What is done with a member's message: the wire crate's handler, between the network's queues and the node's.
use std::sync::Arc;

use raft::prelude::MessageType as RaftType;
use straightway_wire::raft::{Lane, deserialize_raft_message_fast, lane_of};
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
        let inbox = Inbox { shared: Arc::clone(shared), peer: Arc::clone(peer), lane };
        let (inbox, calls) = (Arc::new(inbox), Calls(Arc::clone(shared), Arc::clone(peer)));
        // Of one connection; of all together, the service lets no more than that be under way and says so by name.
        let most = shared.limits.calls_answered.saturating_add(1);
        let (pending, metrics) = (peer.calls.clone(), Arc::clone(&shared.wire));
        let handler = RaftProtocolHandler::new(Arc::clone(&inbox), calls, pending, most, metrics);
        Self { inbox, handler, out: Segments::new(usize::MAX) }
    }

    /// Does what a message asks for. Waits while the node is busy, and with it the peer.
    pub(crate) async fn dispatch(&mut self, frame: Frame) -> Result<(), Refused> {
        let Inbox { shared, peer, lane } = &*self.inbox;
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
            if let Some(frames) = frames {
                shared.send(peer, *lane, Outgoing::Frames(frames));
            }
        }
        match event {
            Some(Event::Busy(frame)) => {
                let room = self.inbox.room(frame.payload.len()).await;
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
}

/// Room for one message: a share of the peer's memory, and a place in the queue.
struct Room<'a> {
    held: Held,
    place: mpsc::Permit<'a, Inbound>,
}

impl Inbox {
    /// What is larger than the whole share takes all of it.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.clamp(1, self.shared.limits.inbound_bytes)).unwrap_or(u32::MAX)
    }

    /// Room that is there.
    fn room_now(&self, bytes: usize) -> Option<Room<'_>> {
        let share = self.share(bytes);
        let held = Arc::clone(&self.peer.received).try_acquire_many_owned(share).ok()?;
        Some(Room { held: Held::new(held), place: self.shared.inbound.try_reserve().ok()? })
    }

    /// Room, once there is some; `None`: the node stops.
    async fn room(&self, bytes: usize) -> Option<Room<'_>> {
        let share = self.share(bytes);
        let held = Arc::clone(&self.peer.received).acquire_many_owned(share).await.ok()?;
        Some(Room { held: Held::new(held), place: self.shared.inbound.reserve().await.ok()? })
    }

    /// Hands a message of Raft on, if it is one that this peer may send on this lane.
    fn take(&self, frame: Frame, room: Room<'_>) -> Result<(), WireError> {
        let (peer, lane, me) = (self.peer.id, self.lane, self.shared.node.raft_id);
        let frame_bytes = frame.payload.len();
        let wrong = |reason| WireError::Invalid { what: "a Raft message", reason };
        let message = deserialize_raft_message_fast(frame.payload)?;
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
        let Some(room) = self.room_now(message.payload.len()) else { return Ok(Some(message)) };
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
