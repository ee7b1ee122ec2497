//! The handler between two sides that only have each other's bytes.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod samples;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft::prelude::{Entry, Message, MessageType as RaftType};
use samples::written;
use straightway_wire::raft::serialize_raft_message_fast;
use straightway_wire::{
    Compressed, Compression, ERROR_NO_ID, ERROR_PAYLOAD, Event, Frame, Hello, Limits,
    MessageHeader, MessageParser, MessageType, Notice, Pending, RaftProtocolHandler, RaftSink,
    RequestIds, Ring, RpcReply, RpcRequestView, RpcService, Segments, StreamPart, StreamRole,
    Ticket, WireError, WireMetrics, encode_close, encode_error, encode_frame, encode_hello,
    encode_request, encode_response,
};

/// Answers `echo` at once, keeps `later`, and has too much to say about `long`.
#[derive(Default)]
struct Service {
    kept: Mutex<Vec<Ticket>>,
}

impl RpcService for Service {
    fn call(&self, from: u64, request: RpcRequestView, ticket: Ticket) -> Option<RpcReply> {
        assert_eq!((from, request.service()), (3, "test"));
        match request.method() {
            "echo" => Some(RpcReply::Ok(request.payload())),
            "long" => Some(RpcReply::Ok(Bytes::from(vec![0; 70_000]))),
            "later" => {
                self.kept.lock().expect("sound").push(ticket);
                None
            }
            other => Some(RpcReply::Err(format!("no method {other}"))),
        }
    }
}

struct Side {
    handler: RaftProtocolHandler<Arc<Ring<(u64, Message)>>, Arc<Service>>,
    ring: Arc<Ring<(u64, Message)>>,
    service: Arc<Service>,
    pending: Pending,
    metrics: Arc<WireMetrics>,
    ids: RequestIds,
    out: Segments,
}

impl Side {
    fn new() -> Self {
        let ring = Arc::new(Ring::new(2, 1 << 20, || {}));
        let service = Arc::new(Service::default());
        let pending = Pending::new(10);
        let metrics = Arc::new(WireMetrics::default());
        let (sink, answers) = (Arc::clone(&ring), Arc::clone(&service));
        let handler =
            RaftProtocolHandler::new(sink, answers, pending.clone(), 2, Arc::clone(&metrics));
        let (ids, out) = (RequestIds::with_prefix([7; 8]), Segments::default());
        Self { handler, ring, service, pending, metrics, ids, out }
    }

    /// Handles what is in `wire`, and answers with what it wrote and the last event.
    fn handle(&mut self, wire: Bytes) -> (Bytes, Result<Option<Event>, WireError>) {
        let mut parser = MessageParser::new(Limits::default());
        parser.feed(wire);
        let mut last = Ok(None);
        while let Some(message) = parser.next_message().expect("sound") {
            last = self.handler.process_message_zero_copy(3, message, &mut self.out);
        }
        (samples::joined(&mut self.out), last)
    }

    fn ask(
        &mut self,
        method: &str,
        payload: &'static [u8],
    ) -> (Bytes, straightway_wire::PendingReply) {
        let header = MessageHeader::new(MessageType::Request).with_request_id(self.ids.next_id());
        let reply = self.pending.register(header.request_id.expect("set")).expect("room");
        let payload = Bytes::from_static(payload);
        encode_request(&mut self.out, &header, "test", method, payload).expect("short");
        (samples::joined(&mut self.out), reply)
    }
}

#[tokio::test]
async fn calls_are_answered_under_their_ids() {
    let (mut near, mut far) = (Side::new(), Side::new());
    let (ask, reply) = near.ask("echo", b"straight");
    let (answer, event) = far.handle(ask);
    assert!(event.expect("sound").is_none());
    assert!(near.handle(answer).1.expect("sound").is_none());
    assert_eq!(reply.await.expect("answered").payload().expect("a result"), &b"straight"[..]);

    let (ask, reply) = near.ask("nonsense", b"");
    let (answer, _) = far.handle(ask);
    drop(near.handle(answer));
    let answer = reply.await.expect("answered");
    assert_eq!((answer.success(), answer.error()), (false, Some("no method nonsense")));

    let (ask, reply) = near.ask("long", b"");
    let (answer, _) = far.handle(ask);
    drop(near.handle(answer));
    let answer = reply.await.expect("answered");
    assert!(answer.error().expect("refused").contains("70004 bytes"), "{:?}", answer.error());
}

