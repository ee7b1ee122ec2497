//! A cluster of cache nodes: Raft over iroh, a catalogue of objects, their bytes beside the log, and a purge that no node
//! forgets.
//!
//! Knows nothing of the cache: it asks for an [`ObjectStore`].
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod error;
pub mod ids;
pub mod lease;
pub mod log;
pub mod net;
pub mod store;

pub use error::ClusterError;
pub use ids::{ClusterId, NodeKey, ObjectId, RaftId, StorageId};
pub use store::{BoxFuture, ObjectInfo, ObjectReader, ObjectSink, ObjectStore, StoreError};
