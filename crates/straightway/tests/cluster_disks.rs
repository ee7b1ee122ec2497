//! A disk that is full and a disk that stands still, under one node of three: the others go on, and nothing that was
//! acknowledged is lost.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
#[path = "cluster/disks.rs"]
mod disks;
mod process;
#[path = "cluster/watch.rs"]
mod watch;

use std::time::{Duration, Instant};

use cluster::{Nodes, PATIENCE, Setup};
use disks::Disk;
use process::body_of;
use watch::request;

/// The node on the disk.
const ON_DISK: usize = 2;

fn start(disk: &Disk) -> Nodes {
    let elsewhere = Setup { size: "64MiB", ..Setup::default() };
    let there = Setup { size: "16MiB", folder: Some(disk.path()), ..Setup::default() };
    Nodes::start_as(3, &[], vec![elsewhere.clone(), elsewhere, there])
}

/// Has a node lead.
fn lead(nodes: &Nodes, at: usize) {
    let id = nodes.id(at).to_string();
    nodes.wait_for("it leads", |nodes| {
        let leader = nodes.wait_for_leader();
        leader == at || {
            // Refused while it is behind.
            let _ = nodes.cli(leader, &["cluster", "transfer", &id]);
            false
        }
    });
}

/// What has been put and acknowledged, and how long that took.
#[derive(Default)]
struct Written {
    /// Begins their keys.
    name: &'static str,
    paths: Vec<String>,
    took: Vec<Duration>,
    failed: usize,
}

impl Written {
    fn named(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Puts one more object by a node; tries again until it is acknowledged.
    fn put(&mut self, nodes: &Nodes, at: usize, tags: &str) {
        let path = format!("/{}/{}", self.name, self.paths.len());
        let body = body_of(&path, 1, 500);
        let began = Instant::now();
        loop {
            let tags = [("cache-tag", tags)];
            let to = nodes.node(at).data;
            let answer = request(to, PATIENCE, "PUT", &path, &tags, Some(&body));
            if answer.as_ref().is_ok_and(|answer| [201, 204].contains(&answer.status)) {
                break;
            }
            self.failed += 1;
            let refused = answer.map(|answer| (answer.status, String::from_utf8(answer.body)));
            assert!(began.elapsed() < PATIENCE, "{path}: {refused:?}");
        }
        self.took.push(began.elapsed());
        self.paths.push(path);
    }

    /// All of it is there, whole, on these nodes.
    fn check(&self, nodes: &Nodes, on: &[usize]) {
        for &at in on {
            for path in &self.paths {
                let answer = nodes.get(at, path, &[("consistency", "linearizable")]);
                assert_eq!(answer.status, 200, "{path} from node {at}");
                assert_eq!(answer.body, body_of(path, 1, 500), "{path} from node {at}");
            }
        }
    }

    fn figures(&mut self) -> String {
        self.took.sort_unstable();
        let at = |part: usize| self.took[(self.took.len() - 1) * part / 100];
        format!(
            "{} puts, p50 {:?}, p99 {:?}, longest {:?}, {} tried again",
            self.took.len(),
            at(50),
            at(99),
            at(100),
            self.failed
        )
    }
}

/// So many bytes of tags go into the log and the catalogue with an object.
fn tags() -> String {
    let tag = |n: usize| format!("{n:0>100}");
    (0..40).map(tag).collect::<Vec<_>>().join(",")
}

#[test]
fn a_full_disk_ends_one_node_and_no_other() {
    let Some(disk) = Disk::new("full", 260) else { return };
    let mut nodes = start(&disk);
    lead(&nodes, 0);
    let mut written = Written::named("full");
    written.put(&nodes, ON_DISK, "first");
    disk.fill();
    let tags = tags();
    let began = Instant::now();
    let status = loop {
        assert!(began.elapsed() < PATIENCE, "a node without room for its catalogue goes on");
        written.put(&nodes, written.paths.len() % 2, &tags);
        let node = nodes.nodes[ON_DISK].as_mut().expect("it was started");
        if let Some(status) = node.child.try_wait().expect("it can be asked") {
            break status;
        }
    };
    let log = nodes.log(ON_DISK);
    println!("full after {:?}: {}; {status}", began.elapsed(), written.figures());
    assert_eq!(status.code(), Some(1), "it ends by itself, with an error: {status}\n{log}");
    assert!(log.to_lowercase().contains("no space"), "it says why:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    for _ in 0..20 {
        written.put(&nodes, written.paths.len() % 2, "more");
    }
    assert_eq!(nodes.purge(0, r#"{"tag": "first"}"#).expect("an answer").0, 200);
    written.paths.remove(0);
    nodes.nodes[ON_DISK] = None;
    written.check(&nodes, &[0, 1]);

    // It still cannot start, or starts and ends again; with room it goes on where it stopped.
    disk.make_room();
    nodes.restart(ON_DISK);
    written.check(&nodes, &[ON_DISK]);
    assert_eq!(nodes.get(ON_DISK, "/full/0", &[]).status, 404);
}

#[test]
fn a_disk_that_stands_still_holds_nobody_else_up() {
    let Some(disk) = Disk::new("still", 260) else { return };
    let nodes = start(&disk);
    // Under a follower: slow for a while.
    lead(&nodes, 0);
    let mut written = Written::named("slow");
    let mut stalls = disk.stall(0.4, 8, 0.1);
    while stalls.try_wait().expect("a shell").is_none() {
        written.put(&nodes, written.paths.len() % 2, "slow");
    }
    println!("a follower's disk slow: {}", written.figures());
    written.check(&nodes, &[0, 1, ON_DISK]);

    // Under the leader: not at all for longer than any time-out.
    lead(&nodes, ON_DISK);
    let mut still = Written::named("still");
    let mut stall = disk.stall(5.0, 1, 0.0);
    let mut purged = false;
    while stall.try_wait().expect("a shell").is_none() {
        still.put(&nodes, still.paths.len() % 2, "still");
        if !purged {
            purged = true;
            // The one that sleeps on its disk must not serve it, and cannot say so.
            let began = Instant::now();
            assert_eq!(nodes.purge(0, r#"{"prefix": "slow/"}"#).expect("an answer").0, 200);
            println!("purged meanwhile in {:?}", began.elapsed());
            let answer = request(nodes.node(ON_DISK).data, PATIENCE, "GET", "/slow/1", &[], None);
            let status = answer.expect("an answer").status;
            assert!([404, 503].contains(&status), "purged, and answered with {status}");
        }
    }
    println!("the leader's disk still for 5 s: {}", still.figures());
    assert!(purged, "nothing could be put while the disk stood still");
    still.check(&nodes, &[0, 1, ON_DISK]);
    nodes.wait_for("all agree", |nodes| {
        let leader = nodes.leader();
        leader.is_some_and(|_| {
            (0..3).all(|at| nodes.status(at).is_some_and(|s| s["lease"]["held"] == true))
        })
    });
}
