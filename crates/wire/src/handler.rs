//! What to do with a message that has arrived: no socket, no clock, nothing that waits.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use raft::prelude::Message;

use crate::compress::refused;
use crate::error::WireError;
use crate::frame::{Frame, encode_frame_borrowed};
use crate::header::{MessageHeader, RequestId, TraceContext};
use crate::hello::{Hello, Notice, encode_error};
use crate::kind::MessageType;
use crate::metrics::WireMetrics;
use crate::pending::Pending;
use crate::raft::{deserialize_raft_message_fast, memory_of};
use crate::ring::Ring;
use crate::rpc::{RpcReply, RpcRequestView, RpcResponseView, encode_response};
use crate::segments::Segments;

/// Code of an error: a request has no id, so that it cannot be answered.
pub const ERROR_NO_ID: u16 = 1;
/// Code of an error: the payload is not what its type says.
pub const ERROR_PAYLOAD: u16 = 2;
/// The payload of a heartbeat that answers another one.
const ECHO: &[u8] = &[1];

/// Where Raft messages go. Bounded: what has no room is refused.
pub trait RaftSink: Send + Sync {
    /// Takes a message from the member `from`.
    ///
    /// # Errors
    /// [`WireError::Full`]: there is no room, and Raft will send again. Anything else: the message is refused for good.
    fn deliver(&self, from: u64, message: Frame) -> Result<(), WireError>;

    /// As [`RaftSink::deliver`], for sinks whose reader waits for room and with it the peer: where there is none, the
    /// message comes back ([`Event::Busy`]) and is not dropped.
    ///
    /// # Errors
    /// As [`RaftSink::deliver`].
    fn offer(&self, from: u64, message: Frame) -> Result<Option<Frame>, WireError> {
        self.deliver(from, message).map(|()| None)
    }
}

impl<T: RaftSink + ?Sized> RaftSink for Arc<T> {
    fn deliver(&self, from: u64, message: Frame) -> Result<(), WireError> {
        T::deliver(self, from, message)
    }

    fn offer(&self, from: u64, message: Frame) -> Result<Option<Frame>, WireError> {
        T::offer(self, from, message)
    }
}

/// A ring to the thread that owns Raft; its bytes are those of the frames, which the entries are slices of.
impl RaftSink for Ring<(u64, Message)> {
    fn deliver(&self, from: u64, message: Frame) -> Result<(), WireError> {
        let bytes = memory_of(&message.payload);
        let message = deserialize_raft_message_fast(message.payload)?;
        let full = |_| WireError::Full { what: "the queue of Raft messages" };
        self.try_push((from, message), bytes).map_err(full)
    }
}

/// Who answers calls.
pub trait RpcService: Send + Sync {
    /// Answers a call at once, or keeps the ticket and answers later: by [`encode_response`] with the ticket's id.
    fn call(&self, from: u64, request: RpcRequestView, ticket: Ticket) -> Option<RpcReply>;
}

impl<T: RpcService + ?Sized> RpcService for Arc<T> {
    fn call(&self, from: u64, request: RpcRequestView, ticket: Ticket) -> Option<RpcReply> {
        T::call(self, from, request, ticket)
    }
}

/// A call that is being answered. It takes one of a bounded number of places until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    id: RequestId,
    deadline_ms: Option<u32>,
    trace: Option<TraceContext>,
    places: Arc<AtomicUsize>,
}

impl Ticket {
    /// The request's id, which the answer has to carry.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// How long the caller waited for an answer when it asked, in milliseconds.
    pub fn deadline_ms(&self) -> Option<u32> {
        self.deadline_ms
    }

    /// The caller's trace.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.places.fetch_add(1, Ordering::AcqRel);
    }
}

/// What a message meant beyond what the handler has done about it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The peer is alive.
    Alive,
    /// The echo of the heartbeat with this id.
    Pong(RequestId),
    /// Who the peer says it is.
    Hello(Hello),
    /// The peer closes the connection.
    Closed(Notice),
    /// The peer could not use one of our messages.
    PeerError(Notice),
    /// A Raft message found no room.
    Dropped,
    /// A Raft message for which the sink has no room yet: its reader is to read nothing more until there is.
    Busy(Frame),
    /// A Raft message that is refused for what it says.
    Refused(WireError),
    /// An answer that nobody waits for (any more).
    Unmatched(RequestId),
}

/// Does with each message of a connection what its type asks for.
#[derive(Debug)]
pub struct RaftProtocolHandler<S, R> {
    sink: S,
    service: R,
    pending: Pending,
    metrics: Arc<WireMetrics>,
    /// How many more calls may be under way.
    places: Arc<AtomicUsize>,
}

impl<S: RaftSink, R: RpcService> RaftProtocolHandler<S, R> {
    /// A handler that lets at most `max_calls` of the peer's calls be under way at the same time. Answers to our own are
    /// looked for in `pending`.
    pub fn new(
        sink: S,
        service: R,
        pending: Pending,
        max_calls: usize,
        metrics: Arc<WireMetrics>,
    ) -> Self {
        Self { sink, service, pending, metrics, places: Arc::new(AtomicUsize::new(max_calls)) }
    }

