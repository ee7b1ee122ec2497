//! The composition root: builds a node from checked settings, and takes it down again.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::available_parallelism;

use straightway_cache::{CacheError, CacheInfo, RawDiskCache};
use thiserror::Error;
use tokio::net::TcpListener;

use crate::admin::AdminServer;
use crate::auth::Token;
use crate::config::settings::NodeSettings;
use crate::feed::{Feed, FeedError};
use crate::http::access::AccessLogger;
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
}

/// A running node. Dropping it without [`Node::stop`] leaves its threads to the end of the process.
#[derive(Debug)]
pub struct Node {
    state: Arc<NodeState>,
    ready: Ready,
    data: DataServer,
    admin: AdminServer,
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
        let admin_listener = bind(settings.admin)?;
        let failed = |error: FeedError| NodeError::Feed(Box::new(error));
        let name = settings.node_name.clone().unwrap_or_else(host_name);
        let feed = Feed::start(name, settings.feed, settings.optimizer).map_err(failed)?;
        let cache = open_cache(&settings, &feed).await?;
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
        let parts = Parts { cache, token, feed, access, origins: settings.origins.clone() };
        let state = Arc::new(NodeState::new(parts, limits, settings.verify_ahead, workers));
        let ready = Ready {
            data: listeners.iter().map(local).collect::<Result<_, _>>()?,
            admin: local(&admin_listener)?,
            tls: acceptor.is_some(),
            workers,
            cache: state.cache().info().clone(),
        };
        let data = DataServer::start(&state, listeners, acceptor.as_ref(), workers)
            .map_err(|source| NodeError::System { what: "a network thread", source })?;
        let admin = AdminServer::start(&state, admin_listener);
        Ok(Self { state, ready, data, admin })
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
    let node = Node::start(settings).await?;
    ready(node.ready());
    let signal = signals.received().await;
    tracing::info!(signal, "draining");
    node.stop().await
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

async fn open_cache(settings: &NodeSettings, feed: &Feed) -> Result<RawDiskCache, NodeError> {
    let mut builder = RawDiskCache::builder(&settings.cache)
        .size(settings.size)
        .block_size(settings.block_size)
        .ttl(settings.ttl)
        .io(settings.io)
        .format(settings.format)
        .verify_ahead(settings.verify_ahead)
        .scrub_rate(settings.scrub_rate)
        .zero_copy(settings.zero_copy)
        .observer(feed.observer());
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
