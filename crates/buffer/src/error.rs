//! What can go wrong with buffers.
use thiserror::Error;

/// Why there is no buffer, or not the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The pool's limit is reached, and its policy is to fail, or to wait and the time is over.
    #[error(
        "{existing} bytes of buffers exist and the pool's limit is {limit}; return some, or raise the limit"
    )]
    Exhausted {
        /// Bytes that exist, in use and idle.
        existing: usize,
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
    /// A pool needs at least one class that is not empty.
    #[error("a pool without size classes; name at least one size above 0")]
    NoClasses,
    /// Alignments are powers of two.
    #[error("an alignment of {align} bytes; give a power of two")]
    BadAlignment {
        /// The alignment.
        align: usize,
    },
    /// A position beyond what was written.
    #[error("position {position} is beyond the {len} bytes that were written; write them first")]
    BeyondWritten {
        /// The position.
        position: usize,
        /// Bytes that were written.
        len: usize,
    },
}