    /// Does what a message of the member `from` asks for. What is to be answered is written to `out`: at most one frame
    /// of 64 KiB.
    ///
    /// # Errors
    /// The peer has broken the protocol: the connection is to be closed.
    pub fn process_message_zero_copy(
        &self,
        from: u64,
        message: Frame,
        out: &mut Segments,
    ) -> Result<Option<Event>, WireError> {
        if message.header.msg_type != MessageType::Heartbeat {
            self.metrics.received(message.payload.len());
        }
        let Frame { header, payload } = message;
        if let Some(compressed) = header.compressed {
            return Err(refused(compressed.codec, "was not opened before it was handled"));
        }
        match header.msg_type {
            MessageType::RaftMessage => Ok(self.raft(from, Frame { header, payload })),
            MessageType::Request => self.request(from, &header, payload, out),
            MessageType::Response => {
                let id = header.request_id.ok_or_else(|| without_id("a response"))?;
                let answer = RpcResponseView::decode(payload)?;
                Ok(self.answered(id, Ok(answer)))
            }
            MessageType::Heartbeat => heartbeat(&header, &payload, out),
            MessageType::Error => {
                let notice = Notice::decode(&payload)?;
                let Some(id) = header.request_id else { return Ok(Some(Event::PeerError(notice))) };
                let Notice { code, text } = notice;
                Ok(self.answered(id, Err(WireError::Peer { code, text })))
            }
            MessageType::Hello => Hello::decode(&payload).map(|hello| Some(Event::Hello(hello))),
            MessageType::Close => {
                Notice::decode(&payload).map(|notice| Some(Event::Closed(notice)))
            }
            MessageType::StreamBegin | MessageType::StreamChunk | MessageType::StreamEnd => {
                let id = header.stream.map_or(0, |part| part.id);
                Err(WireError::Stream { id, reason: "was not put together before it was handled" })
            }
        }
    }

    fn raft(&self, from: u64, message: Frame) -> Option<Event> {
        match self.sink.offer(from, message) {
            Ok(None) => None,
            Ok(Some(message)) => Some(Event::Busy(message)),
            Err(WireError::Full { .. }) => {
                self.metrics.dropped();
                Some(Event::Dropped)
            }
            Err(error) => {
                self.metrics.refused();
                Some(Event::Refused(error))
            }
        }
    }

    fn request(
        &self,
        from: u64,
        header: &MessageHeader,
        payload: Bytes,
        out: &mut Segments,
    ) -> Result<Option<Event>, WireError> {
        let Some(id) = header.request_id else {
            encode_error(out, None, ERROR_NO_ID, "a request without an id cannot be answered")?;
            return Ok(None);
        };
        let request = match RpcRequestView::decode(payload) {
            Ok(request) => request,
            Err(error) => {
                self.metrics.refused();
                encode_error(out, Some(id), ERROR_PAYLOAD, &error.to_string())?;
                return Ok(None);
            }
        };
        let reply = match self.ticket(id, header) {
            Some(ticket) => self.service.call(from, request, ticket),
            None => Some(RpcReply::Err("too many calls under way; try again later".to_owned())),
        };
        let Some(reply) = reply else { return Ok(None) };
        if let Err(error) = encode_response(out, id, reply) {
            encode_response(out, id, RpcReply::Err(error.to_string()))?;
        }
        Ok(None)
    }

    fn ticket(&self, id: RequestId, header: &MessageHeader) -> Option<Ticket> {
        let take = |free: usize| free.checked_sub(1);
        self.places.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).ok()?;
        let places = Arc::clone(&self.places);
        Some(Ticket { id, deadline_ms: header.deadline_ms, trace: header.trace, places })
    }

    fn answered(&self, id: RequestId, answer: Result<RpcResponseView, WireError>) -> Option<Event> {
        (!self.pending.complete(id, answer)).then_some(Event::Unmatched(id))
    }
}

fn heartbeat(
    header: &MessageHeader,
    payload: &[u8],
    out: &mut Segments,
) -> Result<Option<Event>, WireError> {
    match (header.request_id, payload) {
        (None, []) => Ok(Some(Event::Alive)),
        (Some(id), []) => {
            let header = MessageHeader::new(MessageType::Heartbeat).with_request_id(id);
            encode_frame_borrowed(out, &header, ECHO)?;
            Ok(Some(Event::Alive))
        }
        (Some(id), ECHO) => Ok(Some(Event::Pong(id))),
        _ => {
            let reason = "its payload is neither empty nor an echo".to_owned();
            Err(WireError::Invalid { what: "a heartbeat", reason })
        }
    }
}

fn without_id(what: &'static str) -> WireError {
    WireError::Invalid { what, reason: "it has no id".to_owned() }
}
