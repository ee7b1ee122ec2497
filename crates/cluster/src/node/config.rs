//! What a cluster node is started with.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use straightway_wire::Compression;

use crate::net::Ticket;

/// How a node comes to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// It is a cluster's first node, or was started as one before.
    First,
    /// It joins by a ticket, or has joined before: then the ticket is not looked at.
    Join(Box<Ticket>),
}

/// Everything that [`super::Cluster::start`] needs.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Folder of identity, log and catalogue.
    pub data_dir: PathBuf,
    /// How it comes to its cluster.
    pub start: Start,
    /// Where it listens for members (QUIC), and on the next UDP port that is free for the mesh. Port 0: the one of the last
    /// start, or any.
    pub listen: SocketAddr,
    /// Addresses that it tells the others; empty: the one it listens on.
    pub advertise: Vec<SocketAddr>,
    /// What it calls itself.
    pub name: String,
    /// Where its data listener can be reached, for people.
    pub http: String,
    /// Copies of each object that are made when it is stored, at most one a voter; never fewer than a majority of them.
    pub copies: usize,
    /// How long a member may not answer before the copies that it holds are made anew elsewhere; zero: copies are never made anew.
    pub repair_after: Duration,
    /// Entries behind what is durable at which the log is cut. A member that was away for longer takes a snapshot.
    pub log_entries: u64,
    /// Whether members are looked for on the local network, and this one lets itself be found, by multicast.
    pub discover: bool,
    /// How append messages over 4 KiB are compressed, to and from members that are set alike. `None`: not at all.
    pub compress: Option<Compression>,
}
