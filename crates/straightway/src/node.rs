//! The composition root: builds a node from checked settings, and takes it down again.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use straightway_cache::{CacheError, CacheInfo, Observer, RawDiskCache};
use straightway_cluster::{Cluster, ClusterConfig, ClusterError, JoinRole, Start};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::admin::{AdminServer, Starting};
use crate::auth::Token;
use crate::config::settings::{ClusterSettings, NodeSettings};
use crate::feed::{Feed, FeedError};
use crate::http::access::AccessLogger;
use crate::member::{CacheStore, ClusterObserver, import, sweep};
use crate::server::tls::TlsError;
use crate::server::{DataServer, drain, is_loopback, listen, tls};
use crate::state::{Limits, NodeState, Parts};

/// Why a node could not start or ended badly.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// An address beyond loopback without a token.
    #[error(
        "{address} can be reached from other machines and no token is set; give --token-file, or --insecure if that is meant"
    )]
    Unprotected {
        /// The address.
        address: SocketAddr,
    },
    /// The cache could not be opened, or its last checkpoint failed.
    #[error("the cache could not be {act}")]
    Cache {
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        #[source]
        source: CacheError,
    },
    /// An address could not be listened on.
    #[error("cannot listen on {address}; free it, or choose another with --listen or --admin")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificate or key is unusable.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    /// The live feed could not be started.
    #[error("the live feed could not be started")]
    Feed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node cannot be a member of its cluster.
    #[error("the cluster")]
    Cluster(#[source] ClusterError),
    /// The node was a member of its cluster and cannot be that any longer.
    #[error("this node {reason}")]
    Expelled {
        /// Why.
        reason: String,
    },
    /// A thread, timer or signal handler was refused.
    #[error("the system refused {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a node says about itself once it serves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ready {
    /// Data listeners, with the ports that were taken for port 0.
    pub data: Vec<SocketAddr>,
    /// Admin listener.
    pub admin: SocketAddr,
    /// Whether the data listeners speak TLS.
    pub tls: bool,
    /// Network threads.
    pub workers: usize,
    /// What the cache found out about its file and system.
    pub cache: CacheInfo,
    /// The cluster that it is a member of.
    pub cluster: Option<Membership>,
}

/// What a member of a cluster says about itself once it serves.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Its number.
    pub id: u64,
    /// Where it listens for other members (UDP).
    pub address: SocketAddr,
    /// A ticket for nodes that are to join; what a cluster's first node has.
    pub ticket: Option<String>,
}

/// A running node. Dropping it without [`Node::stop`] leaves its threads to the end of the process.
#[derive(Debug)]
pub struct Node {
    state: Arc<NodeState>,
    ready: Ready,
    data: DataServer,
    admin: AdminServer,
    /// What the cluster's connections run on, beside the network threads.
    runtime: Option<ClusterRuntime>,
}

