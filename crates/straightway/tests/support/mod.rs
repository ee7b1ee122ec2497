//! A node in this process, and a client that shows every byte.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use straightway::cache::{IoMode, ZeroCopyConfig};
use straightway::config::settings::NodeSettings;
use straightway::counters::HttpStats;
use straightway::feed::FeedLimits;
use straightway::node::Node;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Generous: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running node with a cache of its own.
pub struct TestNode {
    node: Option<Node>,
    dir: TempDir,
}

/// Settings for a small cache on free ports, with one network thread.
pub fn settings(dir: &TempDir) -> NodeSettings {
    NodeSettings {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        cache: dir.path().join("test.cache"),
        size: 64 << 20,
        io: IoMode::Standard,
        workers: 1,
        data_dir: dir.path().join("data"),
        // On a busy machine silence lasts: a ping would come between what a test expects, and who hears no answer to it
        // closes. Those that test pings ask for them.
        feed: FeedLimits { heartbeat: Duration::from_hours(1), ..FeedLimits::default() },
        ..NodeSettings::default()
    }
}

/// Addresses that stay a test's own while this is held: a node may leave them and come back, or leave them for good, and
/// nobody else is given their ports meanwhile.
pub struct Addresses {
    _held: [TcpSocket; 2],
    pub data: SocketAddr,
    pub admin: SocketAddr,
}

impl Addresses {
    pub fn hold() -> Self {
        // Bound and not listening: the node, which names the port and shares it, may listen there; nobody else is given it.
        let held: [TcpSocket; 2] = std::array::from_fn(|_| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            socket
        });
        let [data, admin] = held.each_ref().map(|socket| socket.local_addr().unwrap());
        Self { _held: held, data, admin }
    }

    /// Has a node listen there.
    pub fn give(&self, settings: &mut NodeSettings) {
        (settings.listen, settings.admin) = (vec![self.data], self.admin);
    }
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut NodeSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(&dir);
        change(&mut settings);
        let node = Node::start(settings).await.unwrap();
        Self { node: Some(node), dir }
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.node().ready().data[0]
    }

    pub fn admin(&self) -> SocketAddr {
        self.node().ready().admin
    }

    pub fn cache_path(&self) -> PathBuf {
        self.dir.path().join("test.cache")
    }

    pub fn http(&self) -> HttpStats {
        self.node().state().http_stats()
    }

    /// Waits until all that was asked over connections that are gone by now has been counted. The node counts an answer
    /// once its last byte is out, which is when a client has it, and a connection as closed after its answers. One that
    /// is kept open is waited for in vain.
    pub async fn settled(&self) {
        within(async {
            while self.http().connections_open() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub fn set_zero_copy(&self, config: ZeroCopyConfig) {
        self.node().state().cache().zero_copy().set_config(config);
    }

    pub async fn client(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address()).await.unwrap())
    }

    pub async fn admin_client(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.admin()).await.unwrap())
    }

    pub async fn put(&self, key: &str, body: &[u8]) -> Reply {
        self.client().await.put(key, "", body).await
    }

    pub async fn get(&self, key: &str, headers: &str) -> Reply {
        self.client().await.get(key, headers).await
    }

    pub async fn stop(mut self) {
        self.node.take().unwrap().stop().await.unwrap();
    }

    pub fn into_node(mut self) -> (Node, TempDir) {
        (self.node.take().unwrap(), self.dir)
    }
}

/// An answer, taken apart.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(have, _)| have == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} stands twice in {:?}", self.headers);
        first
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Checks that this is a problem document of its own status.
    pub fn assert_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let json = self.json();
        assert_eq!(json["status"], status);
        assert!(json["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
}

/// One keep-alive connection.
pub struct Client<T> {
    stream: T,
    pending: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub fn new(stream: T) -> Self {
        Self { stream, pending: Vec::new() }
    }

    pub fn stream(&mut self) -> &mut T {
        &mut self.stream
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
        within(self.stream.flush()).await.unwrap();
    }

    pub async fn get(&mut self, key: &str, headers: &str) -> Reply {
        self.send(format!("GET /{key} HTTP/1.1\r\nhost: t\r\n{headers}\r\n")).await;
        self.reply().await
    }

    pub async fn head(&mut self, key: &str, headers: &str) -> Reply {
        self.send(format!("HEAD /{key} HTTP/1.1\r\nhost: t\r\n{headers}\r\n")).await;
        self.read_reply(true).await.unwrap()
    }

    pub async fn delete(&mut self, key: &str, headers: &str) -> Reply {
        self.send(format!("DELETE /{key} HTTP/1.1\r\nhost: t\r\n{headers}\r\n")).await;
        self.reply().await
    }

    pub async fn put(&mut self, key: &str, headers: &str, body: &[u8]) -> Reply {
        self.send(format!(
            "PUT /{key} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        ))
        .await;
        self.send(body).await;
        self.reply().await
    }

    /// The next answer; panics where the connection breaks off.
    pub async fn reply(&mut self) -> Reply {
        self.read_reply(false).await.unwrap()
    }

    /// The next answer, or how far it got before the connection broke off.
    pub async fn read_reply(&mut self, head_only: bool) -> Result<Reply, Vec<u8>> {
        let end = loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return Err(std::mem::take(&mut self.pending));
            }
        };
        let head = String::from_utf8(self.pending.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        if head_only || (100..200).contains(&status) || status == 204 || status == 304 {
            return Ok(reply);
        }
        let len: usize = reply.header("content-length").expect("a length").parse().unwrap();
        while self.pending.len() < len {
            if !self.fill().await {
                return Err(std::mem::take(&mut self.pending));
            }
        }
        reply.body = self.pending.drain(..len).collect();
        Ok(reply)
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.pending)
    }

    async fn fill(&mut self) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        match within(self.stream.read(&mut chunk)).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.pending.extend(&chunk[..read]);
                true
            }
        }
    }
}

/// Waits for an event, but not for ever.
pub async fn within<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(PATIENCE, event).await.expect("the event did not come")
}

/// Bytes that repeat nowhere within an object, so that any mixing up shows.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Always from the mapping, by the way that is asked for.
pub fn mapped(enable_sendfile: bool) -> ZeroCopyConfig {
    ZeroCopyConfig { mmap_threshold: 1, enable_sendfile, adaptive: false }
}
