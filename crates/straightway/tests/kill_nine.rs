//! A node is killed with SIGKILL at random points under load, again and again. Afterwards every object that it serves
//! is what was stored last (or the change that was under way), what was deleted or purged stays so, and nothing older than
//! the last acknowledged change ever comes back.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod process;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use process::{Client, Node, Random, body_of};

const WRITERS: u64 = 4;
const KEYS_EACH: u64 = 12;

/// What a key may hold: versions that would be right, and whether a miss would be.
#[derive(Debug, Clone, Default)]
struct Allowed {
    versions: Vec<(u64, usize)>,
    /// Only a removal makes a hit wrong; a cache may always miss.
    removed: bool,
}

type Model = HashMap<String, Allowed>;

fn size(random: &mut Random) -> usize {
    let bound = match random.below(10) {
        0 => 1,
        1..=5 => 5_000,
        6..=7 => 80_000,
        _ => 3_000_000,
    };
    usize::try_from(random.below(bound)).expect("small")
}

/// One writer's life until the node dies: changes its own keys, and notes what each may hold.
fn write_until_it_dies(
    (data, admin): (SocketAddr, SocketAddr),
    writer: u64,
    round: u64,
    model: &mut Model,
    done: &AtomicU64,
) {
    let Ok(mut client) = Client::connect(data) else { return };
    let mut random = Random(0x5eed ^ (round << 20) ^ (writer << 8));
    for step in 0.. {
        if random.below(25) == 0 {
            // Until it is acknowledged its objects may be there or not; from then on none may.
            let Ok(mut purger) = Client::connect(admin) else { return };
            let body = format!("{{\"prefix\": \"w{writer}-\"}}");
            match purger.request("POST", "/api/purge", &[], Some(body.as_bytes())) {
                Ok(answer) if answer.status == 200 => {
                    for allowed in model.values_mut() {
                        *allowed = Allowed { versions: Vec::new(), removed: true };
                    }
                }
                Ok(answer) => panic!("purging gave {}", answer.status),
                Err(_) => return,
            }
            done.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let key = format!("w{writer}-k{}", random.below(KEYS_EACH));
        let path = format!("/{key}");
        let version = (round << 32) | step;
        let allowed = model.entry(key.clone()).or_default();
        let alive = match random.below(10) {
            0..=5 => {
                let len = size(&mut random);
                let body = body_of(&key, version, len);
                // Until it is acknowledged the old and the new are both right.
                allowed.versions.push((version, len));
                match client.put(&path, &body) {
                    Ok(status @ (201 | 204)) => {
                        *allowed = Allowed { versions: vec![(version, len)], removed: false };
                        assert!(matches!(status, 201 | 204));
                        true
                    }
                    Ok(507) => true,
                    Ok(other) => panic!("PUT {path} gave {other}"),
                    Err(_) => false,
                }
            }
            6..=7 => match client.delete(&path) {
                Ok(204 | 404) => {
                    *allowed = Allowed { versions: Vec::new(), removed: true };
                    true
                }
                Ok(other) => panic!("DELETE {path} gave {other}"),
                Err(_) => false,
            },
            _ => match client.get(&path) {
                Ok(answer) => {
                    check(&key, answer.status, &answer.body, allowed);
                    true
                }
                Err(_) => false,
            },
        };
        done.fetch_add(1, Ordering::SeqCst);
        if !alive {
            return;
        }
    }
}

fn check(key: &str, status: u16, body: &[u8], allowed: &Allowed) {
    match status {
        404 => {}
        200 => {
            let right = allowed
                .versions
                .iter()
                .any(|(version, len)| *len == body.len() && body_of(key, *version, *len) == body);
            assert!(
                right,
                "{key}: {} bytes that are none of {:?} (removed: {})",
                body.len(),
                allowed.versions,
                allowed.removed
            );
        }
        other => panic!("GET {key} gave {other}"),
    }
}

/// Kills the node once so many requests were answered: a point in its work, not in time.
fn kill_after(node: Node, requests: u64, done: &AtomicU64) {
    while done.load(Ordering::SeqCst) < requests {
        std::thread::yield_now();
    }
    node.kill();
}

#[test]
fn nothing_wrong_old_or_deleted_is_served_after_kill_nine() {
    let rounds = if std::env::var_os("STRAIGHTWAY_SLOW").is_some() { 200 } else { 20 };
    let dir = tempfile::tempdir().expect("a folder");
    let cache = dir.path().join("kill.cache");
    let mut models: Vec<Model> = (0..WRITERS).map(|_| Model::new()).collect();
    let mut random = Random(0x00c0_ffee);
    let mut served = 0u64;
    for round in 0..rounds {
        let node = Node::start(&cache, &["--size", "64MiB"]);
        let mut client = node.client();
        for model in &models {
            for (key, allowed) in model {
                let answer = client.get(&format!("/{key}")).expect("the node answers");
                check(key, answer.status, &answer.body, allowed);
                served += u64::from(answer.status == 200);
            }
        }
        let (addresses, done) = ((node.data, node.admin), Arc::new(AtomicU64::new(0)));
        let requests = 20 + random.below(400);
        std::thread::scope(|scope| {
            for (writer, model) in models.iter_mut().enumerate() {
                let done = done.clone();
                scope.spawn(move || {
                    write_until_it_dies(addresses, writer as u64, round, model, &done);
                });
            }
            kill_after(node, requests, &done);
        });
    }
    assert!(
        served > rounds * WRITERS,
        "only {served} objects survived {rounds} kills: that proves nothing"
    );
    println!("{rounds} kills, {served} objects read back");
}
