//! The feed's client where the node is silent, restarted, or refuses: it notices, and misses nothing that it is not told of.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod support;
mod websocket;

use std::time::Duration;

use straightway::client::{Client as NodeClient, ClientError, FeedClient};
use straightway::codec::Encoding;
use straightway::codec::event::Subscribe;
use straightway::codec::ws::{FrameReader, Incoming, Limits, Opcode, Role, accept_key, frame_head};
use support::{Addresses, TestNode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use websocket::{PATIENCE, subscribed};

fn client(admin: std::net::SocketAddr, wanted: Subscribe) -> FeedClient {
    let node = NodeClient::new(&format!("http://{admin}"), None, None).expect("a URL");
    FeedClient::new(node, wanted).expect("a client")
}

fn stored() -> Subscribe {
    Subscribe { kinds: vec!["stored".into()], ..Subscribe::default() }
}

async fn next(feed: &mut FeedClient) -> serde_json::Value {
    let message = tokio::time::timeout(PATIENCE, feed.next()).await.expect("in time");
    message.expect("a message").to_json().expect("text")
}

/// Takes a connection and makes a WebSocket of it.
async fn shake_hands(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.expect("a client");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    let key = head
        .lines()
        .find_map(|line| {
            line.to_lowercase().starts_with("sec-websocket-key").then(|| line[18..].trim())
        })
        .expect("a key");
    let accept = accept_key(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: straightway.v1.json\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.expect("written");
    stream
}

/// Tells an event.
async fn tell(stream: &mut TcpStream, offset: u64) {
    let event = format!(
        r#"{{"offset": {offset}, "kind": "stored", "key": "k", "timestamp": 1, "node": "n"}}"#
    );
    let (head, used) = frame_head(Opcode::Text, event.len());
    stream.write_all(&head[head.len() - used..]).await.expect("written");
    stream.write_all(event.as_bytes()).await.expect("written");
}

/// A client, and the node that it has just heard an event of offset 2 from, after which half of `silence` passes until
/// it asks. However short that is: all that came before had a minute.
async fn last_heard(listener: &TcpListener, silence: Duration) -> (FeedClient, TcpStream) {
    let mut feed = client(listener.local_addr().expect("an address"), stored());
    let telling = async {
        let mut stream = shake_hands(listener).await;
        tell(&mut stream, 1).await;
        stream
    };
    let (heard, mut stream) = tokio::join!(next(&mut feed), telling);
    assert_eq!(heard["offset"], 1);
    tell(&mut stream, 2).await;
    feed = feed.with_silence(silence);
    assert_eq!(next(&mut feed).await["offset"], 2);
    (feed, stream)
}

#[tokio::test]
async fn a_node_that_falls_silent_is_noticed_by_who_waits_in_short_steps() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let (mut feed, _silent) = last_heard(&listener, Duration::from_millis(200)).await;
    let noticing = async {
        while feed.reconnects() == 0 {
            let step = tokio::time::timeout(Duration::from_millis(20), feed.next()).await;
            assert!(step.is_err(), "nothing was said");
        }
    };
    tokio::time::timeout(PATIENCE, noticing).await.expect("in time");
}

#[tokio::test]
async fn a_node_that_never_answers_the_upgrade_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let mut feed = client(listener.local_addr().expect("an address"), stored())
        .with_silence(Duration::from_millis(200));
    let waiting = tokio::time::timeout(PATIENCE, feed.next()).await.expect("in time");
    assert!(matches!(waiting, Err(ClientError::Silent { .. })), "{waiting:?}");
    // Who names an epoch has not been there for that.
    drop(listener);
    let from = Subscribe { from: Some(1), epoch: Some(7), ..stored() };
    let mut feed = client(std::net::SocketAddr::from(([127, 0, 0, 1], 1)), from);
    let waiting = tokio::time::timeout(PATIENCE, feed.next()).await.expect("in time");
    assert!(matches!(waiting, Err(ClientError::Connect { .. })), "{waiting:?}");
}

