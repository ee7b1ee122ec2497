//! Nodes that had caches of their own before they were in a cluster: the first node's becomes the cluster's, the others' are dropped.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
mod process;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cluster::{Nodes, Setup};
use process::{Node, body_of};

/// Fills the cache file that node `at` will have, by a node without a cluster.
fn fill(folder: &Path, at: usize, paths: &[(&str, usize)]) {
    fill_as(folder, at, ("256MiB", "old"), paths);
}

fn fill_as(folder: &Path, at: usize, (size, tag): (&str, &str), paths: &[(&str, usize)]) {
    let mut node = Node::start(&folder.join(format!("node{at}.cache")), &["--size", size]);
    for (path, len) in paths {
        let headers = [("cache-tag", tag), ("content-type", "text/x-old")];
        let body = body_of(path, 1, *len);
        let answer = node.client().request("PUT", path, &headers, Some(&body));
        assert_eq!(answer.expect("an answer").status, 201);
    }
    tell(&node.child, "TERM");
    assert!(node.child.wait().expect("its end").success());
}

fn tell(child: &Child, signal: &str) {
    let told = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    assert!(told.expect("kill runs").success());
}

#[test]
fn a_first_node_brings_its_cache_along_and_one_that_joins_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = [("/own/small", 10), ("/own/large", 3_000_000), ("/own/empty", 0)];
    fill(folder.path(), 0, &own);
    fill(folder.path(), 2, &[("/theirs", 10_000), ("/own/small", 20)]);
    let there = Setup { folder: Some(folder.path().to_owned()), ..Setup::default() };
    let mut nodes = Nodes::start_as(3, &[], vec![there.clone(), Setup::default(), there]);
    let served = |nodes: &Nodes, at: usize| {
        for (path, len) in own {
            let answer = nodes.get(at, path, &[("consistency", "linearizable")]);
            assert_eq!(answer.status, 200, "{path} from node {at}");
            assert!(answer.body == body_of(path, 1, len), "{path} from node {at}");
            assert_eq!(answer.header("content-type"), Some("text/x-old"));
        }
        assert_eq!(nodes.get(at, "/theirs", &[]).status, 404);
    };
    for at in 0..3 {
        served(&nodes, at);
    }
    assert!(nodes.log(2).contains("has been removed"), "{}", nodes.log(2));

    // Once: what is purged does not come back with the next start.
    assert_eq!(nodes.purge(1, r#"{"tag": "old"}"#).expect("an answer").1["purged"], 3);
    nodes.kill(0);
    nodes.restart(0);
    nodes.wait_for("it is ready", |nodes| nodes.ready(0) == Some(200));
    for (path, _) in own {
        assert_eq!(nodes.get(0, path, &[]).status, 404, "{path}");
    }
}

#[test]
fn what_cannot_be_brought_in_is_left_out_for_good() {
    let folder = tempfile::tempdir().expect("a folder");
    fill(folder.path(), 0, &[("/sound", 10)]);
    // The cache takes such a tag, the catalogue does not.
    let long = "t".repeat(300);
    fill_as(folder.path(), 0, ("256MiB", &long), &[("/odd/1", 10), ("/odd/2", 100_000)]);
    let there = Setup { folder: Some(folder.path().to_owned()), ..Setup::default() };
    let mut nodes = Nodes::start_as(1, &[], vec![there]);
    let log = nodes.log(0);
    assert!(log.contains("objects of the time before are not in the cluster"), "{log}");
    assert!(log.contains("a tag has 300 bytes"), "{log}");
    assert_eq!(nodes.client(0).get("/sound").expect("an answer").body, body_of("/sound", 1, 10));
    assert_eq!(nodes.client(0).get("/odd/1").expect("an answer").status, 404);

    assert_eq!(nodes.client(0).delete("/sound").expect("an answer"), 204);
    assert_eq!(nodes.client(0).put("/odd/1", b"new").expect("an answer"), 201);
    nodes.kill(0);
    nodes.restart(0);
    nodes.wait_for("it is ready", |nodes| nodes.ready(0) == Some(200));
    assert_eq!(nodes.client(0).get("/odd/1").expect("an answer").body, b"new");
    for path in ["/sound", "/odd/2"] {
        assert_eq!(nodes.client(0).get(path).expect("an answer").status, 404, "{path}");
    }
}

#[test]
fn a_start_that_is_broken_off_is_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let paths: Vec<_> = (0..300).map(|n| format!("/own/{n}")).collect();
    let own: Vec<_> = paths.iter().map(|path| (path.as_str(), 100_000)).collect();
    fill(folder.path(), 0, &own);
    let log = folder.path().join("first.log");
    let args = ["serve", "--cluster", "--cluster-listen", "127.0.0.1:0", "--size", "256MiB"];
    let mut first = Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args(args)
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache"])
        .arg(folder.path().join("node0.cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("it starts");
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    while !logged().contains("the cluster has a leader") {
        assert!(first.try_wait().expect("a child").is_none(), "{}", logged());
        // Pause: another process is looked at again.
        std::thread::sleep(Duration::from_millis(1));
    }
    // Wherever it is by now.
    tell(&first, "TERM");
    assert!(first.wait().expect("its end").success(), "{}", logged());

    let there = Setup { folder: Some(folder.path().to_owned()), ..Setup::default() };
    let nodes = Nodes::start_as(1, &[], vec![there]);
    let mut client = nodes.client(0);
    for (path, len) in own {
        let answer = client.get(path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body == body_of(path, 1, len), "{path}");
    }
}

#[test]
fn what_a_full_cache_loses_while_it_is_copied_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let paths: Vec<_> = (0..40).map(|n| format!("/own/{n}")).collect();
    let own: Vec<_> = paths.iter().map(|path| (path.as_str(), 1_000_000)).collect();
    fill_as(folder.path(), 0, ("32MiB", "old"), &own);
    let there = Setup { folder: Some(folder.path().to_owned()), size: "32MiB", ..Setup::default() };
    let nodes = Nodes::start_as(1, &[], vec![there]);
    assert!(nodes.log(0).contains("were evicted while the others were copied"), "{}", nodes.log(0));
    let mut client = nodes.client(0);
    for (path, len) in own {
        // Evicted once it was the cluster's: 503 until that is noticed, by this very question.
        nodes.wait_for("it is there, or known to be gone", |_| {
            let answer = client.get(path).expect("an answer");
            match answer.status {
                200 => assert!(answer.body == body_of(path, 1, len), "{path}"),
                404 => {}
                other => assert_eq!(other, 503, "{path}"),
            }
            answer.status != 503
        });
    }
}

#[test]
fn a_members_own_default_lifetime_ends_nothing_that_others_put() {
    let short = Setup { args: vec!["--ttl".to_owned(), "1s".to_owned()], ..Setup::default() };
    let nodes = Nodes::start_as(3, &[], vec![Setup::default(), Setup::default(), short]);
    assert_eq!(nodes.client(0).put("/for-ever", b"kept").expect("an answer"), 201);
    assert_eq!(nodes.client(2).put("/short", b"gone").expect("an answer"), 201);
    for at in 0..3 {
        nodes.wait_for("it ends everywhere", |nodes| {
            nodes.client(at).get("/short").is_ok_and(|answer| answer.status == 404)
        });
    }
    // Pause: a second lifetime of the one that was stored before.
    std::thread::sleep(Duration::from_secs(1));
    nodes.wait_for("it is there", |nodes| nodes.holds(2, "/for-ever"));
    assert_eq!(nodes.client(2).get("/for-ever").expect("an answer").body, b"kept");
}
