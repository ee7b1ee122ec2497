//! A cluster of real processes on loopback.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::process::{Answer, Client, Node, Random};

/// How long anything may take before a test gives up: much longer than it takes.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A cluster's nodes, by their place in it; `None`: not running.
#[expect(clippy::struct_field_names, reason = "nodes of the cluster are what it is")]
pub struct Nodes {
    pub folder: tempfile::TempDir,
    pub nodes: Vec<Option<Node>>,
    extra: Vec<String>,
    /// How nodes are started that are not like the others, by their place.
    pub setups: Vec<Setup>,
    /// Where each listens for the others: not a port that the system or another test gives away while a node is down.
    ports: Vec<u16>,
}

/// A UDP port, and one beside it, that are free and that nobody is given who does not ask for them.
fn quiet_port() -> u16 {
    let free = |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok();
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos();
    let mut random = Random(u64::from(std::process::id()) << 32 | u64::from(nanos));
    loop {
        let port = 12_000 + u16::try_from(random.below(10_000)).expect("small") * 2;
        if free(port) && free(port + 1) {
            return port;
        }
    }
}

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The command that the program's own follows: `ip netns exec ...`, say.
    pub wrapper: Vec<String>,
    /// Address of its HTTP listeners.
    pub ip: String,
    /// More arguments.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Where its cache and data are, if not beside the others'.
    pub folder: Option<PathBuf>,
    pub size: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            wrapper: Vec::new(),
            ip: "127.0.0.1".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            size: "256MiB",
        }
    }
}

