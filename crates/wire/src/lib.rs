//! Message framing and the Raft message codec: bytes in, events out, payloads by reference.
#![forbid(unsafe_code)]

mod crc;
pub mod error;
mod segments;

pub use crc::{Crc32c, crc32c};
pub use error::WireError;
pub use segments::{CUT, Mark, QUIC_CUT, Segments};
