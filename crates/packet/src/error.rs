//! What can go wrong with packets.
use thiserror::Error;

/// What was wrong with bytes that should have been a packet, or with values that should become one.
///
/// `layer` is the protocol whose header was being read or written (`"ipv4"`, `"tcp option"`, `"overlay heartbeat"`).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PacketError {
    /// The input ends before the layer does.
    #[error("{layer}: {have} bytes where at least {needed} are needed; the packet is truncated")]
    Truncated {
        /// The layer.
        layer: &'static str,
        /// Bytes that the layer needs.
        needed: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// A field holds a value that the protocol does not allow, or that contradicts another one.
    #[error("{layer}: {field} is {value}, which {rule}")]
    BadField {
        /// The layer.
        layer: &'static str,
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it breaks, as the end of a sentence: `"must be 6"`.
        rule: &'static str,
    },
    /// The checksum does not match the bytes.
    #[error(
        "{layer}: the checksum is {found:#06x} and the bytes give {expected:#06x}; the packet was damaged on the way"
    )]
    Checksum {
        /// The layer.
        layer: &'static str,
        /// What the packet says.
        found: u16,
        /// What its bytes give.
        expected: u16,
    },
    /// More bytes than the layer can carry.
    #[error(
        "{layer}: {len} bytes, and it carries {max} at most; split them, or fragment the packet"
    )]
    TooLong {
        /// The layer.
        layer: &'static str,
        /// Bytes to carry.
        len: usize,
        /// Bytes that it carries at most.
        max: usize,
    },
    /// No buffer, or not one that is large enough.
    #[error(transparent)]
    Buffer(#[from] straightway_buffer::BufferError),
    /// The operating system refused an operation.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, on what, and what to do when it is refused.
        operation: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The feature does not exist on this system.
    #[error("{what} does not exist on this system; {instead}")]
    Unsupported {
        /// What is missing.
        what: &'static str,
        /// What to use instead.
        instead: &'static str,
    },
}
