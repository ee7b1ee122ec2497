//! Objects that a member has not got: fetched from those that have, while they are served, by as many readers as like.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
mod process;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use cluster::{Nodes, Setup};
use process::{Answer, Client, body_of};

/// A copy that takes longer, or less than 16 MiB a second beside, is helped out by a third node.
const HEDGE: Duration = Duration::from_secs(1);
/// Bytes that no socket's buffers hold.
const LARGE: usize = 20_000_000;

fn start() -> Nodes {
    Nodes::start_with(3, &["--copies", "2"])
}

/// Puts an object that two nodes hold. A copy that takes long is helped out by a third one, which may come long after the put
/// was answered: then it is put once more. Where it takes long each time, it is enough that no third one has it by then.
fn put(nodes: &Nodes, at: usize, path: &str, len: usize) -> Vec<u8> {
    let body = body_of(path, 1, len);
    let patience = HEDGE + Duration::from_secs((len >> 24) as u64);
    for turn in 0..20 {
        let begun = Instant::now();
        assert_eq!(nodes.client(at).put(path, &body).expect("an answer"), 201, "{path}");
        let soon = begun.elapsed() < patience || turn >= 4;
        if soon && (0..3).any(|at| !nodes.holds(at, path)) {
            return body;
        }
        assert_eq!(ask(nodes, at, "DELETE", path, &[]).status, 204);
    }
    panic!("{path} is on three nodes again and again");
}

fn ask(nodes: &Nodes, at: usize, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    nodes.client(at).request(method, path, headers, None).expect("an answer")
}

/// The node that has not got an object which was [`put`] on node 0.
fn without(nodes: &Nodes, path: &str) -> usize {
    let without: Vec<_> = [1, 2].into_iter().filter(|at| !nodes.holds(*at, path)).collect();
    assert_eq!(without.len(), 1, "of three, two hold {path}");
    without[0]
}

#[test]
fn what_is_elsewhere_is_judged_ranged_and_fetched_once() {
    let nodes = start();
    let body = put(&nodes, 0, "/film", 3_000_000);
    let other = without(&nodes, "/film");
    let etag = ask(&nodes, 0, "HEAD", "/film", &[]).header("etag").expect("a tag").to_owned();

    // None of this brings the object here.
    let same = ask(&nodes, other, "GET", "/film", &[("if-none-match", &etag)]);
    assert_eq!((same.status, same.body.len()), (304, 0));
    let changed = ask(&nodes, other, "GET", "/film", &[("if-match", "\"another\"")]);
    assert_eq!(changed.status, 412);
    let outside = ask(&nodes, other, "GET", "/film", &[("range", "bytes=3000000-")]);
    assert_eq!(outside.status, 416);
    assert_eq!(outside.header("content-range"), Some("bytes */3000000"));
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=70000-2000000", 70_000, 2_000_001),
        ("bytes=-100", 2_999_900, 3_000_000),
    ] {
        let answer = ask(&nodes, other, "GET", "/film", &[("range", range)]);
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == body[from..to], "{range}");
        let told = format!("bytes {from}-{}/3000000", to - 1);
        assert_eq!(answer.header("content-range"), Some(told.as_str()));
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
    }
    assert!(!nodes.holds(other, "/film"));

    // Several ranges at once, as a whole, by many at the same time: once. It is short: whoever waits for it for two seconds is
    // served past it.
    let body = put(&nodes, 0, "/short", 100_000);
    let other = without(&nodes, "/short");
    let sent = |nodes: &Nodes| {
        let others = (0..3).filter(|at| *at != other);
        others.map(|at| nodes.stat(at, "transfers_sent")).sum::<u64>()
    };
    let before = sent(&nodes);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (nodes, body) = (&nodes, &body);
            scope.spawn(move || {
                let several = [("range", "bytes=0-9,1000-1009")];
                let headers = if reader == 0 { &several[..] } else { &[] };
                let answer = ask(nodes, other, "GET", "/short", headers);
                if reader == 0 {
                    assert_eq!(answer.status, 206);
                } else {
                    assert_eq!((answer.status, answer.body == *body), (200, true));
                }
            });
        }
    });
    // Counted by who sent it once all was handed over, which may have been served by then.
    nodes.wait_for("it is counted", |nodes| sent(nodes) > before);
    assert_eq!(sent(&nodes) - before, 1, "it is fetched once");
    assert!(nodes.holds(other, "/short"));
    assert_eq!(sent(&nodes) - before, 1, "and not once more behind it");
}

/// Asks for a path and reads nothing of the answer yet.
fn begin(nodes: &Nodes, at: usize, path: &str, range: &str) -> Client {
    let mut client = nodes.client(at);
    let head = format!("GET {path} HTTP/1.1\r\nhost: node\r\n{range}\r\n");
    client.stream.get_mut().write_all(head.as_bytes()).expect("sent");
    client
}

#[test]
fn readers_that_do_not_read_hold_nobody_else_up() {
    let nodes = start();
    let paths: Vec<_> = (0..6).map(|n| format!("/slow/{n}")).collect();
    let bodies: Vec<_> = paths.iter().map(|path| put(&nodes, 0, path, LARGE)).collect();
    // More than there are transfers at a time, from one member to another.
    let mut slow = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let other = without(&nodes, path);
        slow.push((at, begin(&nodes, other, path, "")));
        slow.push((at, begin(&nodes, other, path, "range: bytes=0-\r\n")));
    }
    for (at, path) in paths.iter().enumerate() {
        nodes.wait_for("it is there all the same", |nodes| {
            [0, 1, 2].into_iter().all(|node| nodes.holds(node, path))
        });
        put(&nodes, at % 3, &format!("/put/{at}"), 100_000);
    }
    // And they get what they asked for, when they like to.
    for (at, mut client) in slow {
        let answer = client.answer("GET").expect("an answer");
        assert!(answer.body == bodies[at], "{} of a slow reader", paths[at]);
    }
}

