//! Objects and snapshots between members, beside the log: each on a stream of its own of the bulk lane.
//!
//! A chunk goes out by reference: from the store's mapping into QUIC's packets. It comes in gathered once, into a pooled buffer
//! that is handed to the store as it is. Every chunk is checked as it arrives, the whole at its end; nothing counts as stored
//! before.
mod client;
mod parts;
mod server;
mod sources;
mod stream;
mod talk;

pub use client::{Pull, SnapshotPull, Transfers};
pub use server::{OpenSnapshot, SnapshotSink, SnapshotStore, TransferServer, TransferStats};
pub use sources::{ChannelSource, ChunkSource, ReaderSource};

/// Which snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotMark {
    /// The last entry that it stands for.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Its length in bytes, if it is known.
    pub len: Option<u64>,
}

impl From<SnapshotMark> for talk::Mark {
    fn from(mark: SnapshotMark) -> Self {
        let SnapshotMark { index, term, len } = mark;
        Self { index, term, len }
    }
}

impl From<talk::Mark> for SnapshotMark {
    fn from(mark: talk::Mark) -> Self {
        let talk::Mark { index, term, len } = mark;
        Self { index, term, len }
    }
}
