//! Wires that are cut, nodes that are stopped and clocks that jump: whoever has a majority goes on, and what was purged and
//! acknowledged is served by nobody.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
#[path = "cluster/namespaces.rs"]
mod namespaces;
mod process;
#[path = "cluster/watch.rs"]
mod watch;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cluster::{Nodes, PATIENCE, insist};
use namespaces::World;
use process::{Client, body_of};
use watch::{Watch, judge};

const KEYS: u64 = 6;
/// A lease, and the margin that a leader adds.
const LEASE: Duration = Duration::from_millis(2200);

fn paths(what: &str) -> Vec<String> {
    (0..KEYS).map(|n| format!("/{what}/{n}")).collect()
}

/// Puts the objects and has every node hold and serve them.
fn fill(nodes: &Nodes, paths: &[String]) -> HashMap<String, Vec<u8>> {
    let mut bodies = HashMap::new();
    for (n, path) in paths.iter().enumerate() {
        let body = body_of(path, 1, 3000 + n * 20_000);
        let written = nodes.client(n % nodes.nodes.len()).put(path, &body).expect("an answer");
        assert!([201, 204].contains(&written), "{path}: {written}");
        bodies.insert(path.clone(), body);
    }
    for path in paths {
        for at in nodes.running() {
            nodes.wait_for("the objects are everywhere", |nodes| {
                let answer = nodes.client(at).get(path).expect("an answer");
                answer.status == 200 && answer.body == bodies[path]
            });
        }
    }
    bodies
}

/// What each trial is about: `cut` is done to the wires, and after it `lonely` hears of no purge.
fn partition(
    world: &World,
    what: &str,
    lonely: usize,
    cut: impl FnOnce(&World),
    heal: impl FnOnce(&World),
) {
    let nodes = &world.nodes;
    let paths = paths(what);
    let bodies = fill(nodes, &paths);
    let others: Vec<_> = nodes.running().into_iter().filter(|at| *at != lonely).collect();
    // Many there, since without a lease it takes its time before it says no.
    let readers = others.iter().chain([&lonely; 8]);
    let readers: Vec<_> = readers.map(|at| (*at, nodes.node(*at).data)).collect();
    let watch = Watch::start(&readers, &paths);
    let began = Instant::now();
    cut(world);

    // At once, while the one that is cut off still holds its lease.
    let prefix = format!(r#"{{"prefix": "{what}/"}}"#);
    insist("a purge", || nodes.purge(others[0], &prefix).map(|(status, _)| status));
    let acknowledged = Instant::now();
    let new = format!("/{what}/new");
    insist("a put", || nodes.client(others[1]).put(&new, b"new"));
    let written = Instant::now();
    for at in &others {
        let answer = nodes.get(*at, &new, &[]);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"new"[..]), "from node {at}");
    }
    insist("a purge of one key", || {
        nodes.client(others[1]).request("PURGE", &new, &[], None).map(|answer| answer.status)
    });
    insist("a second put", || nodes.client(others[0]).put(&new, b"newer"));
    // Without a lease it cannot know, and says so rather than guess.
    std::thread::scope(|scope| {
        for path in &paths {
            let mut client = nodes.client(lonely);
            scope.spawn(move || {
                let answer = client.get(path).expect("an answer");
                assert!([404, 503].contains(&answer.status), "{path}: {}", answer.status);
            });
        }
    });
    while acknowledged.elapsed() < LEASE {
        // Pause: another process is asked again.
        std::thread::sleep(Duration::from_millis(20));
    }

    let healing = Instant::now();
    heal(world);
    nodes.wait_for("it serves again", |nodes| {
        let answer = nodes.client(lonely).get(&new).expect("an answer");
        answer.status == 200 && answer.body == b"newer"
    });
    let healed = healing.elapsed();
    nodes.wait_for("it holds a lease again", |nodes| {
        nodes.status(lonely).is_some_and(|status| status["lease"]["held"] == true)
    });
    for at in nodes.running() {
        for path in &paths {
            let answer = nodes.get(at, path, &[]);
            assert_eq!(answer.status, 404, "{path} from node {at}");
        }
    }
    insist("a put there", || nodes.client(lonely).put(&new, b"newest"));
    let purged = |(path, body)| (path, (body, acknowledged));
    let after = judge(&watch.end(), &bodies.into_iter().map(purged).collect());
    println!(
        "{what}: purge acknowledged after {:?}, put after {:?}; healed in {healed:?}; looks after \
         the acknowledgement by status: {after:?}",
        acknowledged - began,
        written - began
    );
}