#[tokio::test]
async fn calls_under_way_are_bounded_and_answered_later() {
    let (mut near, mut far) = (Side::new(), Side::new());
    let asked: Vec<_> = (0..3).map(|_| near.ask("later", b"")).collect();
    let mut replies = Vec::new();
    for (index, (ask, reply)) in asked.into_iter().enumerate() {
        let (answer, _) = far.handle(ask);
        assert_eq!(answer.is_empty(), index < 2, "the third is refused at once");
        drop(near.handle(answer));
        replies.push(reply);
    }
    let busy = replies.pop().expect("three").await.expect("answered");
    assert!(busy.error().expect("refused").contains("too many"));
    let ticket = far.service.kept.lock().expect("sound").pop().expect("two");
    let late = written(|out| encode_response(out, ticket.id(), RpcReply::Ok(Bytes::new())));
    drop(ticket);
    drop(near.handle(late));
    assert!(replies.pop().expect("two").await.expect("answered").success());
    let (ask, _reply) = near.ask("echo", b"");
    assert!(!far.handle(ask).0.is_empty(), "there is a place again");
}

#[tokio::test]
async fn what_cannot_be_used_is_said_to_be_so() {
    let (mut near, mut far) = (Side::new(), Side::new());
    let nameless = Frame::new(MessageType::Request, None, Bytes::from_static(&[0, 0]));
    let (answer, _) = far.handle(samples::encoded(&nameless).0);
    let Ok(Some(Event::PeerError(notice))) = near.handle(answer).1 else { panic!("no error") };
    assert_eq!(notice.code, ERROR_NO_ID);

    let reply = near.pending.register([1; 16]).expect("room");
    let garbled = Frame::new(MessageType::Request, Some([1; 16]), Bytes::from_static(&[200, 9]));
    let (answer, _) = far.handle(samples::encoded(&garbled).0);
    drop(near.handle(answer));
    let error = reply.await.expect_err("refused");
    assert!(matches!(error, WireError::Peer { code: ERROR_PAYLOAD, .. }), "{error}");
    let late = written(|out| encode_error(out, Some([1; 16]), 9, "again"));
    assert!(matches!(near.handle(late).1, Ok(Some(Event::Unmatched(id))) if id == [1; 16]));
    assert_eq!(far.metrics.snapshot().refused, 1);
}

#[test]
fn heartbeats_are_echoed_once() {
    let (mut near, mut far) = (Side::new(), Side::new());
    let beat = |id| samples::encoded(&Frame::new(MessageType::Heartbeat, id, Bytes::new())).0;
    let (answer, event) = far.handle(beat(None));
    assert!(answer.is_empty());
    assert!(matches!(event, Ok(Some(Event::Alive))));
    let (echo, event) = far.handle(beat(Some([4; 16])));
    assert!(matches!(event, Ok(Some(Event::Alive))));
    let (answer, event) = near.handle(echo);
    assert!(answer.is_empty(), "an echo has no echo");
    assert!(matches!(event, Ok(Some(Event::Pong(id))) if id == [4; 16]));
    let other = Frame::new(MessageType::Heartbeat, None, Bytes::from_static(b"?"));
    assert!(far.handle(samples::encoded(&other).0).1.is_err());
}

#[test]
fn hello_and_close_are_told() {
    let mut side = Side::new();
    let hello = Hello { raft_id: 5, features: 1 << 60, ..Hello::default() };
    let (_, event) = side.handle(written(|out| encode_hello(out, &hello)));
    assert!(matches!(event, Ok(Some(Event::Hello(told))) if told == hello));
    let (_, event) = side.handle(written(|out| encode_close(out, 65, "not a member")));
    let expected = Notice { code: 65, text: "not a member".to_owned() };
    assert!(matches!(event, Ok(Some(Event::Closed(notice))) if notice == expected));
}

