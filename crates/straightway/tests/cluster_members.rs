//! Nodes that come and go: by tickets, good and bad, and by the command line; one whose disk was replaced.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
#[path = "cluster/load.rs"]
mod load;
mod process;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster::{Nodes, insist, wipe};
use load::{Load, serves};
use serde_json::Value;
use straightway_cluster::net::TicketSecret;
use straightway_cluster::{ClusterId, JoinRole, Ticket};

/// What a command that failed said, after its exit code has been checked.
fn failure(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Runs a node that cannot start, to its end.
fn serve(cache: &Path, how: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--size", "256MiB"])
        .args(["--cluster-listen", "127.0.0.1:0", "--cache"])
        .arg(cache)
        .args(how)
        .env("STRAIGHTWAY_LOG", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let deadline = Instant::now() + cluster::PATIENCE;
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > deadline {
            drop(child.kill());
            panic!("it goes on: {:?}", child.wait_with_output());
        }
        // Pause: another process is asked again.
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output")
}

fn members(status: &Value) -> Vec<(u64, String)> {
    let members = status["members"].as_array().expect("members");
    let of = |member: &Value| {
        (member["id"].as_u64().expect("an id"), member["role"].as_str().expect("a role").to_owned())
    };
    members.iter().map(of).collect()
}

fn voters(status: &Value) -> Vec<u64> {
    let voting = members(status).into_iter().filter(|(_, role)| role != "learner");
    voting.map(|(id, _)| id).collect()
}

fn wait_for_voters(nodes: &Nodes, at: usize, count: usize) {
    nodes.wait_for(&format!("{count} vote"), |nodes| {
        nodes.status(at).is_some_and(|status| voters(&status).len() == count)
    });
}

#[test]
fn from_one_to_three_to_five_to_three_under_load() {
    let mut nodes = Nodes::start(1);
    let mut load = Load::start(&nodes, &[0], 2);
    load.wait(0, Instant::now(), 20);
    let issued = json(&nodes.cli(0, &["cluster", "ticket", "--lifetime", "5m", "--json"]));
    let ticket = issued["ticket"].as_str().expect("a ticket").to_owned();
    assert!(issued["expires_ms"].is_u64(), "{issued}");
    for at in [1, 2] {
        nodes.push(&["--join", &ticket]);
        load.add(&nodes, at, 1);
    }
    wait_for_voters(&nodes, 0, 3);
    load.wait(2, Instant::now(), 20);

    // The fourth waits for a fifth, unless told otherwise.
    let text = nodes.cli(1, &["cluster", "ticket"]).stdout;
    let ticket = String::from_utf8(text).expect("text");
    nodes.push(&["--join", ticket.trim()]);
    let fourth = nodes.id(3);
    assert_eq!(voters(&nodes.status(0).expect("a status")).len(), 3);
    let status = json(&nodes.cli(0, &["cluster", "add", &fourth.to_string(), "--json"]));
    assert!(voters(&status).contains(&fourth), "{status}");
    let ticket = nodes.ticket(2);
    nodes.push(&["--join", &ticket]);
    let fifth = nodes.id(4);
    wait_for_voters(&nodes, 0, 5);
    for at in 0..3 {
        load.wait(at, Instant::now(), 20);
    }
    for at in [3, 4] {
        assert_eq!(nodes.client(at).put(&format!("/by/{at}"), b"").expect("an answer"), 201);
    }

    let status = json(&nodes.cli(1, &["cluster", "transfer", &fifth.to_string(), "--json"]));
    assert_eq!(status["leader"], fifth, "{status}");
    let text = nodes.cli(0, &["cluster", "status"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for word in ["leader", "follower", "rtt", "node4", "term"] {
        assert!(text.contains(word), "{text}");
    }

    // One that leads, and one that follows.
    for (at, id) in [(4, fifth), (3, fourth)] {
        let status = json(&nodes.cli(0, &["cluster", "remove", &id.to_string(), "--json"]));
        assert!(members(&status).iter().all(|(other, _)| *other != id), "{status}");
        let mut removed = nodes.nodes[at].take().expect("it runs");
        nodes.wait_for("the removed node ends", |_| {
            removed.child.try_wait().expect("a child").is_some()
        });
        assert_eq!(removed.child.wait().expect("its end").code(), Some(1));
        assert!(nodes.log(at).contains("has been removed"), "{}", nodes.log(at));
        // And does not come back by itself.
        if nodes.try_restart(at).is_ok() {
            let mut again = nodes.nodes[at].take().expect("it runs");
            nodes.wait_for("the removed node ends again", |_| {
                again.child.try_wait().expect("a child").is_some()
            });
            assert_eq!(again.child.wait().expect("its end").code(), Some(1));
        }
        assert!(nodes.log(at).contains("or so say members"), "{}", nodes.log(at));
    }
    wait_for_voters(&nodes, 0, 3);
    for at in 0..3 {
        load.wait(at, Instant::now(), 20);
    }
    let acknowledged = load.stop();
    for at in 0..3 {
        serves(&nodes, at, &acknowledged);
    }
}

#[test]
fn a_node_whose_disk_is_lost_comes_back_as_a_new_member() {
    let mut nodes = Nodes::start_with(3, &["--repair-after", "20s"]);
    let load = Load::start(&nodes, &[0, 1, 2], 1);
    load.wait(2, Instant::now(), 20);
    let lost = nodes.id(2);
    let cluster = nodes.status(0).expect("a status")["cluster"].clone();
    nodes.kill(2);
    load.leave(2);

    // Half a disk is not enough, and is said to be so.
    for part in ["log", "catalogue"] {
        let (whole, aside) = (nodes.data_dir(2).join(part), nodes.folder.path().join(part));
        std::fs::rename(&whole, &aside).expect("moved");
        let said = failure(&serve(&nodes.cache(2), &["--cluster"]), 1);
        assert!(said.contains("let it join again"), "without its {part}: {said}");
        drop(std::fs::remove_dir_all(&whole));
        std::fs::rename(&aside, &whole).expect("moved back");
    }

    wipe(&nodes, 2);
    // The ticket that it once joined by, or one like it: used up.
    let ticket = nodes.ticket(0);
    let new = nodes.push(&["--join", &ticket]);
    let said = failure(&serve(&nodes.cache(2), &["--join", &ticket]), 1);
    assert!(said.contains("has been used") && said.contains("cluster ticket"), "{said}");
    // Without any it knows of no cluster: it founds one of its own, and the other one is none the wiser.
    nodes.restart(2);
    let alone = nodes.status(2).expect("a status");
    assert_ne!(alone["cluster"], cluster);
    assert_eq!(members(&alone), [(1, "leader".to_owned())]);
    nodes.kill(2);

    assert_eq!(nodes.status(new).expect("a status")["cluster"], cluster);
    assert!(nodes.id(new) > lost, "a new disk is a new member");
    json(&nodes.cli(0, &["cluster", "remove", &lost.to_string(), "--json"]));
    wait_for_voters(&nodes, 0, 3);
    let status = nodes.status(0).expect("a status");
    assert!(voters(&status).contains(&nodes.id(new)), "{status}");
    let acknowledged = load.stop();
    // The majority that acknowledged an object may have been the disk that is lost and one of the others: it is copied anew.
    nodes.wait_for("the new disk has everything", |nodes| {
        acknowledged.iter().all(|one| nodes.holds(new, &one.path))
    });
    nodes.wait_for("nothing is short of copies", |nodes| nodes.stat(0, "objects_short") == 0);
    // It counts: with it, one of the two others can be done without.
    nodes.kill(1);
    insist("a put", || nodes.client(0).put("/without", b"the other"));
    serves(&nodes, 0, &acknowledged);
    serves(&nodes, new, &acknowledged);
}

#[test]
fn tickets_that_are_no_good_and_wrong_orders_are_refused() {
    let mut nodes = Nodes::start(1);
    let stranger = nodes.folder.path().join("stranger.cache");
    let joining = |ticket: &str, code| {
        let said = failure(&serve(&stranger, &["--join", ticket]), code);
        drop(std::fs::remove_dir_all(stranger.with_extension("data")));
        said
    };
    let issued = json(&nodes.cli(0, &["cluster", "ticket", "--lifetime", "1s", "--json"]));
    let short = issued["ticket"].as_str().expect("a ticket");
    let text = nodes.ticket(0);
    let good: Ticket = text.parse().expect("a ticket");

    // No tickets at all: wrong usage.
    let cut = &text[..text.len() - 7];
    let mut mistyped = text.clone().into_bytes();
    mistyped[40] = if mistyped[40] == b'a' { b'b' } else { b'a' };
    let mistyped = String::from_utf8(mistyped).expect("text");
    let newer = text.replacen("swjoin1", "swjoin7", 1);
    for (wrong, word) in [
        ("nonsense", "not a join ticket"),
        ("", "not a join ticket"),
        (cut, "damaged"),
        (&mistyped, "damaged"),
        (&newer, "version"),
    ] {
        let said = joining(wrong, 2);
        assert!(said.contains(word) && said.contains("join"), "{wrong:?}: {said}");
    }

    // Tickets, but not of this cluster, not for this, or forged.
    let elsewhere = Ticket { cluster: ClusterId([7; 16]), ..good.clone() };
    let unknown = Ticket { secret: TicketSecret([7; 32]), ..good.clone() };
    let promoted = Ticket { role: JoinRole::Learner, ..good.clone() };
    let mut nobody = good.clone();
    nobody.members[0].addresses = vec!["127.0.0.1:9".parse().expect("an address")];
    for (forged, word) in [
        (&elsewhere, "another cluster"),
        (&unknown, "no such ticket"),
        (&promoted, "does not match"),
        (&nobody, "cannot be reached"),
    ] {
        let said = joining(&forged.to_string(), 1);
        assert!(said.contains(word), "{word}: {said}");
    }

    // Too late, whether or not the ticket says so itself.
    nodes.wait_for("the ticket expires", |_| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        since.as_millis() > u128::from(issued["expires_ms"].as_u64().expect("a time"))
    });
    let said = joining(short, 1);
    assert!(said.contains("expired") && said.contains("cluster ticket"), "{said}");
    let late: Ticket = short.parse().expect("a ticket");
    let said = joining(&Ticket { expires_ms: good.expires_ms, ..late }.to_string(), 1);
    assert!(said.contains("expired") && said.contains("cluster ticket"), "{said}");

    // Orders that cannot be carried out.
    for (order, code, word) in [
        (&["add", "99"][..], 1, "no member 99"),
        (&["remove", "99"], 1, "no member 99"),
        (&["transfer", "99"], 1, "no member 99"),
        (&["remove", "1"], 1, "only voter"),
        (&["ticket", "--lifetime", "25h"], 1, "at most"),
        (&["ticket", "--lifetime", "soon"], 2, "lifetime"),
        (&["add", "one"], 2, "one"),
        (&["add"], 2, "ID"),
    ] {
        let args: Vec<_> = ["cluster"].iter().chain(order).copied().collect();
        let said = failure(&nodes.cli(0, &args), code);
        assert!(said.contains(word), "{order:?}: {said}");
    }
    let said = failure(&nodes.cli(0, &["cluster", "remove", "99", "--json"]), 1);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert!(said["error"].is_array(), "{said}");

    // All that has changed nothing, and a member does not change clusters by a ticket.
    let status = json(&nodes.cli(0, &["cluster", "status", "--json"]));
    assert_eq!(members(&status), [(1, "leader".to_owned())]);
    nodes.kill(0);
    let elsewhere = elsewhere.to_string();
    let said = failure(&serve(&nodes.cache(0), &["--join", &elsewhere]), 1);
    assert!(said.contains("belongs to"), "{said}");
    nodes.restart(0);
    assert_eq!(nodes.client(0).put("/unharmed", b"yes").expect("an answer"), 201);
}
