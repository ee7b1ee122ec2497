//! Clients with one request under way each.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use straightway::bench::{Bench, Latencies, Mix, Options, Until};
use straightway::client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{KEYS, VALUE, etcd};

/// Where the leader takes writes.
pub enum Target {
    Http(String),
    Front(SocketAddr),
    Etcd(Vec<etcd::Kv>, usize),
}

/// An answer to come.
pub type Asked<'a> = BoxFuture<'a, Result<(), String>>;

/// What came of it.
#[derive(Debug, Default)]
pub struct Cell {
    pub done: u64,
    pub failed: u64,
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub cpu_us: f64,
    pub example: Option<String>,
}

pub async fn run(target: &Target, clients: usize, size: usize, time: Duration) -> Cell {
    match target {
        Target::Http(url) => http(url, clients, size, time).await,
        Target::Front(address) => {
            assert_eq!(size, VALUE, "what the front takes");
            let connect = |_| async { TcpStream::connect(address).await.expect("connected") };
            many(clients, time, connect, front).await
        }
        Target::Etcd(connections, share) => {
            let connect = |n: usize| async move { connections[n / share % connections.len()].clone() };
            let value = bytes::Bytes::from(noise(size));
            many(clients, time, connect, move |kv, n| etcd::put(kv, n % KEYS as u64, value.clone())).await
        }
    }
}

async fn http(url: &str, clients: usize, size: usize, time: Duration) -> Cell {
    // Large objects are few, so that they fit into the cache many times.
    let keys = if size == VALUE { KEYS } else { 16 };
    let options = Options {
        connections: clients,
        until: Until::Elapsed(time),
        size,
        keys,
        mix: Mix { get: 0, put: 1 },
        ..Options::default()
    };
    let bench = Bench::new(Client::new(url, None, None).expect("a URL"), options).expect("keys");
    let outcome = bench.measure().await.expect("the node takes connections");
    cell(&outcome.put.latencies, outcome.failed(), outcome.example)
}

fn cell(latencies: &Latencies, failed: u64, example: Option<String>) -> Cell {
    let at = |percent| latencies.percentile_ns(percent) as f64 / 1e6;
    let (p50_ms, p99_ms) = (at(50.0), at(99.0));
    Cell { done: latencies.count(), failed, p50_ms, p99_ms, example, ..Cell::default() }
}

/// `clients` tasks that call `ask` again and again, each on what `connect` gives it, with a number of its own each time.
async fn many<C, F>(
    clients: usize,
    time: Duration,
    connect: impl Fn(usize) -> F,
    ask: impl for<'a> Fn(&'a mut C, u64) -> Asked<'a> + Clone + Send + 'static,
) -> Cell
where
    C: Send + 'static,
    F: Future<Output = C>,
{
    let mut connections = Vec::new();
    for n in 0..clients {
        connections.push(connect(n).await);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (n, mut connection) in connections.into_iter().enumerate() {
        let ask = ask.clone();
        tasks.spawn(async move {
            let (mut latencies, mut failed, mut example) = (Latencies::default(), 0, None);
            let mut number = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            while begun.elapsed() < time {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let asked = Instant::now();
                match ask(&mut connection, number >> 16).await {
                    Ok(()) => latencies.note(asked.elapsed().as_nanos() as u64),
                    Err(error) => {
                        failed += 1;
                        example = Some(error);
                    }
                }
            }
            (latencies, failed, example)
        });
    }
    let (mut all, mut failures, mut words) = (Latencies::default(), 0, None);
    while let Some(done) = tasks.join_next().await {
        let (latencies, failed, example) = done.expect("no panic");
        all.merge(&latencies);
        failures += failed;
        words = words.or(example);
    }
    cell(&all, failures, words)
}

fn front(stream: &mut TcpStream, number: u64) -> Asked<'_> {
    Box::pin(async move {
        let mut key = format!("{:08}", number % KEYS as u64).into_bytes();
        key.resize(VALUE, b'v');
        let done = async {
            stream.write_all(&key).await?;
            stream.read_u8().await
        };
        match done.await {
            Ok(1) => Ok(()),
            Ok(_) => Err("not committed".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}
