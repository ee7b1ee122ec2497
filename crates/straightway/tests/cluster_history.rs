//! Clients of three nodes that are killed, stopped and started again: what they saw of each key could have happened on one
//! node, and nobody who looked at one node only was ever given what had been purged.
#![cfg(unix)]
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
mod linearize;
mod process;
#[path = "cluster/watch.rs"]
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::{Nodes, PATIENCE};
use linearize::{Action, Operation, Value, Verdict, check};
use process::{Random, body_of};
use watch::request;

const KEYS: usize = 8;
/// Those that change things, and those that look.
const WRITERS: u64 = 5;
const READERS: u64 = 5;
/// What is not answered by then is not known. Long enough for a purge, which waits until a node that is stopped has no
/// lease; short for the others, so that nobody waits for that node only.
const REMOVAL: Duration = Duration::from_secs(4);
const PUT: Duration = Duration::from_millis(1500);
const GET: Duration = Duration::from_millis(800);
/// How long faults are made, and longer until so many operations have been recorded, or it is in vain.
const TROUBLE: Duration = Duration::from_secs(16);
const LEAST: usize = 300;

/// A value that one node gave without asking others.
#[derive(Debug, Clone, Copy)]
struct Look {
    call: u64,
    value: u32,
}

#[derive(Debug, Default)]
struct Key {
    history: Vec<Operation>,
    looks: Vec<Look>,
}

/// What all clients share.
struct Shared {
    /// Data and admin listeners; `None`: it is not running.
    nodes: Mutex<Vec<Option<(SocketAddr, SocketAddr)>>>,
    keys: Vec<Mutex<Key>>,
    values: AtomicU32,
    stop: AtomicBool,
    epoch: Instant,
}

fn path(key: usize) -> String {
    format!("/history/{key}")
}

/// Any mix-up of keys, values or parts of them shows.
fn body(key: usize, value: u32) -> Vec<u8> {
    let len = if value.is_multiple_of(7) { 100_000 } else { 200 };
    [&value.to_le_bytes()[..], &body_of(&path(key), u64::from(value), len)].concat()
}

