//! A cluster of cache nodes: Raft over iroh, a catalogue of objects, their bytes beside the log, and a purge that no node
//! forgets.
//!
//! Knows nothing of the cache: it asks for an [`ObjectStore`].
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod core;
pub mod error;
pub mod ids;
pub mod lease;
pub mod log;
pub mod memory;
pub mod mesh;
pub mod net;
pub mod node;
pub mod store;
pub mod transfer;

pub use error::ClusterError;
pub use ids::{ClusterId, NodeKey, ObjectId, RaftId, StorageId};
pub use net::{JoinRole, Ticket};
pub use node::{
    Arriving, Cluster, ClusterConfig, Consistency, Fetched, LeaseStatus, MemberStatus, Metrics,
    NewObject, Observer, PeerMetrics, PutOutcome, Start, Status,
};
pub use store::{BoxFuture, ObjectInfo, ObjectReader, ObjectSink, ObjectStore, StoreError};
