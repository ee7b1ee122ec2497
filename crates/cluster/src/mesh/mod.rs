//! The mesh: who is there, and how far away, found out beside Raft by small datagrams.
//!
//! ```text
//! tick, every 250 ms:  heartbeat ──> each peer ──> reply     the round trip of the pair that answered; its share is the loss
//! no reply for 4 periods and what a round trip may take:
//!                      heartbeat ──> another peer ──> the peer that is silent ──> back the same way, 3 hops at most
//!                      a reply comes: Relayed, else: Suspect
//! ```
//! The messages are the overlay's own ([`straightway_packet::overlay`]), one a datagram, sealed for each pair of members (see
//! `seal`). Nothing that is not proven changes anything but a count. Members trust each other: one that passes a heartbeat on
//! could invent the answer.
//!
//! [`Mesh`] does no I/O; [`driver`] gives it a socket and a clock; [`discovery`] finds addresses of members on the local
//! network, where that is wanted.
mod core;
pub mod discovery;
pub mod driver;
mod peer;
mod reject;
mod seal;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use straightway_buffer::StackBuffer;
use straightway_packet::MacAddr;

use crate::ids::{NodeKey, RaftId};

pub use self::core::Mesh;
pub use peer::{PeerStatus, Reach};
pub use reject::{Reject, Rejected};
pub use seal::MAX_DATAGRAM;

/// How often a heartbeat is sent to each peer.
pub const PERIOD: Duration = Duration::from_millis(250);
/// Peers, at most.
pub const MAX_PEERS: usize = 64;
/// Nodes between two that cannot reach each other, at most; an answer may take as many again.
pub const MAX_HOPS: u32 = 3;

/// Who this node is in the mesh, and how patient.
#[derive(Debug, Clone, Copy)]
pub struct MeshConfig {
    /// This node.
    pub me: RaftId,
    /// Its key.
    pub key: NodeKey,
    /// How often a heartbeat is sent to each peer.
    pub period: Duration,
    /// Periods without an answer after which a peer is suspected.
    pub missed: u32,
}

impl MeshConfig {
    /// The usual periods.
    pub fn new(me: RaftId, key: NodeKey) -> Self {
        Self { me, key, period: PERIOD, missed: 4 }
    }
}

/// Something that others should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A peer has answered nothing for too long, by no way.
    Suspected {
        /// The peer.
        peer: RaftId,
    },
    /// A peer is reached through another one only.
    Relayed {
        /// The peer.
        peer: RaftId,
        /// The other one.
        via: RaftId,
    },
    /// A peer that was suspected or reached through another one answers directly again.
    Recovered {
        /// The peer.
        peer: RaftId,
    },
}

/// A sealed message, built in place: it is moved into the queue of whoever sends it, and nothing is allocated.
pub type Datagram = StackBuffer<MAX_DATAGRAM>;

/// Where a [`Mesh`] puts what it wants done.
pub trait Out {
    /// To be sent, as one datagram.
    fn datagram(&mut self, to: SocketAddr, datagram: Datagram);
    /// To be told.
    fn event(&mut self, event: Event);
}

/// A node's address in overlay messages: of its key, so that all nodes know it; of one host, and given by nobody.
pub fn mac_address(key: &NodeKey) -> MacAddr {
    let hash = blake3::derive_key("straightway mesh address 1", &key.0);
    let mut address = [0; 6];
    address.copy_from_slice(&hash[..6]);
    address[0] = (address[0] & 0xfc) | 0x02;
    MacAddr(address)
}