impl Nodes {
    /// `count` nodes, joined by one ticket, all of them voters.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    pub fn start_with(count: usize, extra: &[&str]) -> Self {
        Self::start_as(count, extra, Vec::new())
    }

    pub fn start_as(count: usize, extra: &[&str], setups: Vec<Setup>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let extra = extra.iter().map(|&one| one.to_owned()).collect();
        let mut nodes = Self { folder, nodes: Vec::new(), extra, setups, ports: Vec::new() };
        nodes.push(&["--cluster"]);
        let ticket = nodes.ticket(0);
        while nodes.nodes.len() < count {
            let ticket = if nodes.nodes.len() < 3 { ticket.clone() } else { nodes.ticket(0) };
            nodes.push(&["--join", &ticket]);
        }
        let voters = if count % 2 == 1 { count } else { count - 1 };
        // On all of them: how many copies a put waits for is a matter of how many voters its node knows.
        nodes.wait_for("all vote", |nodes| {
            (0..count).all(|at| {
                nodes.status(at).is_some_and(|status| {
                    let members = status["members"].as_array().expect("members");
                    members.iter().filter(|member| member["role"] != "learner").count() == voters
                })
            })
        });
        nodes
    }

    fn home(&self, at: usize) -> &Path {
        self.setups.get(at).and_then(|setup| setup.folder.as_deref()).unwrap_or(self.folder.path())
    }

    pub fn cache(&self, at: usize) -> PathBuf {
        self.home(at).join(format!("node{at}.cache"))
    }

    pub fn data_dir(&self, at: usize) -> PathBuf {
        self.home(at).join(format!("node{at}.data"))
    }

    fn log_file(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("node{at}.log"))
    }

    /// What a node has written to standard error.
    pub fn log(&self, at: usize) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file(at)).unwrap_or_default()).into_owned()
    }

    fn command(&self, at: usize, how: &[&str]) -> Node {
        self.try_command(at, how).expect("the node starts")
    }

    fn try_command(&self, at: usize, how: &[&str]) -> std::io::Result<Node> {
        let setup = self.setups.get(at).cloned().unwrap_or_default();
        let program = env!("CARGO_BIN_EXE_straightway").to_owned();
        let mut words = setup.wrapper.into_iter().chain([program]);
        let mut command = Command::new(words.next().expect("a program"));
        let listen = format!("{}:0", setup.ip);
        let name = format!("node{at}");
        command.args(words).args(["serve", "--listen", &listen, "--admin", &listen, "--cache"]);
        command.arg(self.cache(at)).args(["--size", setup.size, "--node-name", &name]);
        if !setup.args.iter().any(|arg| arg == "--cluster-listen") {
            command.args(["--cluster-listen", &format!("{}:{}", setup.ip, self.ports[at])]);
        }
        command.args(&self.extra).args(&setup.args).args(how).envs(setup.env);
        let log = File::options().create(true).append(true).open(self.log_file(at))?;
        Node::spawn({
            command.stderr(log);
            command
        })
    }

    /// Starts one more node.
    pub fn push(&mut self, how: &[&str]) -> usize {
        let at = self.nodes.len();
        self.ports.push(quiet_port());
        let node = self.command(at, how);
        self.nodes.push(Some(node));
        at
    }

    /// Starts a node again that was killed.
    pub fn restart(&mut self, at: usize) {
        self.try_restart(at).expect("the node starts");
    }

    pub fn try_restart(&mut self, at: usize) -> std::io::Result<()> {
        // What it is, its data folder says; a ticket is not needed any more.
        let node = self.try_command(at, &["--cluster"])?;
        self.nodes[at] = Some(node);
        Ok(())
    }

    /// Sends a signal to a node: `STOP`, `CONT`.
    pub fn signal(&self, at: usize, signal: &str) {
        let pid = self.node(at).child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
        assert!(sent.expect("kill runs").success(), "node {at} can be told {signal}");
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

    /// What a node answers to a GET once it can: it may have to ask, and nobody may lead at the moment.
    pub fn get(&self, at: usize, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut answer = None;
        self.wait_for("an answer other than 503", |nodes| {
            let got = nodes.client(at).request("GET", path, headers, None).expect("an answer");
            answer = Some(got).filter(|got| got.status != 503);
            answer.is_some()
        });
        answer.expect("an answer")
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

    /// Whether a node has the bytes of an object that the cluster knows; asking fetches nothing.
    pub fn holds(&self, at: usize, path: &str) -> bool {
        let linearizable = [("consistency", "linearizable")];
        let mut answer = None;
        self.wait_for("the node knows the object", |nodes| {
            answer = nodes.client(at).request("HEAD", path, &linearizable, None).ok();
            answer.as_ref().is_some_and(|answer| answer.status == 200)
        });
        let answer = answer.expect("an answer");
        !answer.header("cache-status").is_some_and(|told| told.contains("member"))
    }

    /// One of a node's numbers about its cluster.
    pub fn stat(&self, at: usize, name: &str) -> u64 {
        let mut client = Client::connect(self.node(at).admin).expect("it accepts");
        let answer = client.get("/api/stats").expect("an answer");
        let stats: Value = serde_json::from_slice(&answer.body).expect("JSON");
        stats["cluster"][name].as_u64().expect("a number")
    }

    /// What a node says of itself at `/health/ready`.
    pub fn ready(&self, at: usize) -> Option<u16> {
        let mut client = Client::connect(self.node(at).admin).ok()?;
        client.get("/health/ready").ok().map(|answer| answer.status)
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
            // Pause: another process is asked again.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn purge(&self, at: usize, body: &str) -> std::io::Result<(u16, Value)> {
        let mut client = Client::connect(self.node(at).admin)?;
        let answer = client.request("POST", "/api/purge", &[], Some(body.as_bytes()))?;
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or_default()))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for at in 0..self.nodes.len() {
                let log = self.log(at);
                let from = log.char_indices().rev().nth(3000).map_or(0, |(from, _)| from);
                println!("--- what node {at} wrote last:\n{}", &log[from..]);
            }
        }
    }
}

/// Does something by HTTP until it succeeds, as a client would.
pub fn insist(what: &str, mut act: impl FnMut() -> std::io::Result<u16>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = act();
        if answer.as_ref().is_ok_and(|status| (200..300).contains(status)) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {answer:?} in the end");
        // Pause: another process is asked again.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command of the shell; what it complained about if it failed.
pub fn sh(command: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
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
