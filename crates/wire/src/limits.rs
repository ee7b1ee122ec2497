//! How large things may be.

/// A payload of more bytes than this is sent in chunks. One of exactly as many is not.
pub const LARGE_MESSAGE_THRESHOLD: usize = 64 * 1024;
/// Whether a payload of so many bytes is sent in chunks, so that others can pass.
#[inline]
pub const fn should_stream(len: usize) -> bool {
    len > LARGE_MESSAGE_THRESHOLD
}

/// No header reaches this length: it has to fit into one byte.
pub const MAX_HEADER_SIZE: usize = 256;
/// Largest payload of a chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Largest message, unless it is set otherwise.
pub const DEFAULT_MAX_MESSAGE: u32 = 16 << 20;
/// Largest limit that can be set.
pub const MAX_MAX_MESSAGE: u32 = 100 << 20;

/// Bounds on what one connection may make its receiver hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload of a message, chunked or not; at most [`MAX_MAX_MESSAGE`].
    pub max_message: u32,
    /// Messages that may arrive in chunks at the same time.
    pub max_streams: usize,
    /// Bytes that all of those may have together.
    pub max_stream_bytes: usize,
    /// Bytes that may have been fed and not be taken as messages yet.
    pub max_backlog: usize,
}

impl Limits {
    /// These, with no larger messages than there may be.
    pub(crate) fn clamped(self) -> Self {
        Self { max_message: self.max_message.min(MAX_MAX_MESSAGE), ..self }
    }

    /// Those for messages of at most `max_message` bytes.
    pub fn for_messages(max_message: u32) -> Self {
        let max_message = max_message.min(MAX_MAX_MESSAGE);
        let bytes = max_message as usize;
        Self {
            max_message,
            max_streams: 4,
            max_stream_bytes: 2 * bytes,
            max_backlog: bytes.max(LARGE_MESSAGE_THRESHOLD) * 2,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::for_messages(DEFAULT_MAX_MESSAGE)
    }
}