fn value_of(key: usize, bytes: &[u8]) -> u32 {
    let (value, _) = bytes.split_first_chunk().expect("a number comes first");
    let value = u32::from_le_bytes(*value);
    assert!(bytes == body(key, value), "what {} has was never put there", path(key));
    value
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("not that long")
    }

    /// How many have been recorded.
    fn operations(&self) -> usize {
        self.keys.iter().map(|key| key.lock().expect("whole").history.len()).sum()
    }

    fn record(&self, key: usize, call: u64, answered: bool, action: Action) {
        let end = answered.then(|| self.now());
        self.keys[key].lock().expect("whole").history.push(Operation { call, end, action });
    }

    fn get(&self, to: SocketAddr, key: usize, linearizable: bool) {
        let consistency = [("consistency", if linearizable { "linearizable" } else { "local" })];
        let call = self.now();
        let answer = request(to, GET, "GET", &path(key), &consistency, None);
        let seen: Value = match answer {
            Ok(answer) if answer.status == 200 => Some(value_of(key, &answer.body)),
            Ok(answer) if answer.status == 404 => None,
            // Not answered, or that it could not be: it says nothing.
            _ => return,
        };
        match seen {
            Some(value) if !linearizable => {
                self.keys[key].lock().expect("whole").looks.push(Look { call, value });
            }
            // That there is nothing is not said without asking a majority.
            seen => self.record(key, call, true, Action::Get(seen)),
        }
    }

    fn put(&self, to: SocketAddr, key: usize) {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let body = body(key, value);
        let call = self.now();
        let answer = request(to, PUT, "PUT", &path(key), &[], Some(&body));
        let replaced = match status(&answer) {
            201 => Some(false),
            204 => Some(true),
            _ => None,
        };
        self.record(key, call, replaced.is_some(), Action::Put { value, replaced });
    }

    fn remove(&self, to: SocketAddr, key: usize, method: &str) {
        let call = self.now();
        let answer = request(to, REMOVAL, method, &path(key), &[], None);
        let existed = match (method, status(&answer)) {
            ("DELETE", 204) => Some(true),
            ("DELETE", 404) => Some(false),
            ("PURGE", 200) => {
                let body = answer.expect("it was answered").body;
                let purged: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                Some(purged["purged"] == 1)
            }
            _ => None,
        };
        self.record(key, call, existed.is_some(), Action::Remove { existed });
    }

    fn remove_all(&self, admin: SocketAddr) {
        let call = self.now();
        let what = br#"{"prefix": "history/"}"#;
        let answer = request(admin, REMOVAL, "POST", "/api/purge", &[], Some(what));
        let answered = status(&answer) == 200;
        for key in 0..KEYS {
            self.record(key, call, answered, Action::Remove { existed: None });
        }
    }

    /// A client, until it is told to stop.
    fn client(&self, seed: u64, writes: bool) {
        let mut random = Random(seed);
        while !self.stop.load(Ordering::Relaxed) {
            // Pause: clients and faults come at times of their own.
            std::thread::sleep(Duration::from_millis(random.below(10)));
            let node = usize::try_from(random.below(3)).expect("small");
            let Some((data, admin)) = self.nodes.lock().expect("whole")[node] else { continue };
            let key = usize::try_from(random.below(KEYS as u64)).expect("small");
            match random.below(100) {
                0..35 if !writes => self.get(data, key, true),
                _ if !writes => self.get(data, key, false),
                0..20 => self.get(data, key, true),
                20..80 => self.put(data, key),
                80..89 => self.remove(data, key, "DELETE"),
                89..99 => self.remove(data, key, "PURGE"),
                _ => self.remove_all(admin),
            }
        }
    }
}

fn status(answer: &io::Result<process::Answer>) -> u16 {
    answer.as_ref().map_or(0, |answer| answer.status)
}