fn append(len: usize) -> Message {
    let entry = Entry { data: samples::noise(len), index: 2, term: 1, ..Entry::default() };
    let mut message = Message { from: 3, to: 1, term: 1, ..Message::default() };
    message.set_msg_type(RaftType::MsgAppend);
    message.set_entries(vec![entry].into());
    message
}

/// Has room for so many.
struct Waits(std::sync::atomic::AtomicUsize);

impl RaftSink for Waits {
    fn deliver(&self, from: u64, message: Frame) -> Result<(), WireError> {
        let full = |_| WireError::Full { what: "the test" };
        self.offer(from, message)?.map_or(Ok(()), |message| Err(full(message)))
    }

    fn offer(&self, _: u64, message: Frame) -> Result<Option<Frame>, WireError> {
        use std::sync::atomic::Ordering::Relaxed;
        let taken = self.0.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1));
        Ok(taken.is_err().then_some(message))
    }
}

#[test]
fn a_sink_that_waits_gets_its_message_back() {
    let metrics = Arc::new(WireMetrics::default());
    let (sink, service) = (Arc::new(Waits(1.into())), Arc::new(Service::default()));
    let (pending, counts) = (Pending::new(1), Arc::clone(&metrics));
    let handler = RaftProtocolHandler::new(sink, service, pending, 1, counts);
    let payload = serialize_raft_message_fast(&append(5000)).expect("written");
    let message = Frame::new(MessageType::RaftMessage, None, payload.clone());
    let mut out = Segments::default();
    let mut handle =
        |message| handler.process_message_zero_copy(3, message, &mut out).expect("sound");
    assert!(handle(message.clone()).is_none());
    let Some(Event::Busy(back)) = handle(message) else { panic!("no room was there") };
    assert_eq!((back.payload.as_ptr(), back.payload.len()), (payload.as_ptr(), payload.len()));
    assert_eq!((metrics.snapshot().dropped, metrics.snapshot().received.direct), (0, 2));
}

#[test]
fn raft_messages_go_to_the_ring_with_their_entries_where_they_arrived() {
    let mut side = Side::new();
    let mut out = Segments::default();
    let payload = serialize_raft_message_fast(&append(5000)).expect("written");
    encode_frame(&mut out, &MessageHeader::new(MessageType::RaftMessage), payload).expect("short");
    let bytes = samples::joined(&mut out);
    for _ in 0..2 {
        assert!(side.handle(bytes.clone()).1.expect("sound").is_none());
    }
    assert!(matches!(side.handle(bytes.clone()).1, Ok(Some(Event::Dropped))), "no third");
    let (from, message) = side.ring.pop().expect("two");
    assert_eq!((from, &message), (3, &append(5000)));
    let data = message.entries[0].data.as_ptr();
    assert!(bytes.as_ptr_range().contains(&data), "a slice of what was received");
    let garbled = Frame::new(MessageType::RaftMessage, None, Bytes::from_static(&[0xff; 9]));
    let (_, event) = side.handle(samples::encoded(&garbled).0);
    assert!(matches!(event, Ok(Some(Event::Refused(_)))));
    let counted = side.metrics.snapshot();
    assert_eq!((counted.received.direct, counted.dropped, counted.refused), (4, 1, 1));
}

#[test]
fn what_was_not_opened_or_put_together_is_not_handled() {
    let side = Side::new();
    let how = Compressed { codec: Compression::Lz4, uncompressed_len: 9 };
    let part = StreamPart { id: 1, seq: 1, role: StreamRole::Chunk };
    let new = MessageHeader::new;
    for header in [
        MessageHeader { compressed: Some(how), ..new(MessageType::RaftMessage) },
        MessageHeader { stream: Some(part), ..new(MessageType::StreamChunk) },
    ] {
        let message = Frame { header, payload: Bytes::from_static(b"as it came") };
        let mut out = Segments::default();
        let refused = side.handler.process_message_zero_copy(3, message, &mut out);
        assert!(refused.is_err(), "{header:?}");
        assert!(out.is_empty() && side.ring.is_empty());
    }
}
