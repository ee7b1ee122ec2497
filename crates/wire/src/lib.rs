//! Message framing and the Raft message codec: bytes in, events out, payloads by reference.
//!
//! ```text
//!   RpcReply, raft::Message, Hello            RaftProtocolHandler --> RaftSink, RpcService, Pending
//!        |  encode_*: heads gathered,              ^  messages, their payloads slices of what arrived
//!        v  payloads by reference                  |
//!     Segments --> [Bytes] --> stream --> [Bytes] --> MessageParser = FrameParser + Assembler
//! ```
//! Everything but [`io`] is without a socket and a clock. What is larger than 64 KiB goes in chunks ([`ChunkWriter`]).
//! The bytes are in `docs/raft-wire-format.md`.
//!
//! *Knows:* frames, calls, Raft's messages. *Does not know:* who is a member, what a log is, QUIC.
//!
//! ```
//! use bytes::Bytes;
//! use straightway_wire::{
//!     Limits, MessageHeader, MessageParser, MessageType, Payload, Segments, encode_message,
//! };
//!
//! let payload = Bytes::from(vec![7; 100_000]);
//! let header = MessageHeader::new(MessageType::RaftMessage);
//! let (mut out, mut parser) = (Segments::default(), MessageParser::new(Limits::default()));
//! let mut writer = encode_message(&mut out, &header, Payload::Shared(payload.clone()), 1)?;
//! loop {
//!     // More than 64 KiB: in chunks, between which other messages may go.
//!     let more = writer.as_mut().map_or(Ok(false), |writer| writer.next_chunk(&mut out))?;
//!     for part in out.finish() {
//!         parser.feed(part.clone());
//!     }
//!     out.clear();
//!     if !more {
//!         break;
//!     }
//! }
//! let message = parser.next_message()?.ok_or("a message")?;
//! assert_eq!(message.payload, payload);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod compress;
mod crc;
pub mod error;
mod fields;
mod frame;
mod gather;
mod handler;
mod header;
mod hello;
pub mod io;
mod kind;
mod limits;
mod message;
mod metrics;
mod parser;
mod payload;
mod pending;
pub mod raft;
mod ring;
mod rpc;
mod segments;
mod stream;

pub use compress::{COMPRESS_FROM, Compressor, Decompressor, FEATURE_LZ4, FEATURE_ZSTD};
pub use crc::{Crc32c, crc32c};
pub use error::WireError;
pub use frame::{Frame, FrameMark, begin_frame, encode_frame, encode_frame_borrowed, end_frame};
pub use handler::{
    ERROR_NO_ID, ERROR_PAYLOAD, Event, RaftProtocolHandler, RaftSink, RpcService, Ticket,
};
pub use header::{
    Compressed, Compression, MAGIC, MIN_HEADER_SIZE, MessageHeader, RequestId, StreamPart,
    StreamRole, TraceContext, serialize_header_zero_copy,
};
pub use hello::{
    Agreed, HELLO_BYTES, Hello, MINOR, Notice, encode_close, encode_error, encode_hello,
};
pub use io::{
    IoConfig, MessageReader, read_message, read_message_zero_copy, write_message,
    write_message_zero_copy,
};
pub use kind::MessageType;
pub use limits::{
    CHUNK_BYTES, DEFAULT_MAX_MESSAGE, LARGE_MESSAGE_THRESHOLD, Limits, MAX_HEADER_SIZE,
    MAX_MAX_MESSAGE, should_stream,
};
pub use message::{Payload, SharedMessage, ZeroCopyMessage};
pub use metrics::{DirectionSnapshot, LATENCY_BOUNDS_US, SIZE_BOUNDS, WireMetrics, WireSnapshot};
pub use parser::{FrameParser, ParserStats};
pub use payload::{deserialize_payload, serialize_payload_zero_copy};
pub use pending::{Pending, PendingReply};
pub use raft::utils as raft_utils;
pub use ring::Ring;
pub use rpc::{
    RequestIds, RpcReply, RpcRequest, RpcRequestView, RpcResponse, RpcResponseView, encode_request,
    encode_response,
};
pub use segments::{CUT, Mark, QUIC_CUT, Segments};
pub use stream::{ChunkWriter, MessageParser, encode_message};
