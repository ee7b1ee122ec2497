//! Packets that are built, sent, received and parsed without a copy.
#![deny(unsafe_code)]

mod error;

pub use error::PacketError;
