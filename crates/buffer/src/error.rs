//! What can go wrong with buffers.
use thiserror::Error;

/// Why there is no buffer, or not the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The pool's policy is to fail and its limit is reached.
    #[error(
        "{outstanding} bytes of buffers are in use, over the pool's limit of {limit}; return some, or raise the limit"
    )]
    Exhausted {
        /// Bytes handed out.
        outstanding: usize,
        /// The limit.
        limit: usize,
    },
    /// The system has no memory left, or the size is beyond what it can address.
    #[error("no memory for a buffer of {len} bytes; free some, or ask for less")]
    OutOfMemory {
        /// Bytes that were asked for.
        len: usize,
    },
    /// A length beyond the buffer's end.
    #[error(
        "a length of {len} is beyond the buffer's capacity of {capacity} bytes; take a larger buffer"
    )]
    BeyondCapacity {
        /// The length.
        len: usize,
        /// The buffer's capacity.
        capacity: usize,
    },
}
