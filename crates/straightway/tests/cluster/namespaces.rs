//! A cluster whose nodes live in network namespaces, and what can be done to the wires between them.
//!
//! Each node has two devices: `wire0` leads to a bridge that carries the cluster's traffic and nothing else; `desk0` leads
//! straight to the test, which can so talk HTTP to every node whatever becomes of the wires.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::os::fd::AsRawFd;

use crate::cluster::{Nodes, Setup, sh};

/// A machine that nobody is.
const NOBODY: &str = "02:00:00:00:00:99";

/// Runs a command and fails the test if it fails.
fn run(command: &str) {
    if let Err(reason) = sh(command) {
        panic!("{command}: {reason}");
    }
}

/// The namespaces; gone when it ends.
pub struct Spaces {
    hub: String,
    names: Vec<String>,
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for name in self.names.iter().chain([&self.hub]) {
            drop(sh(&format!("ip netns del {name}")));
        }
    }
}

/// The nodes, in their namespaces. The thread that makes it, and those that it starts later, live beside them.
pub struct World {
    // First: they are killed before their namespaces go.
    pub nodes: Nodes,
    spaces: Spaces,
}

impl World {
    /// `None`, with a visible reason, where namespaces cannot be made.
    pub fn start(test: &str, count: usize) -> Option<Self> {
        let name = |end: &str| format!("sw-{}-{test}-{end}", std::process::id());
        let names: Vec<_> = (0..count).map(|at| name(&at.to_string())).collect();
        let spaces = Spaces { hub: name("hub"), names };
        let hub = &spaces.hub;
        if let Err(reason) = sh(&format!("ip netns add {hub}")) {
            println!("SKIP {test}: network namespaces need root and iproute2: {reason}");
            return None;
        }
        run(&format!("ip -n {hub} link set lo up"));
        run(&format!(
            "ip -n {hub} link add bridge0 type bridge && ip -n {hub} link set bridge0 up"
        ));
        for (at, node) in spaces.names.iter().enumerate() {
            run(&format!("ip netns add {node} && ip -n {node} link set lo up"));
            run(&format!("ip -n {hub} link add wire{at} type veth peer name wire0 netns {node}"));
            run(&format!("ip -n {hub} link set wire{at} master bridge0 up"));
            run(&format!("ip -n {node} addr add {}/24 dev wire0", wire(at)));
            run(&format!("ip -n {node} link set wire0 up"));
            run(&format!("ip -n {hub} link add desk{at} type veth peer name desk0 netns {node}"));
            run(&format!("ip -n {hub} addr add 10.79.{at}.1/24 dev desk{at}"));
            run(&format!("ip -n {hub} link set desk{at} up"));
            run(&format!("ip -n {node} addr add {}/24 dev desk0", desk(at)));
            run(&format!("ip -n {node} link set desk0 up"));
        }
        enter(&std::fs::File::open(format!("/var/run/netns/{hub}")).expect("the namespace"));
        let setups = spaces.names.iter().enumerate().map(|(at, name)| Setup {
            wrapper: ["ip", "netns", "exec", name].map(str::to_owned).to_vec(),
            ip: desk(at),
            args: ["--insecure", "--cluster-listen", &format!("{}:7000", wire(at))]
                .map(str::to_owned)
                .to_vec(),
            ..Setup::default()
        });
        let nodes = Nodes::start_as(count, &[], setups.collect());
        Some(Self { nodes, spaces })
    }

    /// Pulls a node's plug.
    pub fn unplug(&self, at: usize) {
        run(&format!("ip -n {} link set wire{at} down", self.spaces.hub));
    }

    pub fn plug(&self, at: usize) {
        run(&format!("ip -n {} link set wire{at} up", self.spaces.hub));
    }

    /// What a node sends to another is refused by its own kernel.
    pub fn blackhole(&self, from: usize, to: usize) {
        run(&format!("ip -n {} route add blackhole {}/32", self.spaces.names[from], wire(to)));
    }

    pub fn no_blackhole(&self, from: usize, to: usize) {
        run(&format!("ip -n {} route del blackhole {}/32", self.spaces.names[from], wire(to)));
    }

    /// What a node sends to another leaves and never arrives; the other direction is as before.
    pub fn lose(&self, from: usize, to: usize) {
        run(&format!(
            "ip -n {} neigh replace {} lladdr {NOBODY} dev wire0 nud permanent",
            self.spaces.names[from],
            wire(to)
        ));
    }

    pub fn no_lose(&self, from: usize, to: usize) {
        run(&format!("ip -n {} neigh del {} dev wire0", self.spaces.names[from], wire(to)));
    }
}

fn wire(at: usize) -> String {
    format!("10.78.0.{}", at + 1)
}

fn desk(at: usize) -> String {
    format!("10.79.{at}.2")
}

#[expect(unsafe_code, reason = "the standard library cannot enter a namespace")]
fn enter(namespace: &std::fs::File) {
    // SAFETY: setns(2) takes its arguments by value and changes this thread only.
    let answer = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(answer, 0, "entered");
}
