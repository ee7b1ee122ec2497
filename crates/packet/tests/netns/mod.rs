//! Network namespaces for a test: made as root, gone when it ends.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Two namespaces whose devices `wire0` are the ends of one cable: 10.77.0.1 and 10.77.0.2, fd77::1 and fd77::2.
pub struct Pair {
    pub names: [String; 2],
}

/// Runs a command and gives what it printed; fails the test if it fails.
pub fn run(command: &str) -> String {
    let output = sh(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sh(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().expect("a shell")
}

impl Pair {
    /// `None`, with a visible reason, where namespaces cannot be made.
    pub fn new(test: &str) -> Option<Self> {
        let names = ["a", "b"].map(|end| format!("sw-{}-{test}-{end}", std::process::id()));
        let [a, b] = &names;
        let made = sh(&format!("ip netns add {a} && ip netns add {b}"));
        let pair = Self { names: names.clone() };
        if !made.status.success() {
            let reason = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            println!("SKIP {test}: network namespaces need root and iproute2: {reason}");
            return None;
        }
        run(&format!("ip -n {a} link add wire0 type veth peer name wire0 netns {b}"));
        for (name, host) in [(a, 1), (b, 2)] {
            run(&format!("ip -n {name} link set lo up"));
            run(&format!("ip -n {name} addr add 10.77.0.{host}/24 dev wire0"));
            run(&format!("ip -n {name} -6 addr add fd77::{host}/64 dev wire0 nodad"));
            run(&format!("ip -n {name} link set wire0 up"));
        }
        for name in &names {
            until_it_sends(name);
        }
        Some(pair)
    }

    /// A command inside a namespace.
    pub fn command(&self, end: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[end], program]).stdin(Stdio::null());
        command
    }

    /// Runs `act` on a thread that lives in a namespace: sockets and devices made there belong to it.
    pub fn within<R: Send>(&self, end: usize, act: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let file = std::fs::File::open(format!("/var/run/netns/{}", self.names[end]));
                enter(&file.expect("the namespace"));
                act()
            });
            entered.join().expect("content")
        })
    }
}

/// The end that was up first sends from when the kernel has taken note of the other, which it does some time after the
/// command; what is sent before is lost.
fn until_it_sends(name: &str) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let shown = run(&format!("ip -n {name} link show dev wire0"));
        if shown.contains(" state UP ") && !shown.contains(" qdisc noop ") {
            return;
        }
        assert!(Instant::now() < deadline, "{shown}");
    }
}

#[expect(unsafe_code, reason = "the standard library cannot enter a namespace")]
fn enter(namespace: &std::fs::File) {
    use std::os::fd::AsRawFd;
    // SAFETY: setns(2) takes its arguments by value and changes this thread only.
    let answer = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(answer, 0, "entered");
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            drop(sh(&format!("ip netns del {name}")));
        }
    }
}
