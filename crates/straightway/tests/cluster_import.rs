//! Nodes that had caches of their own before they were in a cluster: the first node's becomes the cluster's, the others' are dropped.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
mod process;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cluster::{Nodes, Setup};
use process::{Node, body_of};

/// Fills the cache file that node `at` will have, by a node without a cluster.
fn fill(folder: &Path, at: usize, paths: &[(&str, usize)]) {
    let mut node = Node::start(&folder.join(format!("node{at}.cache")), &["--size", "256MiB"]);
    for (path, len) in paths {
        let headers = [("cache-tag", "old"), ("content-type", "text/x-old")];
        let body = body_of(path, 1, *len);
        let answer = node.client().request("PUT", path, &headers, Some(&body));
        assert_eq!(answer.expect("an answer").status, 201);
    }
    let told = Command::new("kill").arg(node.child.id().to_string()).status().expect("kill runs");
    assert!(told.success() && node.child.wait().expect("its end").success());
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
            let linearizable = [("consistency", "linearizable")];
            let answer = nodes.client(at).request("GET", path, &linearizable, None);
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200, "{path} from node {at}");
            assert!(answer.body == body_of(path, 1, len), "{path} from node {at}");
            assert_eq!(answer.header("content-type"), Some("text/x-old"));
        }
        assert_eq!(nodes.client(at).get("/theirs").expect("an answer").status, 404);
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
        assert_eq!(nodes.client(0).get(path).expect("an answer").status, 404, "{path}");
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
