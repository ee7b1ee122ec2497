//! What a header may say beside type, id and length.
use crate::kind::MessageType;

/// How a payload was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// A zstd frame.
    Zstd = 1,
    /// An LZ4 block.
    Lz4 = 2,
}

/// What a compressed payload was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// By which means.
    pub codec: Compression,
    /// Bytes before.
    pub uncompressed_len: u32,
}

/// The caller's place in a distributed trace, as W3C `traceparent` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub span_id: [u8; 8],
    /// 1: it is sampled.
    pub flags: u8,
}

/// Which part of which chunked message a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPart {
    /// The message's number, among those that are under way on the connection.
    pub id: u32,
    /// 0 for the beginning, then one more each frame.
    pub seq: u32,
    /// Which part.
    pub role: StreamRole,
}

/// What a part of a chunked message is, beside its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRole {
    /// [`MessageType::StreamBegin`]: the message's own type, and the length of its payload.
    Begin {
        /// The message's type.
        msg_type: MessageType,
        /// Bytes that will come.
        total: u32,
    },
    /// [`MessageType::StreamChunk`].
    Chunk,
    /// [`MessageType::StreamEnd`].
    End {
        /// The sender has given up; there is no message.
        aborted: bool,
    },
}
