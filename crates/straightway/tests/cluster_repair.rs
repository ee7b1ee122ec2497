//! Copies that are lost with a member are made anew on those that remain.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
mod process;

use std::time::{Duration, Instant};

use cluster::Nodes;
use process::body_of;

/// A copy that takes longer is helped out by a third one, which may come long after the put was answered.
const HEDGE: Duration = Duration::from_secs(1);

/// Objects on two of three nodes.
fn put_some(nodes: &Nodes) -> Vec<String> {
    let paths: Vec<_> = (0..12).map(|n| format!("/kept/{n}")).collect();
    for (n, path) in paths.iter().enumerate() {
        let body = body_of(path, 1, n * n * 10_000);
        // Nothing is to come any more when copies are counted: what took long is put once more, on a slow machine in vain.
        for left in (0..5).rev() {
            let begun = Instant::now();
            assert_eq!(nodes.client(n % 3).put(path, &body).expect("an answer"), 201, "{path}");
            if begun.elapsed() < HEDGE || left == 0 {
                break;
            }
            assert_eq!(nodes.client(n % 3).delete(path).expect("an answer"), 204, "{path}");
        }
    }
    for path in &paths {
        let holders = (0..3).filter(|at| nodes.holds(*at, path)).count();
        // A copy that takes long is helped out by a third one.
        assert!(holders >= 2, "{path}: {holders}");
    }
    paths
}

/// Waits until these nodes have everything, and looks at it.
fn have(nodes: &Nodes, at: [usize; 2], paths: &[String]) {
    for node in at {
        nodes.wait_for("the copies are made anew", |nodes| {
            paths.iter().all(|path| nodes.holds(node, path))
        });
        for (n, path) in paths.iter().enumerate() {
            let answer = nodes.client(node).get(path).expect("an answer");
            assert_eq!(
                (answer.status, answer.body == body_of(path, 1, n * n * 10_000)),
                (200, true)
            );
        }
    }
}

#[test]
fn what_a_removed_member_held_is_copied_to_another() {
    let mut nodes = Nodes::start_with(3, &["--copies", "2", "--repair-after", "20s"]);
    let paths = put_some(&nodes);
    let there =
        (0..3).filter(|at| *at != 1).map(|at| paths.iter().filter(|p| nodes.holds(at, p)).count());
    let missing = (2 * paths.len()).saturating_sub(there.sum());
    let gone = nodes.id(1);
    nodes.kill(1);
    let removed = nodes.cli(0, &["cluster", "remove", &gone.to_string()]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    have(&nodes, [0, 2], &paths);
    // A copy is counted by who made it, after it is there.
    nodes.wait_for(&format!("{missing} copies are counted"), |nodes| {
        nodes.stat(0, "repaired") + nodes.stat(2, "repaired") >= missing as u64
    });
}

#[test]
fn what_a_member_held_that_stays_away_is_copied_to_another() {
    let mut nodes = Nodes::start_with(3, &["--copies", "2", "--repair-after", "6s"]);
    let paths = put_some(&nodes);
    nodes.kill(2);
    have(&nodes, [0, 1], &paths);
}
