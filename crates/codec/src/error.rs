//! Everything that can go wrong between a value and its bytes.
use straightway_buffer::BufferError;
use thiserror::Error;

/// Why a message could not be written or read. Each says what happened to what, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The message is shorter than its parts say.
    #[error("the message has {found} bytes where at least {needed} were expected; it was cut off")]
    Truncated {
        /// Bytes that were needed.
        needed: usize,
        /// Bytes that were there.
        found: usize,
    },
    /// The message does not begin like one.
    #[error("the bytes are no message of this kind ({reason}); check what the peer speaks")]
    NotAMessage {
        /// What is wrong.
        reason: &'static str,
    },
    /// The archive was written by a build with another layout.
    #[error(
        "the archive's format is {found:#04x}, this build reads {expected:#04x}; use JSON with this peer"
    )]
    Format {
        /// The sender's format byte.
        found: u8,
        /// Ours.
        expected: u8,
    },
    /// Nobody registered this type.
    #[error("type {id:#010x} is not registered here; update this side, or use JSON")]
    UnknownType {
        /// The type's id.
        id: u32,
    },
    /// The type is known, this version of it is not.
    #[error(
        "version {version} of {name} is not known here (this side has {known}); update this side, or use JSON"
    )]
    UnknownVersion {
        /// The type.
        name: &'static str,
        /// The version that came.
        version: u16,
        /// The version that this side writes.
        known: u16,
    },
    /// The message is of another type than was asked for.
    #[error("the message is a {found}, not a {wanted}")]
    WrongType {
        /// What came.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The bytes are not a valid value of the type.
    #[error("the {len} bytes are no valid {name}; they were damaged, or are of another type")]
    Invalid {
        /// The type.
        name: &'static str,
        /// How many bytes.
        len: usize,
    },
    /// The payload is valid, perhaps, but no archive that can be read where it lies.
    #[error("the payload is {what}, which cannot be read in place; open the envelope instead")]
    NotInPlace {
        /// What it is.
        what: &'static str,
    },
    /// The text is not valid JSON of the type.
    #[error("the text is no valid {name}: {reason}")]
    Json {
        /// The type.
        name: &'static str,
        /// Where and what.
        reason: String,
    },
    /// The buffer is too small.
    #[error("the value does not fit into a buffer of {capacity} bytes; take a larger one")]
    Full {
        /// The buffer's capacity.
        capacity: usize,
    },
    /// The value is larger than messages may be.
    #[error("a message of more than {limit} bytes; split it, or raise the limit")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Two registrations contradict each other.
    #[error("{name} cannot be registered: {reason}")]
    Registration {
        /// The type or alias.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Compression or its reverse failed.
    #[error("the {what} could not be {act}; it was damaged, or made with another dictionary")]
    Compression {
        /// Which stream.
        what: &'static str,
        /// What was tried.
        act: &'static str,
    },
    /// No buffer could be had.
    #[error("no buffer to work in")]
    Buffer(#[from] BufferError),
}