#[test]
fn a_holder_that_goes_in_the_middle_is_followed_by_another() {
    let mut nodes = start();
    let body = put(&nodes, 0, "/long", LARGE);
    let other = without(&nodes, "/long");
    // Whichever of the two it comes from.
    for gone in [3 - other, 0] {
        let mut reader = begin(&nodes, other, "/long", "range: bytes=0-\r\n");
        let first = reader.stream.fill_some().expect("its first bytes");
        assert!(first > 0);
        nodes.kill(gone);
        let answer = reader.answer("GET").expect("an answer");
        assert_eq!(answer.status, 206);
        assert!(answer.body == body, "without node {gone}");
        nodes.restart(gone);
        nodes.wait_for("it serves", |nodes| {
            let read = nodes.client(gone).get("/long");
            read.is_ok_and(|answer| answer.status == 200)
        });
    }
    assert!(!nodes.holds(other, "/long"));
}

trait FillSome {
    fn fill_some(&mut self) -> std::io::Result<usize>;
}

impl<R: std::io::BufRead> FillSome for R {
    /// Waits for bytes, and leaves them there.
    fn fill_some(&mut self) -> std::io::Result<usize> {
        self.fill_buf().map(<[u8]>::len)
    }
}

#[test]
fn what_nobody_holds_any_more_is_said_before_an_answer_begins() {
    let mut nodes = start();
    put(&nodes, 0, "/lost", 300_000);
    let other = without(&nodes, "/lost");
    for at in [0, 3 - other] {
        nodes.kill(at);
        std::fs::remove_file(nodes.cache(at)).expect("removed");
        nodes.restart(at);
    }
    // No holder knows yet that it has lost it: it is told as soon as it is asked, and the last one takes the entry with it.
    let holders = [0, 3 - other];
    let linearizable = ("consistency", "linearizable");
    for headers in [&[linearizable][..], &[linearizable, ("range", "bytes=5-9")]] {
        let answer = ask(&nodes, other, "GET", "/lost", headers);
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    for at in holders {
        nodes.wait_for("it is gone", |nodes| {
            let answer = ask(nodes, at, "GET", "/lost", &[linearizable]);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert!([503, 404].contains(&answer.status), "node {at}: {}", answer.status);
            at == 0 || answer.status == 404
        });
    }
    for at in 0..3 {
        assert_eq!(nodes.get(at, "/lost", &[linearizable]).status, 404, "node {at}");
    }
    let again = nodes.client(other).put("/lost", b"again").expect("an answer");
    assert!([201, 204].contains(&again), "{again}");
    for at in 0..3 {
        let answer = nodes.get(at, "/lost", &[linearizable]);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"again"[..]));
    }
}

#[test]
fn several_ranges_of_what_has_no_room_here_are_answered_with_the_whole() {
    let small =
        Setup { args: ["--max-object", "1MiB"].map(str::to_owned).into(), ..Setup::default() };
    let nodes = Nodes::start_as(3, &[], vec![Setup::default(), Setup::default(), small]);
    let body = put(&nodes, 0, "/film", 3_000_000);
    assert!(!nodes.holds(2, "/film"));
    let answer = ask(&nodes, 2, "GET", "/film", &[("range", "bytes=0-9,1000-1009")]);
    assert_eq!((answer.status, answer.body == body), (200, true));
    let answer = ask(&nodes, 2, "GET", "/film", &[("range", "bytes=1000-1009")]);
    assert_eq!((answer.status, &answer.body[..]), (206, &body[1000..1010]));
    assert!(!nodes.holds(2, "/film"));
}

#[test]
fn bytes_that_rot_on_one_member_come_from_another() {
    let mut nodes = start();
    let body = put(&nodes, 0, "/rotten", 3_000_000);
    nodes.signal(0, "TERM");
    nodes.nodes[0].take().expect("it runs").child.wait().expect("it ends");
    let cache = std::fs::read(nodes.cache(0)).expect("the cache");
    let needle = &body[1_000_000..1_000_032];
    let place = cache.windows(32).position(|window| window == needle).expect("the body is there");
    let file = File::options().write(true).open(nodes.cache(0)).expect("the cache");
    file.write_all_at(b"rot", u64::try_from(place).expect("small")).expect("written");
    nodes.restart(0);
    // The first window of it is sound, the second is not: a range that begins there finds out in time.
    let range = [("range", "bytes=1000000-1000099"), ("consistency", "linearizable")];
    let mut answer = None;
    nodes.wait_for("it can ask", |nodes| {
        let found = ask(nodes, 0, "GET", "/rotten", &range);
        assert_ne!(found.status, 404);
        answer = Some(found);
        answer.as_ref().is_some_and(|answer| answer.status != 503)
    });
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 206);
    assert!(answer.body == body[1_000_000..1_000_100]);
    let whole = ask(&nodes, 0, "GET", "/rotten", &[]);
    assert!(whole.status == 200 && whole.body == body);
}
