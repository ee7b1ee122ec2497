//! What can go wrong in a cluster.
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::ids::RaftId;
use crate::store::StoreError;

/// What can go wrong in a cluster. Each message says what happened to what, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A file or folder of the data folder could not be used.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the data folder holds what nobody wrote there.
    #[error(
        "{} is damaged at byte {offset}: {reason}; remove this node from the cluster, empty its data folder and let it join again",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// Writing failed once: what is on the disk is not known any more, so nothing more is written.
    #[error(
        "the log cannot be written since an earlier failure ({first}); see to the disk and start the node again"
    )]
    Poisoned {
        /// The failure.
        first: String,
    },
    /// Another process holds a folder.
    #[error("{} is in use by another process; stop that node first, or give this one a data folder of its own", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The catalogue's database failed.
    #[error("the catalogue cannot be {act}: {reason}")]
    Catalogue {
        /// What was tried.
        act: &'static str,
        /// What the database said.
        reason: String,
    },
    /// Bytes that are no command, message, ticket or record of this version.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A peer could not be reached, or the connection was lost.
    #[error("{} cannot be reached: {reason}", named(*peer))]
    Unreachable {
        /// The peer; 0: one that only a ticket names.
        peer: RaftId,
        /// Why.
        reason: String,
    },
    /// A peer refused.
    #[error("refused: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// A bounded queue is full: the same may work later.
    #[error("{what} is full; try again later")]
    Busy {
        /// Which queue.
        what: &'static str,
    },
    /// There is no leader, or no majority that answers.
    #[error(
        "the cluster has no leader that a majority follows (waited {waited:?}); the members that run are not enough, or cannot reach each other"
    )]
    NoQuorum {
        /// How long it was waited for.
        waited: Duration,
    },
    /// An answer did not come in time; whether it happened is not known.
    #[error("{what} took longer than {waited:?}; whether it happened is not known")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The node is being stopped, or has been removed from the cluster.
    #[error("this node {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("{what}")]
    Config {
        /// What is wrong and what to give instead.
        what: String,
    },
    /// The bytes of an object could not be kept or found.
    #[error("object bytes")]
    Store(#[from] StoreError),
    /// A frame or message broke the wire format.
    #[error("wire format")]
    Wire(#[from] straightway_wire::WireError),
    /// The consensus library refused.
    #[error("consensus: {0}")]
    Raft(String),
}

impl ClusterError {
    /// Makes a [`ClusterError::File`] of what the system said.
    pub(crate) fn file(
        act: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { act, path, source }
    }
}

fn named(peer: RaftId) -> String {
    match peer {
        0 => "the cluster that the ticket is for".to_owned(),
        peer => format!("member {peer}"),
    }
}
