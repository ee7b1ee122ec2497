//! The bytes of `golden/`, which another program made after the documentation: written and read here as they stand there.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod samples;

use bytes::Bytes;
use straightway_wire::{
    ChunkWriter, Compressed, Compression, Frame, Hello, Limits, MessageHeader, MessageParser,
    MessageType, Notice, RpcReply, RpcRequestView, RpcResponseView, Segments, StreamPart,
    StreamRole, TraceContext, WireError, encode_close, encode_error, encode_frame, encode_hello,
    encode_request, encode_response,
};

const ID: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn golden(name: &str) -> Bytes {
    let path = format!("{}/tests/golden/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("a golden file").into()
}

/// What is written is the golden file; answers with the messages that it is read as.
fn same(name: &str, write: impl FnOnce(&mut Segments) -> Result<(), WireError>) -> Vec<Frame> {
    assert_eq!(samples::written(write), golden(name), "{name}");
    read(name)
}

fn read(name: &str) -> Vec<Frame> {
    let mut parser = MessageParser::new(Limits::default());
    parser.feed(golden(name));
    let messages = samples::messages(&mut parser);
    assert!(parser.is_idle(), "{name}");
    messages
}

fn one(name: &str, write: impl FnOnce(&mut Segments) -> Result<(), WireError>) -> Frame {
    let mut messages = same(name, write);
    assert_eq!(messages.len(), 1, "{name}");
    messages.remove(0)
}

/// A frame that comes back as it was written, but for length and sum.
fn frame(name: &str, header: MessageHeader, payload: &'static [u8]) {
    let payload = Bytes::from_static(payload);
    let back = one(name, |out| encode_frame(out, &header, payload.clone()));
    let (len, sum) = (back.header.payload_len, back.header.payload_crc);
    assert_eq!(sum.is_some(), header.payload_crc.is_some());
    let expected = MessageHeader { payload_len: len, payload_crc: sum, ..header };
    assert_eq!((back.header, back.payload), (expected, payload), "{name}");
}

#[test]
fn plain_frames() {
    let heartbeat = MessageHeader::new(MessageType::Heartbeat);
    frame("heartbeat", heartbeat, b"");
    frame("ping", heartbeat.with_request_id(ID), b"");
    let raft = MessageHeader::new(MessageType::RaftMessage);
    frame("without_sum", raft.without_sum(), b"raft payload");
    let trace = TraceContext {
        trace_id: std::array::from_fn(|index| 0x10 + u8::try_from(index).expect("small")),
        span_id: std::array::from_fn(|index| 0x20 + u8::try_from(index).expect("small")),
        flags: 1,
    };
    frame("raft", raft.with_trace(trace).with_deadline_ms(1500), b"raft payload");
    let compressed = Some(Compressed { codec: Compression::Lz4, uncompressed_len: 5000 });
    frame("compressed", MessageHeader { compressed, ..raft }, b"compressed");
}

#[test]
fn calls_and_answers() {
    let header =
        MessageHeader::new(MessageType::Request).with_request_id(ID).with_deadline_ms(1500);
    let request = one("request", |out| {
        encode_request(out, &header, "catalogue", "propose", Bytes::from_static(b"arguments"))
    });
    let request = RpcRequestView::decode(request.payload).expect("sound");
    assert_eq!((request.service(), request.method()), ("catalogue", "propose"));
    assert_eq!(request.payload(), "arguments");
    let ok = RpcReply::Ok(Bytes::from_static(b"result"));
    let response = one("response", |out| encode_response(out, ID, ok));
    let response = RpcResponseView::decode(response.payload).expect("sound");
    assert_eq!((response.success(), response.error()), (true, None));
    assert_eq!(response.payload().expect("a result"), "result");
    let not = RpcReply::Err("not leader".to_owned());
    let response = one("response_error", |out| encode_response(out, ID, not));
    let response = RpcResponseView::decode(response.payload).expect("sound");
    assert_eq!((response.success(), response.error()), (false, Some("not leader")));
    assert_eq!(response.payload(), None);
}

#[test]
fn hello_and_notices() {
    let hello = Hello {
        minor: 1,
        features: 3,
        cluster: *b"cccccccccccccccc",
        raft_id: 5,
        storage: *b"ssssssssssssssss",
        boot: 9,
        max_message: 16 << 20,
    };
    let back = one("hello", |out| encode_hello(out, &hello));
    assert_eq!(Hello::decode(&back.payload).expect("sound"), hello);
    let later = read("later").remove(0);
    assert_eq!(later.payload.len(), 68);
    assert_eq!(Hello::decode(&later.payload).expect("what is known of it"), hello);
    let close = one("close", |out| encode_close(out, 65, "not a member"));
    let expected = Notice { code: 65, text: "not a member".to_owned() };
    assert_eq!(Notice::decode(&close.payload).expect("sound"), expected);
    let error = one("error", |out| encode_error(out, Some(ID), 2, "cut off"));
    assert_eq!(error.header.request_id, Some(ID));
}

#[test]
fn chunked_messages() {
    // The library cuts at 64 KiB only: the chunks are written one by one.
    let part = |out: &mut Segments, msg_type, seq, role, payload: &'static str| {
        let request_id = (seq == 0).then_some(ID);
        let stream = Some(StreamPart { id: 7, seq, role });
        let header = MessageHeader { stream, request_id, ..MessageHeader::new(msg_type) };
        encode_frame(out, &header, Bytes::from_static(payload.as_bytes()))
    };
    let message = one("chunked", |out| {
        let role = StreamRole::Begin { msg_type: MessageType::RaftMessage, total: 11 };
        part(out, MessageType::StreamBegin, 0, role, "")?;
        part(out, MessageType::StreamChunk, 1, StreamRole::Chunk, "hello ")?;
        part(out, MessageType::StreamChunk, 2, StreamRole::Chunk, "world")?;
        part(out, MessageType::StreamEnd, 3, StreamRole::End { aborted: false }, "")
    });
    assert_eq!(message.payload, "hello world");
    assert_eq!(message.header.request_id, Some(ID));
    assert_eq!(message.header.msg_type, MessageType::RaftMessage);
    assert_eq!(read("aborted"), []);
    // What the writer makes of a message is framed alike.
    let header = MessageHeader::new(MessageType::RaftMessage).with_request_id(ID);
    let hello_world = Bytes::from_static(b"hello world");
    let chunks = samples::chunks(ChunkWriter::new(header, [hello_world], 7).expect("short"));
    let golden = golden("chunked");
    let begin = usize::from(golden[1]);
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0][..begin], golden[..begin]);
}
