//! What every part of a running node shares: the cache, the limits, the counters.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use straightway_cache::RawDiskCache;
use straightway_cluster::Cluster;

use crate::auth::Token;
use crate::counters::{HttpStats, Shard};
use crate::feed::Feed;
use crate::http::access::AccessLogger;

/// The shared state of a node. Network threads hold it behind one `Arc` for each connection.
#[derive(Debug)]
pub struct NodeState {
    pub(crate) cache: RawDiskCache,
    cluster: Option<Cluster>,
    pub(crate) token: Option<Token>,
    pub(crate) feed: Feed,
    pub(crate) access: Option<AccessLogger>,
    /// Origins of pages that may talk to the admin listener, besides its own.
    pub(crate) origins: Vec<String>,
    pub(crate) limits: Limits,
    /// Objects up to this many bytes are verified and in memory when the cache has opened them.
    pub(crate) verify_ahead: u64,
    default_ttl: Duration,
    shards: Box<[Shard]>,
    draining: AtomicBool,
    started: Instant,
    boundary: Boundary,
}

/// What a node is put together from.
pub(crate) struct Parts {
    pub(crate) cache: RawDiskCache,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) token: Option<Token>,
    pub(crate) feed: Feed,
    pub(crate) access: Option<AccessLogger>,
    pub(crate) default_ttl: Duration,
    pub(crate) origins: Vec<String>,
}

/// How long each state of a connection may last, and how many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) send_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) max_connections: usize,
}

impl NodeState {
    /// State for a node of `workers` network threads.
    pub(crate) fn new(parts: Parts, limits: Limits, verify_ahead: u64, workers: usize) -> Self {
        let Parts { cache, cluster, token, feed, access, default_ttl, origins } = parts;
        Self {
            cache,
            cluster,
            token,
            feed,
            access,
            origins,
            limits,
            verify_ahead,
            default_ttl,
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            boundary: Boundary::new(),
        }
    }

    /// The cache that the node serves from.
    pub fn cache(&self) -> &RawDiskCache {
        &self.cache
    }

    /// The cluster that the node is a member of.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// How long objects live that are stored without a lifetime; `None`: they do not expire.
    pub(crate) fn default_ttl(&self) -> Option<Duration> {
        (!self.default_ttl.is_zero()).then_some(self.default_ttl)
    }

    /// The counters of one network thread.
    pub(crate) fn shard(&self, worker: usize) -> &Shard {
        &self.shards[worker % self.shards.len()]
    }

    /// The HTTP counters, added up over the network threads.
    pub fn http_stats(&self) -> HttpStats {
        let mut total = HttpStats::default();
        for shard in &self.shards {
            shard.add_to(&mut total);
        }
        total
    }

    /// Nanoseconds since the node started.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Seconds since the node started.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether the node has been told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// A delimiter for a multipart body.
    pub(crate) fn next_boundary(&self) -> String {
        self.boundary.next()
    }
}

/// Delimiters of multipart bodies: a random part, so that no stored object can contain one on purpose, and a count.
#[derive(Debug)]
struct Boundary {
    random: u64,
    count: AtomicU64,
}

impl Boundary {
    fn new() -> Self {
        let mut bytes = [0; 8];
        // Without a source of randomness the clock and the address space still make a fair guess hard.
        let random = match getrandom::fill(&mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => u64::from(std::process::id()) ^ (&raw const bytes).addr() as u64,
        };
        Self { random, count: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("straightway-{:016x}-{:x}", self.random, self.count.fetch_add(1, Ordering::Relaxed))
    }
}
