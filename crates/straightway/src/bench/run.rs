//! The requests of a run, and what became of them.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Uri};
use tokio::task::JoinSet;

use super::latency::Latencies;
use super::plan::{Options, Random, Until};
use crate::client::{Client, ClientError, Kept};

/// How long to leave a node alone that takes no connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What can be seen while it runs.
#[derive(Debug, Default)]
pub struct Live {
    /// Requests answered or failed.
    pub requests: AtomicU64,
    /// Those of them that failed.
    pub failed: AtomicU64,
    /// Bytes of objects received and sent.
    pub bytes: AtomicU64,
    stop: AtomicBool,
}

impl Live {
    /// No more requests: what is under way is waited for.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What became of the reads, or of the writes.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// Of those that were answered well.
    pub latencies: Latencies,
    /// Bytes of objects.
    pub bytes: u64,
}

impl Side {
    fn merge(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        self.bytes += other.bytes;
    }
}

/// What became of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Reads.
    pub get: Side,
    /// Writes.
    pub put: Side,
    /// What failed, by status code or by what else went wrong.
    pub errors: BTreeMap<String, u64>,
    /// The words of one of the failures.
    pub example: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Outcome {
    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Reads and writes together.
    pub fn all(&self) -> Side {
        let mut all = self.get.clone();
        all.merge(&self.put);
        all
    }

    fn merge(&mut self, other: Self) {
        self.get.merge(&other.get);
        self.put.merge(&other.put);
        for (what, count) in other.errors {
            *self.errors.entry(what).or_default() += count;
        }
        self.example = self.example.take().or(other.example);
    }
}

/// A node under load: [`Bench::fill`], [`Bench::measure`], [`Bench::clean`].
#[derive(Debug)]
pub struct Bench(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    options: Options,
    keys: Vec<Uri>,
    body: Bytes,
    live: Arc<Live>,
}

impl Bench {
    /// Nothing is sent yet.
    pub fn new(client: Client, options: Options) -> Result<Self, ClientError> {
        let key = |n: usize| {
            let path = Client::key_path(&format!("{}{n:08}", options.prefix));
            let refused = |error: http::uri::InvalidUri| ClientError::Url {
                url: path.clone(),
                reason: error.to_string(),
            };
            path.parse().map_err(refused)
        };
        let keys = (0..options.keys.max(1)).map(key).collect::<Result<Vec<Uri>, _>>()?;
        let body = Random::new(1).bytes(options.size).into();
        let live = Arc::default();
        Ok(Self(Arc::new(Shared { client, options, keys, body, live })))
    }

    /// What can be seen while it runs.
    pub fn live(&self) -> Arc<Live> {
        self.0.live.clone()
    }

    /// Stores every object; the first refusal ends it.
    pub async fn fill(&self) -> Result<(), ClientError> {
        self.0.clone().each_key(Method::PUT, |status| status.is_success()).await
    }

    /// Removes every object that [`Self::fill`] or [`Self::measure`] may have stored.
    pub async fn clean(&self) -> Result<(), ClientError> {
        let gone = |status: http::StatusCode| status.is_success() || status.as_u16() == 404;
        // What was asked to stop still cleans up.
        self.0.live.stop.store(false, Ordering::Relaxed);
        self.0.clone().each_key(Method::DELETE, gone).await
    }

    /// Makes the requests. Fails only if the node takes no connection at the start; after that failures are counted.
    pub async fn measure(&self) -> Result<Outcome, ClientError> {
        let live = &self.0.live;
        for counter in [&live.requests, &live.failed, &live.bytes] {
            counter.store(0, Ordering::Relaxed);
        }
        let mut connections = Vec::new();
        for _ in 0..self.0.options.connections.max(1) {
            connections.push(self.0.client.keep().await?);
        }
        let issued = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for (number, connection) in connections.into_iter().enumerate() {
            let (shared, issued) = (self.0.clone(), issued.clone());
            workers.spawn(shared.work(number as u64, connection, started, issued));
        }
        let mut outcome = Outcome::default();
        while let Some(done) = workers.join_next().await {
            // A worker that panicked has told the world.
            if let Ok(part) = done {
                outcome.merge(part);
            }
        }
        outcome.elapsed = started.elapsed();
        Ok(outcome)
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.live.stop.load(Ordering::Relaxed)
    }