#[test]
fn a_leader_that_is_cut_off() {
    let Some(world) = World::start("lead", 3) else { return };
    let leader = world.nodes.wait_for_leader();
    partition(&world, "unplugged", leader, |w| w.unplug(leader), |w| w.plug(leader));
    let leader = world.nodes.wait_for_leader();
    let followers: Vec<_> = (0..3).filter(|at| *at != leader).collect();
    partition(
        &world,
        "mute",
        leader,
        // It hears everybody, and nobody hears it.
        |w| followers.iter().for_each(|to| w.lose(leader, *to)),
        |w| followers.iter().for_each(|to| w.no_lose(leader, *to)),
    );
}

#[test]
fn a_follower_that_is_cut_off() {
    let Some(world) = World::start("follow", 3) else { return };
    let leader = world.nodes.wait_for_leader();
    let follower = (leader + 1) % 3;
    let pairs: Vec<_> = (0..3).filter(|at| *at != follower).collect();
    partition(
        &world,
        "blackholes",
        follower,
        |w| pairs.iter().for_each(|to| w.blackhole(follower, *to)),
        |w| pairs.iter().for_each(|to| w.no_blackhole(follower, *to)),
    );
    let leader = world.nodes.wait_for_leader();
    let follower = (leader + 2) % 3;
    partition(&world, "unplugged", follower, |w| w.unplug(follower), |w| w.plug(follower));
}

#[test]
fn a_wire_that_leads_one_way() {
    let Some(world) = World::start("oneway", 3) else { return };
    let leader = world.nodes.wait_for_leader();
    let follower = (leader + 1) % 3;
    partition(
        &world,
        "unheard",
        follower,
        |w| w.lose(follower, leader),
        |w| w.no_lose(follower, leader),
    );
    let leader = world.nodes.wait_for_leader();
    let follower = (leader + 1) % 3;
    partition(
        &world,
        "untold",
        follower,
        |w| w.lose(leader, follower),
        |w| w.no_lose(leader, follower),
    );
}

#[test]
fn a_node_that_sleeps_through_a_purge() {
    let nodes = Nodes::start(3);
    for round in ["follower", "leader", "again"] {
        let leader = nodes.wait_for_leader();
        let sleeper = if round == "leader" { leader } else { (leader + 1) % 3 };
        let awake = (sleeper + 1) % 3;
        let paths = paths(round);
        let bodies = fill(&nodes, &paths);
        let mut kept = nodes.client(sleeper);
        assert_eq!(kept.get(&paths[0]).expect("an answer").status, 200);
        nodes.signal(sleeper, "STOP");
        let began = Instant::now();
        let prefix = format!(r#"{{"prefix": "{round}/"}}"#);
        insist("a purge", || nodes.purge(awake, &prefix).map(|(status, _)| status));
        let acknowledged = began.elapsed();

        // Sent now, read when it wakes: it cannot tell how long it has slept but by its clock.
        let address = nodes.node(sleeper).data;
        let asked: Vec<_> = paths
            .iter()
            .map(|path| {
                let mut client =
                    Client::connect_within(address, PATIENCE).expect("the kernel accepts");
                let head = format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n");
                std::io::Write::write_all(client.stream.get_mut(), head.as_bytes()).expect("sent");
                client
            })
            .collect();
        let head = format!("GET {} HTTP/1.1\r\nhost: node\r\n\r\n", paths[0]);
        std::io::Write::write_all(kept.stream.get_mut(), head.as_bytes()).expect("sent");
        nodes.signal(sleeper, "CONT");
        for (mut client, path) in
            asked.into_iter().chain([kept]).zip(paths.iter().chain([&paths[0]]))
        {
            let answer = client.answer("GET").expect("an answer");
            assert!(
                [404, 503].contains(&answer.status) && answer.body != bodies[path],
                "{path} was purged, and then answered with {}",
                answer.status
            );
        }
        nodes.wait_for("it is back", |nodes| {
            let status = nodes.status(sleeper);
            status.is_some_and(|status| status["lease"]["held"] == true)
                && nodes.client(sleeper).get(&paths[0]).expect("an answer").status == 404
        });
        println!("{round} asleep: purge acknowledged after {acknowledged:?}");
    }
}
