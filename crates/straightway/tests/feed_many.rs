//! Ten thousand subscribers of one node: all hear every event or are told what they missed, and an idle one costs little.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod process;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use process::Node;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use straightway::codec::ws::{FrameReader, Incoming, Limits, Role};

const SUBSCRIBERS: usize = 10_000;
const EVENTS: u64 = 20;
/// User memory that an idle subscriber may take, in bytes.
const MOST_BYTES: u64 = 2048;

fn subscribe(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(node.admin).expect("connected");
    stream.set_read_timeout(Some(Duration::from_mins(1))).expect("set");
    let request = format!(
        "GET /events?kind=stored HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.admin
    );
    stream.write_all(request.as_bytes()).expect("written");
    let mut head = [0; 4096];
    let mut have = 0;
    while !head[..have].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut head[have..=have]).expect("an answer");
        assert!(read > 0, "closed");
        have += read;
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head[..have]));
    stream
}

/// Waits until the node has noticed that all its subscribers are gone.
fn all_gone(node: &Node) {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut admin = process::Client::connect(node.admin).expect("connected");
    loop {
        let stats = admin.get("/api/stats").expect("answered").body;
        let stats: serde_json::Value = serde_json::from_slice(&stats).expect("JSON");
        if stats["feed"]["subscribers"] == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{stats}");
        std::thread::yield_now();
    }
}

/// Reads events until the last one; answers with how many came and how many were told to be missing.
fn hear_all(stream: &mut TcpStream) -> (u64, u64) {
    let mut reader =
        FrameReader::new(Role::Client, Limits { max_message: 1 << 16, max_fragments: 1 }, false);
    let mut chunk = vec![0; 16 * 1024];
    let (mut next, mut heard, mut missed) = (1, 0, 0);
    while next <= EVENTS {
        let read = stream.read(&mut chunk).expect("events");
        assert!(read > 0, "closed after {heard}");
        let mut at = 0;
        while at < read {
            let (taken, incoming) = reader.read(&mut chunk[at..read]).expect("sound frames");
            at += taken;
            let Some(Incoming::Text(text)) = incoming else { continue };
            let event: serde_json::Value = serde_json::from_str(text).expect("JSON");
            if event["kind"] == "gap" {
                let to = event["to"].as_u64().expect("an offset");
                missed += to - next;
                next = to;
            } else {
                assert_eq!(event["offset"], next);
                heard += 1;
                next += 1;
            }
        }
    }
    (heard, missed)
}

#[test]
fn ten_thousand_hear_every_event() {
    let most = getrlimit(Resource::Nofile).maximum;
    if most.is_some_and(|most| most < SUBSCRIBERS as u64 + 100) {
        println!("SKIP ten thousand subscribers: the system allows {most:?} open files");
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).expect("allowed");
    let dir = tempfile::tempdir().expect("a folder");
    let node = Node::start(&dir.path().join("c"), &["--size", "64MiB", "--feed-heartbeat", "10m"]);
    // Whatever is allocated once is there before it is measured.
    drop((0..100).map(|_| subscribe(&node)).collect::<Vec<_>>());
    // There is room for as many as will come, and no more.
    all_gone(&node);
    let before = node.anonymous_bytes();
    let mut subscribers: Vec<TcpStream> = (0..SUBSCRIBERS).map(|_| subscribe(&node)).collect();
    let each = (node.anonymous_bytes() - before) / SUBSCRIBERS as u64;
    println!("{each} bytes of user memory a subscriber");
    assert!(each <= MOST_BYTES, "{each} bytes a subscriber");
    let mut client = node.client();
    for n in 0..EVENTS {
        assert_eq!(client.put(&format!("/k/{n}"), b"x").expect("stored"), 201);
    }
    let (mut heard, mut missed) = (0, 0);
    for subscriber in &mut subscribers {
        let (one_heard, one_missed) = hear_all(subscriber);
        (heard, missed) = (heard + one_heard, missed + one_missed);
    }
    assert_eq!(heard + missed, SUBSCRIBERS as u64 * EVENTS);
    println!("{heard} events heard, {missed} told to be missing");
    // One more than there is room for is refused, and there is room again when one has gone.
    let mut refused = TcpStream::connect(node.admin).expect("connected");
    let request = format!(
        "GET /events HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.admin
    );
    refused.write_all(request.as_bytes()).expect("written");
    let mut answer = [0; 12];
    refused.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 503");
}
