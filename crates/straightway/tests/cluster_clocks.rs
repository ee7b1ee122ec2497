//! Clocks that jump, and clocks that have nothing in common: leases are counted on each machine's boot clock and compared
//! with no other, and the wall clock matters to none of it.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
mod process;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use cluster::{Nodes, PATIENCE, Setup, insist};

const DAY: i64 = 86_400;
/// More than a lease and its margin.
const A_LEASE: Duration = Duration::from_millis(2500);

/// The library that makes a process's wall clock jump. `None`, with a visible reason, where no C compiler is.
fn wall_clock(folder: &Path) -> Option<String> {
    let (source, library) = (folder.join("wall_clock.c"), folder.join("wall_clock.so"));
    std::fs::write(&source, include_str!("cluster/wall_clock.c")).expect("written");
    let mut made = Command::new("cc");
    made.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]);
    match made.status() {
        Ok(status) if status.success() => Some(library.to_str().expect("text").to_owned()),
        other => {
            println!("SKIP: a wall clock that jumps needs a C compiler: {other:?}");
            None
        }
    }
}

fn served_everywhere(nodes: &Nodes, path: &str, body: &[u8]) {
    for at in nodes.running() {
        nodes.wait_for("it is served", |nodes| {
            let answer = nodes.client(at).get(path).expect("an answer");
            answer.status == 200 && answer.body == body
        });
    }
}

fn gone_everywhere(nodes: &Nodes, path: &str) {
    for at in nodes.running() {
        let answer = nodes.get(at, path, &[]);
        assert_eq!(answer.status, 404, "{path} from node {at}");
    }
}

fn leases_held(nodes: &Nodes) {
    for at in nodes.running() {
        nodes.wait_for("it holds a lease", |nodes| {
            nodes.status(at).is_some_and(|status| status["lease"]["held"] == true)
        });
    }
}

/// Asserts that a node's wall clock is so many seconds ahead of this one, by when it says that it stored something just now.
fn is_ahead(nodes: &Nodes, at: usize, jump: i64) {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        i64::try_from(since.as_secs()).expect("not that late")
    };
    let began = seconds(SystemTime::now());
    insist("a put", || nodes.client(at).put("/clock", b"tick"));
    let ended = seconds(SystemTime::now());
    let answer = nodes.get(at, "/clock", &[]);
    let date = answer.header("last-modified").expect("a date");
    let date = seconds(httpdate::parse_http_date(date).expect("a date"));
    // A clock of the kernel's that is read cheaply is a moment behind.
    let expected = began + jump - 1..=ended + jump;
    assert!(expected.contains(&date), "node {at} is not {jump} s ahead: {date}, not {expected:?}");
}

#[test]
fn wall_clocks_that_jump() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(library) = wall_clock(folder.path()) else { return };
    let clocks: Vec<_> = (0..3).map(|at| folder.path().join(format!("clock{at}"))).collect();
    let files: Vec<_> = clocks
        .iter()
        .map(|path| {
            std::fs::write(path, [0; 8]).expect("written");
            std::fs::File::options().write(true).open(path).expect("opened")
        })
        .collect();
    let setups = clocks.iter().map(|clock| Setup {
        env: vec![
            ("LD_PRELOAD".to_owned(), library.clone()),
            ("WALL_CLOCK".to_owned(), clock.to_str().expect("text").to_owned()),
        ],
        ..Setup::default()
    });
    let nodes = Nodes::start_as(3, &[], setups.collect());
    insist("a put", || nodes.client(0).put("/kept", b"kept"));
    served_everywhere(&nodes, "/kept", b"kept");
    for (round, jump) in [400 * DAY, -800 * DAY, 20].into_iter().enumerate() {
        let leader = nodes.wait_for_leader();
        let term = nodes.status(leader).expect("it answers")["term"].clone();
        // The leader's, then a follower's besides, to the other side.
        for (at, jump) in [(leader, jump), ((leader + 1) % 3, -jump)] {
            files[at].write_all_at(&jump.to_ne_bytes(), 0).expect("written");
            is_ahead(&nodes, at, jump);
            let path = format!("/jump/{round}/{at}");
            insist("a put", || nodes.client(at).put(&path, b"put"));
            served_everywhere(&nodes, &path, b"put");
            insist("a purge", || {
                nodes.client((at + 1) % 3).request("PURGE", &path, &[], None).map(|a| a.status)
            });
            gone_everywhere(&nodes, &path);
        }
        // Leases go on being renewed, and what they cover is served by all.
        let until = Instant::now() + A_LEASE;
        while Instant::now() < until {
            served_everywhere(&nodes, "/kept", b"kept");
        }
        leases_held(&nodes);
        let later = nodes.status(nodes.wait_for_leader()).expect("it answers")["term"].clone();
        println!("a jump of {jump} s: term {term} before, {later} after");
    }
}

/// How a node comes to a boot clock and a monotonic clock that are so far ahead.
fn shifted(boot: u64, monotonic: u64) -> Setup {
    let offsets = [format!("--boottime={boot}"), format!("--monotonic={monotonic}")];
    let wrapper = ["unshare", "--time", "--fork", "--kill-child"].map(str::to_owned);
    Setup { wrapper: wrapper.into_iter().chain(offsets).collect(), ..Setup::default() }
}

#[test]
fn boot_clocks_that_have_nothing_in_common() {
    let able = Command::new("unshare").args(["--time", "--fork", "--boottime=5", "true"]).status();
    if !able.as_ref().is_ok_and(std::process::ExitStatus::success) {
        println!("SKIP: time namespaces need root and a kernel that has them: {able:?}");
        return;
    }
    // Nothing, three years, ten years.
    let setups = vec![Setup::default(), shifted(100_000_000, 3_000_000), shifted(300_000_000, 7)];
    let mut nodes = Nodes::start_as(3, &[], setups);
    insist("a put", || nodes.client(0).put("/kept", b"kept"));
    for round in 0..2 {
        let path = format!("/purged/{round}");
        insist("a put", || nodes.client(1).put(&path, b"put"));
        served_everywhere(&nodes, &path, b"put");
        served_everywhere(&nodes, "/kept", b"kept");
        leases_held(&nodes);
        insist("a purge", || {
            nodes.client(2).request("PURGE", &path, &[], None).map(|answer| answer.status)
        });
        gone_everywhere(&nodes, &path);
        if round == 0 {
            // Started again, it is earlier than it was: a lease of its last life would last for years.
            nodes.kill(2);
            nodes.setups[2] = shifted(20, 20);
            // Its last process goes a moment after the one that started it.
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = nodes.try_restart(2) {
                assert!(Instant::now() < deadline, "{error}");
            }
        }
    }
}
