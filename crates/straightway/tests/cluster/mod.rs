//! A cluster of real processes on loopback.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Client, Node};

/// How long anything may take before a test gives up: much longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster's nodes, by their place in it; `None`: not running.
pub struct Nodes {
    pub folder: tempfile::TempDir,
    pub nodes: Vec<Option<Node>>,
    extra: Vec<String>,
}

impl Nodes {
    /// `count` nodes, joined by one ticket, all of them voters.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    pub fn start_with(count: usize, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let extra = extra.iter().map(|&one| one.to_owned()).collect();
        let mut nodes = Self { folder, nodes: Vec::new(), extra };
        nodes.push(&["--cluster"]);
        let ticket = nodes.ticket(0);
        while nodes.nodes.len() < count {
            let ticket = if nodes.nodes.len() < 3 { ticket.clone() } else { nodes.ticket(0) };
            nodes.push(&["--join", &ticket]);
        }
        let voters = if count % 2 == 1 { count } else { count - 1 };
        nodes.wait_for("all vote", |nodes| {
            nodes.status(0).is_some_and(|status| {
                let members = status["members"].as_array().expect("members");
                members.iter().filter(|member| member["role"] != "learner").count() == voters
            })
        });
        nodes
    }

    pub fn cache(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("node{at}.cache"))
    }

    pub fn data_dir(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("node{at}.data"))
    }

    fn command(&self, at: usize, how: &[&str]) -> Node {
        let name = format!("node{at}");
        let mut args: Vec<&str> = vec!["--size", "256MiB", "--node-name", &name];
        args.extend(self.extra.iter().map(String::as_str));
        args.extend(how);
        Node::start(&self.cache(at), &args)
    }

    /// Starts one more node.
    pub fn push(&mut self, how: &[&str]) -> usize {
        let at = self.nodes.len();
        let node = self.command(at, how);
        self.nodes.push(Some(node));
        at
    }

    /// Starts a node again that was killed.
    pub fn restart(&mut self, at: usize) {
        // What it is, its data folder says; a ticket is not needed any more.
        let node = self.command(at, &["--cluster"]);
        self.nodes[at] = Some(node);
    }

    pub fn kill(&mut self, at: usize) {
        self.nodes[at].take().expect("it runs").kill();
    }

    pub fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("it runs")
    }

    pub fn client(&self, at: usize) -> Client {
        self.node(at).client()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].is_some()).collect()
    }

    pub fn ticket(&self, at: usize) -> String {
        let answer = self.cli(at, &["cluster", "ticket", "--json"]);
        let text = String::from_utf8(answer.stdout).expect("text");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value["ticket"].as_str().expect("a ticket").to_owned()
    }

    /// Runs the program against a node.
    pub fn cli(&self, at: usize, args: &[&str]) -> Output {
        let node = self.node(at);
        Command::new(env!("CARGO_BIN_EXE_straightway"))
            .args(["--url", &format!("http://{}", node.data)])
            .args(["--admin-url", &format!("http://{}", node.admin)])
            .args(args)
            .output()
            .expect("the program runs")
    }

    /// What a node says of the cluster.
    pub fn status(&self, at: usize) -> Option<Value> {
        let mut client = Client::connect(self.nodes[at].as_ref()?.admin).ok()?;
        let answer = client.get("/api/cluster").ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The place of the node that leads, as those that run see it.
    pub fn leader(&self) -> Option<usize> {
        for at in self.running() {
            let status = self.status(at)?;
            if status["leader"].is_u64() && status["leader"] == status["node"] {
                return Some(at);
            }
        }
        None
    }

    pub fn wait_for_leader(&self) -> usize {
        let mut leader = None;
        self.wait_for("a leader", |nodes| {
            leader = nodes.leader();
            leader.is_some()
        });
        leader.expect("a leader")
    }

    /// The number that a node has as a member.
    pub fn id(&self, at: usize) -> u64 {
        self.status(at).expect("it answers")["node"].as_u64().expect("a number")
    }

    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
            // Other processes cannot be waited for in any other way.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn purge(&self, at: usize, body: &str) -> std::io::Result<(u16, Value)> {
        let mut client = Client::connect(self.node(at).admin)?;
        let answer = client.request("POST", "/api/purge", &[], Some(body.as_bytes()))?;
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or_default()))
    }
}

/// Removes what a node keeps, as a new disk would.
pub fn wipe(nodes: &Nodes, at: usize) {
    let remove = |path: &Path| {
        if path.is_dir() {
            std::fs::remove_dir_all(path).expect("removed");
        } else {
            std::fs::remove_file(path).expect("removed");
        }
    };
    remove(&nodes.data_dir(at));
    remove(&nodes.cache(at));
}
