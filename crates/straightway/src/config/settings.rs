//! What a node is started with: plain values, already checked. Where they come from is the business of the rest of `config`.
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use straightway_cache::{IoMode, ZeroCopyConfig};
use straightway_cluster::Start;
use straightway_codec::OptimizerMode;
use straightway_wire::Compression;

use crate::feed::FeedLimits;

/// Everything that [`crate::node::run`] needs.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Data listeners; port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// Admin listener.
    pub admin: SocketAddr,
    /// The cache file or block device.
    pub cache: PathBuf,
    /// Size of the cache in bytes.
    pub size: u64,
    /// I/O backend.
    pub io: IoMode,
    /// Bearer token that changing methods must show.
    pub token: Option<Secret>,
    /// Certificate and key; the data listeners then speak TLS only.
    pub tls: Option<TlsPaths>,
    /// Whether listening beyond loopback without a token is allowed.
    pub insecure: bool,
    /// Whether a file that is not a cache may be overwritten.
    pub format: bool,
    /// Alignment of large objects in bytes.
    pub block_size: u32,
    /// Lifetime of objects stored without one; zero: they do not expire.
    pub ttl: Duration,
    /// Largest object in bytes; a quarter of the cache when `None`.
    pub max_object: Option<u64>,
    /// How bytes leave the cache.
    pub zero_copy: ZeroCopyConfig,
    /// Objects up to this many bytes are verified whole before their first byte is served.
    pub verify_ahead: u64,
    /// Bytes per second that the scrubber verifies; 0: off.
    pub scrub_rate: u64,
    /// Network threads; 0: one a core.
    pub workers: usize,
    /// A transfer that makes no progress for this long is cut off.
    pub send_timeout: Duration,
    /// A request head must be complete this long after its first byte.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this long.
    pub idle_timeout: Duration,
    /// How long running requests may take to finish once the node is told to stop.
    pub drain_timeout: Duration,
    /// Data connections held at a time; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Identity and log of a cluster node.
    pub data_dir: PathBuf,
    /// The cluster that it is a member of.
    pub cluster: Option<ClusterSettings>,
    /// What the node calls itself; the host's name when `None`.
    pub node_name: Option<String>,
    /// Limits of the live feed.
    pub feed: FeedLimits,
    /// Whether encoding follows what is measured.
    pub optimizer: OptimizerMode,
    /// Origins of pages that may use the admin listener, besides its own.
    pub origins: Vec<String>,
    /// Where requests are logged, and how.
    pub access_log: AccessLog,
}

/// How a node takes part in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// How it comes to it.
    pub start: Start,
    /// Where it listens for other members; port 0: that of the last start, 8082, or any.
    pub listen: SocketAddr,
    /// Addresses that the others are told; empty: the one it listens on.
    pub advertise: Vec<SocketAddr>,
    /// Whether members that have moved are looked for on the local network.
    pub discover: bool,
    /// Members that keep a copy of each object.
    pub copies: usize,
    /// How long a member may not answer before the copies that it holds are made anew elsewhere; zero: never.
    pub repair_after: Duration,
    /// How entries of the log are compressed between members that are set alike.
    pub compress: Option<Compression>,
    /// Entries at which the log is cut.
    pub log_entries: u64,
}

/// Copies of each object unless told otherwise: two members may be lost.
pub const DEFAULT_COPIES: usize = 3;

/// When copies of a member that does not answer are made anew unless told otherwise: a machine that restarts is back by then.
pub const DEFAULT_REPAIR_AFTER: Duration = Duration::from_mins(10);

/// Entries at which the log is cut unless told otherwise: some megabytes, some minutes of changes.
pub const DEFAULT_LOG_ENTRIES: u64 = 10_000;

/// How requests are logged, one line each, on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// Not at all.
    #[default]
    Off,
    /// As text, in the combined format of other servers.
    Text,
    /// As JSON objects.
    Json,
}

/// Where the certificate chain and its key lie, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// A value that must not reach a log: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            admin: SocketAddr::from(([127, 0, 0, 1], 8081)),
            cache: PathBuf::from("./straightway.cache"),
            size: 1 << 30,
            io: IoMode::Auto,
            token: None,
            tls: None,
            insecure: false,
            format: false,
            block_size: 4096,
            ttl: Duration::ZERO,
            max_object: None,
            zero_copy: ZeroCopyConfig::default(),
            verify_ahead: 64 << 20,
            scrub_rate: 0,
            workers: 0,
            send_timeout: Duration::from_mins(1),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(30),
            max_connections: 10_000,
            data_dir: PathBuf::from("./straightway.data"),
            cluster: None,
            node_name: None,
            feed: FeedLimits::default(),
            optimizer: OptimizerMode::On,
            origins: Vec::new(),
            access_log: AccessLog::Off,
        }
    }
}