#[tokio::test]
async fn a_node_that_has_nothing_to_say_is_asked_and_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let (mut feed, mut stream) = last_heard(&listener, Duration::from_secs(1)).await;
    // It asks after half a second, and then waits for as long as a busy machine may take to answer.
    feed = feed.with_silence(2 * PATIENCE);
    let quiet = async {
        let limits = Limits { max_message: 4096, max_fragments: 4 };
        let mut reader = FrameReader::new(Role::Server, limits, false);
        let mut input = [0; 256];
        loop {
            let read = stream.read(&mut input).await.expect("read");
            assert!(read > 0, "it is kept");
            if let (_, Some(Incoming::Ping(_))) = reader.read(&mut input[..read]).expect("sound") {
                break;
            }
        }
        tell(&mut stream, 9).await;
    };
    let (heard, ()) = tokio::join!(next(&mut feed), quiet);
    assert_eq!((&heard["offset"], feed.reconnects()), (&9.into(), 0));
}

/// The node's next life has told more by the time a subscriber comes back than it had heard before: without the epoch
/// it would be taken for the same life.
#[tokio::test]
async fn a_reader_of_json_learns_that_the_node_was_restarted() {
    for heard_before in [2, 0] {
        let addresses = Addresses::hold();
        let node = TestNode::start_with(|settings| addresses.give(settings)).await;
        let mut feed = client(node.admin(), stored()).with_encoding(Encoding::Json);
        if heard_before == 0 {
            // It is there, and knows where it stands; the node knows of it earlier.
            let mut step = Duration::from_millis(200);
            while feed.place().0.is_none() {
                let said = tokio::time::timeout(step, feed.next()).await;
                assert!(said.is_err(), "nothing was said");
                // A step that was too short to connect in was in vain.
                step *= 2;
            }
        } else {
            let putting = async {
                subscribed(&node, 1).await;
                for n in 0..heard_before {
                    node.put(&format!("before/{n}"), b"x").await;
                }
            };
            let hearing = async {
                for _ in 0..heard_before {
                    next(&mut feed).await;
                }
            };
            tokio::join!(hearing, putting);
        }
        let (running, dir) = node.into_node();
        running.stop().await.expect("stopped");
        let mut settings = support::settings(&dir);
        addresses.give(&mut settings);
        let again = straightway::node::Node::start(settings).await.expect("started again");
        for n in 0..5 {
            let body = bytes::Bytes::from_static(b"x");
            again.state().cache().store(&format!("after/{n}"), body).await.expect("stored");
        }
        let gap = next(&mut feed).await;
        assert_eq!(
            (&gap["kind"], &gap["reason"]),
            (&"gap".into(), &"restarted".into()),
            "{heard_before}"
        );
        for n in 0..5 {
            assert_eq!(next(&mut feed).await["key"], format!("after/{n}"));
        }
        again.stop().await.expect("stopped");
    }
}

#[tokio::test]
async fn a_subscription_goes_back_to_the_place_that_it_names_and_a_wrong_one_is_told() {
    let node = TestNode::start().await;
    for encoding in [Encoding::Rkyv, Encoding::Json] {
        let mut feed = client(node.admin(), Subscribe { from: Some(1), ..stored() });
        feed = feed.with_encoding(encoding);
        node.put("one", b"x").await;
        assert_eq!(next(&mut feed).await["offset"], 1);
        feed.subscribe(Subscribe { from: Some(1), ..stored() }).await.expect("asked");
        assert_eq!(next(&mut feed).await["offset"], 1, "{encoding:?}: once more");
        let wrong = Subscribe { kinds: vec!["stolen".into()], ..Subscribe::default() };
        feed.subscribe(wrong).await.expect("asked");
        let told = loop {
            match tokio::time::timeout(PATIENCE, feed.next()).await.expect("in time") {
                // Of the subscription that stands.
                Ok(_) => {}
                Err(told) => break told,
            }
        };
        assert!(matches!(&told, ClientError::Subscription { reason } if reason.contains("stolen")));
    }
    node.stop().await;
}
