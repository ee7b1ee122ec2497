//! What can be wrong with bytes from the wire, or with their delivery.
use std::io;
use std::time::Duration;

use thiserror::Error;

/// What can be wrong with bytes from the wire, or with their delivery. Each says what happened to what, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// Something ends before its last byte.
    #[error("{what} has {found} bytes where {needed} are needed; it was cut off")]
    Truncated {
        /// What was read.
        what: &'static str,
        /// Bytes that it needs.
        needed: usize,
        /// Bytes that were there.
        found: usize,
    },
    /// A frame does not begin like one.
    #[error(
        "a frame begins with {found:#04x}; the peer speaks another protocol, or the stream is out of step"
    )]
    BadMagic {
        /// The first byte.
        found: u8,
    },
    /// A header is shorter or longer than headers can be.
    #[error("a header of {found} bytes; headers have 16 to 255")]
    HeaderLength {
        /// What it says, or would have.
        found: usize,
    },
    /// A header is not the one that was sent.
    #[error(
        "a header's checksum is {found:#010x} instead of {expected:#010x}; it was damaged on the way"
    )]
    HeaderChecksum {
        /// What it says.
        expected: u32,
        /// What its bytes have.
        found: u32,
    },
    /// A payload is not the one that was sent.
    #[error(
        "a payload's checksum is {found:#010x} instead of {expected:#010x}; it was damaged on the way"
    )]
    PayloadChecksum {
        /// What the header says.
        expected: u32,
        /// What the bytes have.
        found: u32,
    },
    /// A type that this version does not know.
    #[error("message type {found} is not known here; update this side")]
    UnknownType {
        /// The number.
        found: u8,
    },
    /// Flags that this version does not know.
    #[error("header flags {bits:#04x} are not known here; update this side")]
    UnknownFlags {
        /// The unknown ones.
        bits: u8,
    },
    /// A header field that must be understood (its tag is odd) and is not.
    #[error("header field {tag} must be understood and is not; update this side")]
    UnknownTlv {
        /// The tag.
        tag: u8,
    },
    /// A header field that is not what its tag says.
    #[error("header field {tag} {reason}")]
    Tlv {
        /// The tag.
        tag: u8,
        /// What is wrong.
        reason: &'static str,
    },
    /// Larger than agreed.
    #[error(
        "{what} of {len} bytes where {limit} are allowed; raise the limit on both sides, or send less at once"
    )]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// The chunks of a long message do not fit together.
    #[error("chunked message {id} {reason}")]
    Stream {
        /// Its number on the connection.
        id: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// A step did not end in time.
    #[error("{step} took longer than {waited:?}; the peer is gone or too slow, connect again")]
    Timeout {
        /// Which step.
        step: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The system refused to read or write.
    #[error("{step} failed")]
    Io {
        /// Which step.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The peer has closed the stream.
    #[error("the stream was closed while {step}")]
    Closed {
        /// What was going on.
        step: &'static str,
    },
    /// A payload cannot be compressed or taken apart.
    #[error("a payload compressed with {codec} {reason}")]
    Compression {
        /// Which one.
        codec: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A Raft message that Raft must not see.
    #[error("refused a Raft message: {rule} ({detail})")]
    RaftMessage {
        /// The rule that it breaks.
        rule: &'static str,
        /// With which values.
        detail: String,
    },
    /// Bytes that are not what they should be.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A value cannot be written or read.
    #[error("a payload cannot be {act}: {reason}")]
    Payload {
        /// What was tried.
        act: &'static str,
        /// What the format said.
        reason: String,
    },
    /// A bounded queue or table has no room.
    #[error("{what} is full; try again when something has left it")]
    Full {
        /// Which one.
        what: &'static str,
    },
    /// A request was given up: its connection was lost, or the table closed.
    #[error("request was given up: {reason}; whether it was carried out is not known")]
    GivenUp {
        /// Why.
        reason: &'static str,
    },
    /// The peer could not use a request.
    #[error("the peer refused a request: {text} (code {code})")]
    Peer {
        /// For programs.
        code: u16,
        /// For people.
        text: String,
    },
    /// Bytes after an error are not looked at: where the next frame begins is not known any more.
    #[error("the stream failed before ({first}); close it and connect again")]
    Failed {
        /// The first error.
        first: String,
    },
}

impl WireError {
    /// Makes a [`WireError::Io`] of what the system said in `step`; a stream that ends there is [`WireError::Closed`].
    pub(crate) fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed { step },
            _ => Self::Io { step, source },
        }
    }
}