impl Node {
    /// Opens the cache and starts to serve.
    pub async fn start(settings: NodeSettings) -> Result<Self, NodeError> {
        check_exposure(&settings)?;
        allow_many_sockets();
        let acceptor =
            settings.tls.as_ref().map(tls::acceptor).transpose().map_err(NodeError::Tls)?;
        // Ports first: opening a cache may take seconds, and may format a file.
        let listeners =
            settings.listen.iter().map(|address| bind(*address)).collect::<Result<Vec<_>, _>>()?;
        let starting = Starting::begin(bind(settings.admin)?);
        let failed = |error: FeedError| NodeError::Feed(Box::new(error));
        let name = settings.node_name.clone().unwrap_or_else(host_name);
        let feed = Feed::start(name, settings.feed, settings.optimizer).map_err(failed)?;
        let data_addresses = listeners.iter().map(local).collect::<Result<Vec<_>, _>>()?;
        let observer = ClusterObserver::new(feed.observer());
        let cache = match settings.cluster {
            Some(_) => open_cache(&settings, observer.clone()).await?,
            None => open_cache(&settings, feed.observer()).await?,
        };
        let mut runtime = None;
        let mut joined = None;
        if let Some(cluster) = &settings.cluster {
            let runtime = runtime.insert(cluster_runtime()?);
            let config = cluster_config(&settings, cluster, &data_addresses, acceptor.is_some());
            observer.open(&cache);
            let starting = member(config, cache.clone(), observer);
            let started = runtime.handle().spawn(starting).await;
            joined = Some(started.map_err(|_| NodeError::Expelled {
                reason: "could not start its part of the cluster".to_owned(),
            })??);
        }
        let (cluster, membership) = joined.unzip();
        let workers = match settings.workers {
            0 => available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let limits = Limits {
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            send_timeout: settings.send_timeout,
            drain_timeout: settings.drain_timeout,
            max_connections: settings.max_connections,
        };
        let token = settings.token.as_ref().map(|secret| Token::new(secret.expose()));
        let access = AccessLogger::start(settings.access_log)
            .map_err(|source| NodeError::System { what: "a thread for the access log", source })?;
        let parts = Parts {
            cache,
            cluster,
            token,
            feed,
            access,
            default_ttl: settings.ttl,
            origins: settings.origins.clone(),
        };
        let admin_listener = starting
            .end()
            .await
            .map_err(|source| NodeError::System { what: "the admin listener", source })?;
        let state = Arc::new(NodeState::new(parts, limits, settings.verify_ahead, workers));
        let ready = Ready {
            data: data_addresses,
            admin: local(&admin_listener)?,
            tls: acceptor.is_some(),
            workers,
            cache: state.cache().info().clone(),
            cluster: membership,
        };
        let data = DataServer::start(&state, listeners, acceptor.as_ref(), workers)
            .map_err(|source| NodeError::System { what: "a network thread", source })?;
        let admin = AdminServer::start(&state, admin_listener);
        Ok(Self { state, ready, data, admin, runtime })
    }

    /// Where it listens, and on what.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// What its parts share: the cache and the counters.
    pub fn state(&self) -> &Arc<NodeState> {
        &self.state
    }

    /// Stops accepting, finishes running requests within the drain limit, and closes the cache.
    pub async fn stop(self) -> Result<(), NodeError> {
        self.data.stop().await;
        if let Some(cluster) = self.state.cluster() {
            cluster.stop().await;
        }
        drop(self.runtime);
        let state = self.state.clone();
        // Subscribers are told to come back; that takes a second at most.
        drop(tokio::task::spawn_blocking(move || state.feed.stop()).await);
        self.admin.stop().await;
        self.state
            .cache()
            .close()
            .await
            .map_err(|source| NodeError::Cache { act: "closed", source })
    }
}

/// Runs a node until SIGTERM or SIGINT, then drains it. `ready` is called once it serves.
pub async fn run(settings: NodeSettings, ready: impl FnOnce(&Ready)) -> Result<(), NodeError> {
    let refused = |source| NodeError::System { what: "a signal handler", source };
    // In place before anybody is told that the node is ready.
    let mut signals = drain::Signals::install().map_err(refused)?;
    let node = tokio::select! {
        node = Node::start(settings) => node?,
        // It has served nobody. What it was about, the next start goes on with, as after a crash.
        signal = signals.received() => {
            tracing::info!(signal, "ended before it was ready");
            return Ok(());
        }
    };
    ready(node.ready());
    let expelled = async {
        match node.state().cluster() {
            Some(cluster) => cluster.failed().await,
            None => std::future::pending().await,
        }
    };
    let reason = tokio::select! {
        signal = signals.received() => {
            tracing::info!(signal, "draining");
            None
        }
        reason = expelled => Some(reason),
    };
    node.stop().await?;
    reason.map_or(Ok(()), |reason| Err(NodeError::Expelled { reason }))
}

/// How long a member waits for the cluster before it says that it is ready; it then answers 503 where it must ask.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// How long the first ticket is good for.
const TICKET_LIFETIME: Duration = Duration::from_hours(1);
/// Threads for the cluster's connections.
const CLUSTER_THREADS: usize = 2;

/// A runtime that may be dropped within another one, as happens when a node cannot start: what runs on it is let go.
#[derive(Debug)]
struct ClusterRuntime(Option<Runtime>, tokio::runtime::Handle);

impl ClusterRuntime {
    fn handle(&self) -> &tokio::runtime::Handle {
        &self.1
    }
}

impl Drop for ClusterRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn cluster_runtime() -> Result<ClusterRuntime, NodeError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CLUSTER_THREADS)
        .thread_name("cluster")
        .enable_all()
        .build()
        .map(|runtime| {
            let handle = runtime.handle().clone();
            ClusterRuntime(Some(runtime), handle)
        })
        .map_err(|source| NodeError::System { what: "threads for the cluster", source })
}