/// Kills, stops and starts nodes, one at a time; answers with how many were killed and stopped.
fn trouble(nodes: &mut Nodes, shared: &Shared) -> (u32, u32) {
    // Another one finds other interleavings.
    let seed = std::env::var("CLUSTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = Random(seed.unwrap_or(0x51de));
    let (mut killed, mut stopped) = (0, 0);
    let began = Instant::now();
    let pause = |random: &mut Random, from: u64, to: u64| {
        // Pause: clients and faults come at times of their own.
        std::thread::sleep(Duration::from_millis(from + random.below(to - from)));
    };
    let too_little = || shared.operations() <= LEAST && began.elapsed() < PATIENCE;
    while began.elapsed() < TROUBLE || killed < 2 || stopped < 2 || too_little() {
        pause(&mut random, 200, 1000);
        let anybody = usize::try_from(random.below(3)).expect("small");
        let victim = match random.below(2) {
            0 => nodes.leader().unwrap_or(anybody),
            _ => anybody,
        };
        if killed < stopped {
            shared.nodes.lock().expect("whole")[victim] = None;
            nodes.kill(victim);
            killed += 1;
            pause(&mut random, 100, 1500);
            nodes.restart(victim);
            let node = nodes.node(victim);
            shared.nodes.lock().expect("whole")[victim] = Some((node.data, node.admin));
        } else {
            nodes.signal(victim, "STOP");
            stopped += 1;
            // So long that purges are acknowledged meanwhile, and looks sent before it wakes; or not.
            if stopped % 2 == 1 {
                pause(&mut random, 3200, 4000);
            } else {
                pause(&mut random, 300, 1500);
            }
            nodes.signal(victim, "CONT");
        }
    }
    (killed, stopped)
}

/// Fails if a look was given a value that had been put, and removed, before it began. Answers with how many looks were
/// given what a later put had replaced.
fn judge_looks(at: usize, key: &Key) -> usize {
    let mut stale = 0;
    for look in &key.looks {
        // By then it was there: its put was answered, or somebody had been given it.
        let by_then = key.history.iter().filter_map(|one| match one.action {
            Action::Put { value, .. } | Action::Get(Some(value)) if value == look.value => one.end,
            _ => None,
        });
        let Some(there) = by_then.min() else { continue };
        let before =
            |one: &&Operation| one.call > there && one.end.is_some_and(|end| end < look.call);
        for later in key.history.iter().filter(before) {
            assert!(
                !matches!(later.action, Action::Remove { .. }),
                "{} was given as it was before {later:?}: {look:?}",
                path(at)
            );
        }
        let replaced = |one: Operation| matches!(one.action, Action::Put { .. });
        stale += usize::from(key.history.iter().filter(before).any(|one| replaced(*one)));
    }
    stale
}

fn show(key: &Key) -> String {
    let mut history = key.history.clone();
    history.sort_by_key(|one| one.call);
    let lines: Vec<_> = history.iter().map(|one| format!("{one:?}")).collect();
    lines.join("\n")
}

#[test]
fn histories_of_killed_and_stopped_nodes_are_linearizable() {
    let mut nodes = Nodes::start(3);
    let addresses = nodes.nodes.iter().flatten().map(|node| Some((node.data, node.admin)));
    let shared = Arc::new(Shared {
        nodes: Mutex::new(addresses.collect()),
        keys: (0..KEYS).map(|_| Mutex::default()).collect(),
        values: AtomicU32::new(1),
        stop: AtomicBool::new(false),
        epoch: Instant::now(),
    });
    let clients: Vec<_> = (0..WRITERS + READERS)
        .map(|client| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.client(client + 77, client < WRITERS))
        })
        .collect();
    let (killed, stopped) = trouble(&mut nodes, &shared);
    shared.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("the client is content");
    }
    nodes.wait_for_leader();
    for key in 0..KEYS {
        for at in 0..3 {
            shared.get(nodes.node(at).data, key, true);
        }
    }
    drop(nodes);

    // The search is as deep as the history is long.
    let checking = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
        let (mut operations, mut unknown, mut looks, mut stale) = (0, 0, 0, 0);
        let began = Instant::now();
        for (at, key) in shared.keys.iter().enumerate() {
            let key = key.lock().expect("whole");
            match check(&key.history) {
                Verdict::Linearizable => {}
                other => panic!("{}: {other:?}\n{}", path(at), show(&key)),
            }
            operations += key.history.len();
            unknown += key.history.iter().filter(|one| one.end.is_none()).count();
            looks += key.looks.len();
            stale += judge_looks(at, &key);
        }
        println!(
            "{operations} operations on {KEYS} keys, {unknown} of unknown outcome, {killed} kills, \
             {stopped} stops: linearizable (checked in {:?}); {looks} looks at one node: {stale} \
             stale, none purged",
            began.elapsed()
        );
        assert!(operations > LEAST, "too little was done: {operations}");
    });
    checking.expect("a thread").join().expect("the histories are good");
}

#[test]
fn a_voter_that_starts_again_alone_knows_that_it_is_one_of_three() {
    let mut nodes = Nodes::start(3);
    (0..3).for_each(|at| nodes.kill(at));
    // The first one was alone once, and decided alone.
    nodes.restart(0);
    let put = request(nodes.node(0).data, PATIENCE, "PUT", "/k", &[], Some(b"alone"));
    assert_eq!(status(&put), 503, "{put:?}");
    let leader = nodes.status(0).expect("it answers")["leader"].clone();
    assert!(leader.is_null(), "member {leader} leads without a majority");
    nodes.restart(1);
    nodes.wait_for_leader();
    nodes.wait_for("two of three decide", |nodes| {
        status(&nodes.client(0).request("PUT", "/k", &[], Some(b"both"))) / 100 == 2
    });
}
