//! Objects and snapshots between members, beside the log: each on a stream of its own of the bulk lane.
//!
//! A chunk goes out of a pooled buffer that the store has filled, by reference into QUIC's packets, which are encrypted. It comes
//! in gathered once, into a pooled buffer that is handed to the store as it is. Every chunk is checked as it arrives, the whole at
//! its end; nothing counts as stored before.
mod client;
mod parts;
mod server;
mod sources;
mod stream;
mod talk;

pub use client::{Pull, Transfers};
pub use server::{OpenSnapshot, SnapshotStore, TransferServer, TransferStats};
pub use sources::{ChunkSource, ReaderSource, StoredSource};

/// Which snapshot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct SnapshotMark {
    /// The last entry that it stands for.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Its length in bytes, if it is known.
    pub len: Option<u64>,
}
