//! Clients that store objects all the time, and remember what was acknowledged.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Nodes, PATIENCE};
use crate::process::{Client, body_of};

/// Longer than a node takes to say that it could not.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two looks, and before an address that does not answer is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// An object whose PUT was acknowledged.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub path: String,
    pub len: usize,
    /// Which node did.
    pub node: usize,
    pub sent: Instant,
    pub answered: Instant,
}

#[derive(Default)]
struct Told {
    stopped: bool,
    /// Where each node is; `None`: it is to be left alone.
    addresses: Vec<Option<SocketAddr>>,
    acknowledged: Vec<Acknowledged>,
    /// Requests that came to nothing, which they may while nobody leads.
    failed: usize,
    /// Answers that there is no excuse for.
    odd: Vec<String>,
}

/// The clients. Each stays with its node.
pub struct Load {
    told: Arc<Mutex<Told>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients for each of these nodes.
    pub fn start(nodes: &Nodes, at: &[usize], each: usize) -> Self {
        let mut load = Self { told: Arc::default(), writers: Vec::new() };
        for &at in at {
            load.add(nodes, at, each);
        }
        load
    }

    /// So many clients more, for this node.
    pub fn add(&mut self, nodes: &Nodes, at: usize, count: usize) {
        self.moved(nodes, at);
        for _ in 0..count {
            let (told, name) = (self.told.clone(), self.writers.len());
            self.writers.push(std::thread::spawn(move || write(&told, at, name)));
        }
    }

    /// A node has been started anew: it listens elsewhere.
    pub fn moved(&self, nodes: &Nodes, at: usize) {
        let mut told = lock(&self.told);
        if told.addresses.len() <= at {
            told.addresses.resize(at + 1, None);
        }
        told.addresses[at] = nodes.nodes[at].as_ref().map(|node| node.data);
    }

    /// A node is not written to any more.
    pub fn leave(&self, at: usize) {
        lock(&self.told).addresses[at] = None;
    }

    /// Waits until `at` has acknowledged `count` objects that were sent after `since`; when it did so first.
    pub fn wait(&self, at: usize, since: Instant, count: usize) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut answered: Vec<_> = lock(&self.told)
                .acknowledged
                .iter()
                .filter(|one| one.node == at && one.sent > since)
                .map(|one| one.answered)
                .collect();
            if answered.len() >= count {
                answered.sort_unstable();
                return answered[0];
            }
            assert!(Instant::now() < deadline, "node {at} acknowledged {answered:?} of {count}");
            // Pause: other processes are asked, and must have something of the processor.
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the clients; all that was acknowledged.
    pub fn stop(self) -> Vec<Acknowledged> {
        lock(&self.told).stopped = true;
        for writer in self.writers {
            writer.join().expect("a client does not panic");
        }
        let mut told = lock(&self.told);
        assert!(told.odd.is_empty(), "{:?}", told.odd);
        println!(
            "{} objects acknowledged, {} requests failed",
            told.acknowledged.len(),
            told.failed
        );
        std::mem::take(&mut told.acknowledged)
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().expect("no client panics")
}

fn write(told: &Mutex<Told>, at: usize, name: usize) {
    let mut connection: Option<(SocketAddr, Client)> = None;
    for serial in 0.. {
        // What failed may have happened: its key is not used again.
        let path = format!("/load/{name}/{serial}");
        let len = if serial % 32 == 31 { 100_000 } else { serial * 37 % 3000 };
        let address = {
            let told = lock(told);
            if told.stopped {
                return;
            }
            told.addresses[at]
        };
        let sent = Instant::now();
        let mut put = || {
            let address = address.ok_or(io::ErrorKind::NotConnected)?;
            let (_, mut client) = match connection.take() {
                Some(kept) if kept.0 == address => kept,
                _ => (address, Client::connect_within(address, ANSWER)?),
            };
            let status = client.put(&path, &body_of(&path, 1, len))?;
            connection = Some((address, client));
            Ok::<_, io::Error>(status)
        };
        let status = put();
        let answered = Instant::now();
        {
            let mut told = lock(told);
            match &status {
                Ok(201) => {
                    told.acknowledged.push(Acknowledged { path, len, node: at, sent, answered });
                }
                Ok(503) | Err(_) => told.failed += 1,
                Ok(other) => told.odd.push(format!("PUT {path} to node {at} gave {other}")),
            }
        }
        // Leaves the processor to those who work, and does not hammer on closed doors.
        // Pause: other processes are asked, and must have something of the processor.
        std::thread::sleep(if status.is_ok() { PAUSE / 2 } else { PAUSE * 2 });
    }
}

/// Asserts that a node serves all that was acknowledged, each with its own bytes.
pub fn serves(nodes: &Nodes, at: usize, acknowledged: &[Acknowledged]) {
    let Some(last) = acknowledged.last() else { return };
    nodes.wait_for("the node knows what was acknowledged", |nodes| {
        let linearizable = [("consistency", "linearizable")];
        let answer = nodes.client(at).request("HEAD", &last.path, &linearizable, None);
        answer.is_ok_and(|answer| answer.status == 200)
    });
    let mut client = nodes.client(at);
    let mut lost = Vec::new();
    for Acknowledged { path, len, node, .. } in acknowledged {
        let mut answer = client.get(path);
        // It may have to ask, and nobody may lead at the moment.
        let deadline = Instant::now() + PATIENCE;
        while matches!(&answer, Ok(answer) if answer.status == 503) && Instant::now() < deadline {
            // Pause: other processes are asked, and must have something of the processor.
            std::thread::sleep(PAUSE);
            answer = client.get(path);
        }
        match answer {
            Ok(answer) if answer.status == 200 => {
                assert!(
                    answer.body == body_of(path, 1, *len),
                    "{path} from node {at}: other bytes"
                );
            }
            Ok(answer) => {
                let why = String::from_utf8_lossy(&answer.body).into_owned();
                lost.push(format!("{path} (put on node {node}): {} {why}", answer.status));
            }
            Err(error) => {
                client = nodes.client(at);
                let again = client.get(path).map(|answer| answer.status);
                client = nodes.client(at);
                let everywhere: Vec<_> = nodes
                    .running()
                    .into_iter()
                    .map(|other| (other, nodes.client(other).get(path).map(|answer| answer.status)))
                    .collect();
                lost.push(format!(
                    "{path} (put on node {node}): {error}; then {again:?}; on all: {everywhere:?}"
                ));
            }
        }
    }
    assert!(
        lost.is_empty(),
        "node {at} does not serve {} of {}: {:#?}",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(10)]
    );
}