fn cluster_config(
    settings: &NodeSettings,
    cluster: &ClusterSettings,
    data: &[SocketAddr],
    tls: bool,
) -> ClusterConfig {
    let scheme = if tls { "https" } else { "http" };
    ClusterConfig {
        data_dir: settings.data_dir.clone(),
        start: cluster.start.clone(),
        listen: cluster.listen,
        advertise: cluster.advertise.clone(),
        discover: cluster.discover,
        name: settings.node_name.clone().unwrap_or_else(host_name),
        http: data.first().map_or_else(String::new, |data| format!("{scheme}://{data}")),
        copies: cluster.copies,
        repair_after: cluster.repair_after,
        compress: cluster.compress,
        log_entries: cluster.log_entries,
    }
}

/// Starts the node's part of the cluster.
async fn member(
    config: ClusterConfig,
    cache: RawDiskCache,
    observer: Arc<ClusterObserver>,
) -> Result<(Cluster, Membership), NodeError> {
    let first = config.start == Start::First;
    let data_dir = config.data_dir.clone();
    let held = cache.clone();
    let store = Arc::new(CacheStore::new(cache));
    let cluster =
        Cluster::start(config, store, observer.clone()).await.map_err(NodeError::Cluster)?;
    observer.joined(cluster.clone());
    let ready = cluster.ready(FIRST_WORD).await;
    tokio::select! {
        imported = import(&cluster, &held, &data_dir, first) => imported
            .map_err(|source| NodeError::System { what: "a file in the data folder", source })?,
        reason = cluster.failed() => return Err(NodeError::Expelled { reason }),
    }
    tokio::spawn(sweep(cluster.clone(), held));
    let mut ticket = None;
    if ready && first {
        let issued = cluster.ticket(TICKET_LIFETIME, JoinRole::Voter).await;
        ticket = Some(issued.map_err(NodeError::Cluster)?.to_string());
    }
    let membership = Membership { id: cluster.id(), address: cluster.local_addr(), ticket };
    Ok((cluster, membership))
}

fn check_exposure(settings: &NodeSettings) -> Result<(), NodeError> {
    if settings.insecure || settings.token.is_some() {
        return Ok(());
    }
    match settings.listen.iter().chain([&settings.admin]).find(|address| !is_loopback(address)) {
        Some(address) => Err(NodeError::Unprotected { address: *address }),
        None => Ok(()),
    }
}

async fn open_cache(
    settings: &NodeSettings,
    observer: Arc<dyn Observer>,
) -> Result<RawDiskCache, NodeError> {
    let mut builder = RawDiskCache::builder(&settings.cache)
        .size(settings.size)
        .block_size(settings.block_size)
        // In a cluster the catalogue says when an object ends, the same for all members.
        .ttl(if settings.cluster.is_some() { Duration::ZERO } else { settings.ttl })
        .io(settings.io)
        .format(settings.format)
        .verify_ahead(settings.verify_ahead)
        .scrub_rate(settings.scrub_rate)
        .zero_copy(settings.zero_copy)
        .observer(observer);
    if let Some(bytes) = settings.max_object {
        builder = builder.max_object(bytes);
    }
    builder.open().await.map_err(|source| NodeError::Cache { act: "opened", source })
}

/// Subscribers and connections are sockets: as many as the system allows, not as few as a shell asks for.
fn allow_many_sockets() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

/// What the node is called unless it was given a name.
fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = "node".to_owned();
    name
}

fn bind(address: SocketAddr) -> Result<TcpListener, NodeError> {
    listen::bind(address).map_err(|source| NodeError::Listen { address, source })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, NodeError> {
    listener
        .local_addr()
        .map_err(|source| NodeError::System { what: "a listener's address", source })
}
