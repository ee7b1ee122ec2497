//! Measures a UDP path between two machines: loss, reordering, round trips, packets and bytes a second by size, path MTU.
//!
//! A probe is an overlay heartbeat padded to the size that is measured; the answer is its reply, which is never longer
//! than the question, so that nobody can use a listener to flood a third party.
mod listen;
mod run;
mod tally;

pub use listen::listen;
pub use run::{Options, Report, SizeReport, probe};
pub use tally::{RoundTrips, Tally};

use std::net::{SocketAddr, UdpSocket};

use straightway_packet::PacketError;
use thiserror::Error;

/// The shortest probe: as long as its answer.
pub const MIN_PROBE: usize = 52;

/// Why a path could not be measured.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The address is in use, or not this machine's.
    #[error("cannot use {address} for probes; is it this machine's address, and is the port free?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The name leads nowhere.
    #[error("{target} is not an address to probe; give HOST:PORT")]
    Resolve {
        /// What was typed.
        target: String,
        /// What the resolver answered.
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error(
        "no answer from {target} to {sent} probes; does `straightway probe --listen` run there, and do firewalls let UDP through?"
    )]
    Silent {
        /// Where the probes went.
        target: SocketAddr,
        /// How many.
        sent: u64,
    },
    /// Sending or receiving failed.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

impl From<straightway_buffer::BufferError> for ProbeError {
    fn from(error: straightway_buffer::BufferError) -> Self {
        Self::Packet(error.into())
    }
}

fn bind(address: SocketAddr) -> Result<UdpSocket, ProbeError> {
    UdpSocket::bind(address).map_err(|source| ProbeError::Bind { address, source })
}