    /// One request for every key, on all connections.
    async fn each_key(
        self: Arc<Self>,
        method: Method,
        good: fn(http::StatusCode) -> bool,
    ) -> Result<(), ClientError> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.options.connections.clamp(1, self.keys.len()) {
            let (shared, next, method) = (self.clone(), next.clone(), method.clone());
            workers.spawn(async move {
                let mut connection = shared.client.keep().await?;
                let body = if method == Method::PUT { shared.body.clone() } else { Bytes::new() };
                while !shared.stopped()
                    && let Some(path) = shared.keys.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let answer = connection.request(method.clone(), path, body.clone()).await?;
                    if !good(answer.status) {
                        let (key, status) = (path.path().to_owned(), answer.status);
                        return Err(ClientError::Refused {
                            method,
                            key,
                            status,
                            detail: answer.detail,
                        });
                    }
                    if answer.closes {
                        connection = shared.client.keep().await?;
                    }
                    shared.live.requests.fetch_add(1, Ordering::Relaxed);
                    shared.live.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        while let Some(done) = workers.join_next().await {
            // The others are dropped, and with them their connections.
            done.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn work(
        self: Arc<Self>,
        number: u64,
        connection: Kept,
        started: Instant,
        issued: Arc<AtomicU64>,
    ) -> Outcome {
        let mut random = Random::new(number + 2);
        let mut connection = Some(connection);
        let mut outcome = Outcome::default();
        while !self.stopped() && self.goes_on(started, &issued) {
            let get = self.options.mix.reads(random.next());
            let at = usize::try_from(random.next()).unwrap_or(0) % self.keys.len();
            let begun = Instant::now();
            let done = self.one(&mut connection, get, &self.keys[at]).await;
            let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.live.requests.fetch_add(1, Ordering::Relaxed);
            match done {
                Ok(bytes) => {
                    let side = if get { &mut outcome.get } else { &mut outcome.put };
                    side.latencies.note(ns);
                    side.bytes += bytes;
                    self.live.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Err((what, words)) => {
                    *outcome.errors.entry(what).or_default() += 1;
                    outcome.example.get_or_insert(words);
                    self.live.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        outcome
    }

    fn goes_on(&self, started: Instant, issued: &AtomicU64) -> bool {
        match self.options.until {
            Until::Elapsed(time) => started.elapsed() < time,
            Until::Requests(most) => issued.fetch_add(1, Ordering::Relaxed) < most,
        }
    }

    /// One request: bytes of the object, or what went wrong, in short and in words. A connection that broke is opened anew
    /// for the next one.
    async fn one(
        &self,
        connection: &mut Option<Kept>,
        get: bool,
        path: &Uri,
    ) -> Result<u64, (String, String)> {
        let broken = |error: ClientError| {
            let what = match error {
                ClientError::Silent { .. } => "time-out",
                _ => "connection",
            };
            (what.to_owned(), error.to_string())
        };
        let open = match connection {
            Some(open) => open,
            None => match self.client.keep().await {
                Ok(open) => connection.insert(open),
                Err(error) => {
                    tokio::time::sleep(PAUSE).await;
                    return Err(broken(error));
                }
            },
        };
        let (method, body) =
            if get { (Method::GET, Bytes::new()) } else { (Method::PUT, self.body.clone()) };
        let answer = match open.request(method.clone(), path, body).await {
            Ok(answer) => answer,
            Err(error) => {
                *connection = None;
                return Err(broken(error));
            }
        };
        if answer.closes {
            *connection = None;
        }
        let size = self.body.len() as u64;
        if !answer.status.is_success() {
            let words = format!("{method} {path}: {}: {}", answer.status, answer.detail);
            return Err((answer.status.as_u16().to_string(), words));
        }
        if get && answer.bytes != size {
            let words = format!("GET {path}: {} bytes instead of {size}", answer.bytes);
            return Err(("length".to_owned(), words));
        }
        Ok(size)
    }
}
