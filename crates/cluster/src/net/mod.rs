//! Between members: who a node is, whom it lets in, and three lanes to each peer.
//!
//! Every node dials for its own sending: three QUIC connections to each peer, one a [`Lane`], so that heartbeats never wait behind
//! entries, nor entries behind objects. On the control and append lanes one stream lives as long as the connection and carries
//! frames; the first is a hello. On the bulk lane each transfer has a stream of its own.
//!
//! All queues are bounded. What does not fit is dropped, counted and told ([`Inbound::Unreachable`]); what arrives faster than
//! the node takes it stays with its sender.
mod accept;
mod backoff;
pub mod close;
mod dispatch;
mod encoder;
mod endpoint;
mod gate;
mod half_open;
pub mod identity;
mod inbound;
pub mod join;
mod lane;
mod limits;
mod members;
mod network;
mod peer;
mod pump;
mod queue;
mod refusals;
mod rpc;
mod shared;
pub mod ticket;

pub use close::CloseCode;
pub use gate::Rate;
pub use identity::{Identity, NodeRecord, random_bytes};
pub use join::{JoinAnswer, JoinRefusal, JoinRequest, JoinService, Joiner, TicketGrant, join};
pub use lane::LaneStats;
pub use limits::NetLimits;
pub use members::MemberAddress;
pub use network::{BulkHandler, Handlers, LocalNode, NetConfig, NetStats, Network};
pub use peer::{PeerStats, TransferSort};
pub use queue::QueueLimits;
pub use refusals::Refusal;
pub use rpc::{MAX_CALL_BYTES, Service};
pub use shared::{Held, Inbound};
pub use straightway_wire::Compression;
pub use straightway_wire::raft::Lane;
pub use ticket::{JoinRole, Ticket, TicketError, TicketId, TicketMember, TicketSecret};
