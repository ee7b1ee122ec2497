//! Message framing and the Raft message codec: bytes in, events out, payloads by reference.
#![forbid(unsafe_code)]

mod compress;
mod crc;
pub mod error;
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
pub use frame::{
    Frame, FrameMark, FrameParser, ParserStats, begin_frame, encode_frame, encode_frame_borrowed,
    end_frame,
};
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
    MAX_MAX_MESSAGE,
};
pub use message::{Payload, SharedMessage, ZeroCopyMessage};
pub use metrics::{DirectionSnapshot, LATENCY_BOUNDS_US, SIZE_BOUNDS, WireMetrics, WireSnapshot};
pub use payload::{deserialize_payload, serialize_payload_zero_copy};
pub use pending::{Pending, PendingReply};
pub use raft::utils as raft_utils;
pub use ring::Ring;
pub use rpc::{
    RequestIds, RpcReply, RpcRequest, RpcRequestView, RpcResponse, RpcResponseView, encode_request,
    encode_response,
};
pub use segments::{CUT, Mark, QUIC_CUT, Segments};
pub use stream::{Assembler, ChunkWriter, MessageParser, encode_message};
