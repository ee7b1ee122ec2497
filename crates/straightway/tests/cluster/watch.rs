//! Readers that ask nodes for keys all the time, and judge what they got against purges that were acknowledged.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::{Answer, Client};

/// What a reader got.
#[derive(Debug, Clone)]
pub struct Look {
    pub node: usize,
    pub path: String,
    /// When it was asked for.
    pub sent: Instant,
    /// 0: no answer.
    pub status: u16,
    pub body: Vec<u8>,
}

/// One request on a connection of its own.
pub fn request(
    to: SocketAddr,
    patience: Duration,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> io::Result<Answer> {
    Client::connect_within(to, patience)?.request(method, path, headers, body)
}

/// The readers.
pub struct Watch {
    stop: Arc<AtomicBool>,
    looks: Arc<Mutex<Vec<Look>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// A reader for each of these nodes, by place and address.
    pub fn start(nodes: &[(usize, SocketAddr)], paths: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(Mutex::new(Vec::new()));
        let threads = nodes.iter().map(|&(node, address)| {
            let (stop, looks, paths) = (stop.clone(), looks.clone(), paths.to_vec());
            std::thread::spawn(move || {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    let path = &paths[turn % paths.len()];
                    turn += 1;
                    let sent = Instant::now();
                    let patience = Duration::from_secs(15);
                    let answer = request(address, patience, "GET", path, &[], None);
                    let (status, body) = answer.map_or((0, Vec::new()), |a| (a.status, a.body));
                    let look = Look { node, path: path.clone(), sent, status, body };
                    looks.lock().expect("whole").push(look);
                    // Leaves something of the processor to those that are asked.
                    // Pause: another process is asked again.
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        });
        let threads = threads.collect();
        Self { stop, looks, threads }
    }

    /// Ends them; gives all that they saw.
    pub fn end(self) -> Vec<Look> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("the reader is content");
        }
        std::mem::take(&mut *self.looks.lock().expect("whole"))
    }
}

/// Fails if a body that was purged was served to anybody who asked after the acknowledgement. `purged`: by path, the body
/// and when its purge was acknowledged. Answers with how many looks came after, by status.
#[track_caller]
pub fn judge(looks: &[Look], purged: &HashMap<String, (Vec<u8>, Instant)>) -> HashMap<u16, usize> {
    let mut after = HashMap::new();
    for look in looks {
        let Some((body, acknowledged)) = purged.get(&look.path) else { continue };
        if look.sent < *acknowledged {
            continue;
        }
        assert!(
            look.status != 200 || look.body != *body,
            "node {} served {} that was purged {:?} before it was asked",
            look.node,
            look.path,
            look.sent - *acknowledged
        );
        *after.entry(look.status).or_default() += 1;
    }
    after
}
