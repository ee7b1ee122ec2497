//! Message framing and the Raft message codec: bytes in, events out, payloads by reference.
#![forbid(unsafe_code)]

pub mod error;

pub use error::WireError;
