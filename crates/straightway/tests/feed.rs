//! The live feed over real sockets: who hears what, once, in order, in which bytes; and those who misbehave.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod support;
mod websocket;

use serde_json::Value;
use straightway::client::{Client as NodeClient, FeedClient, FeedMessage, FeedView};
use straightway::codec::event::{Event, Kind, OnLag, Subscribe};
use straightway::codec::{Archived, Encoding, Header};
use support::{Addresses, TestNode, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use websocket::{Heard, PATIENCE, Raw, post, subscribed};

fn node_client(node: &TestNode) -> NodeClient {
    NodeClient::new(&format!("http://{}", node.admin()), None, None).expect("a URL")
}

/// Only what happens to objects.
fn events(prefix: &str) -> Subscribe {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Stats);
    Subscribe {
        kinds: kinds.map(|kind| kind.name().to_owned()).collect(),
        prefix: prefix.to_owned(),
        ..Subscribe::default()
    }
}

async fn next(feed: &mut FeedClient) -> FeedMessage {
    tokio::time::timeout(PATIENCE, feed.next()).await.expect("in time").expect("a message")
}

fn event_of(message: &FeedMessage) -> &Archived<Event> {
    match message.view().expect("valid") {
        FeedView::Event(event) => event,
        _ => panic!("no event"),
    }
}

#[tokio::test]
async fn both_encodings_tell_the_same_and_the_wire_is_what_was_agreed_on() {
    let node = TestNode::start().await;
    let mut rkyv = FeedClient::new(node_client(&node), events("")).expect("a client");
    let mut json = FeedClient::new(node_client(&node), events(""))
        .expect("a client")
        .with_encoding(Encoding::Json);
    let mut raw =
        Raw::open(&node, "/events", "Sec-WebSocket-Protocol: straightway.v1.rkyv\r\n").await;
    assert!(raw.head.contains("sec-websocket-protocol: straightway.v1.rkyv\r\n"));
    let Heard::Binary(hello) = raw.hear().await else { panic!("a hello") };
    assert!(Header::parse(&hello).is_ok());
    let putting = async {
        subscribed(&node, 3).await;
        node.client()
            .await
            .put("a/b", "Content-Type: text/plain\r\nCache-Tag: red, blue\r\n", b"hello")
            .await;
    };
    let (first, second, ()) = tokio::join!(next(&mut rkyv), next(&mut json), putting);
    let event = event_of(&first);
    assert_eq!((event.key.as_str(), event.len.to_native(), event.tags.len()), ("a/b", 5, 2));
    assert_eq!(first.to_json().expect("text"), second.to_json().expect("text"));
    let told = second.to_json().expect("text");
    assert_eq!(
        (&told["kind"], &told["offset"], &told["key"]),
        (&"stored".into(), &1.into(), &"a/b".into())
    );
    assert!(told["node"].is_string() && told["timestamp"].is_u64() && told["etag"].is_string());
    loop {
        match raw.hear().await {
            Heard::Binary(bytes) => {
                let (header, _) = Header::parse(&bytes).expect("a header");
                if header.offset == 1 && header.priority == 1 {
                    break;
                }
            }
            other => panic!("an rkyv connection gets binary messages: {other:?}"),
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn kinds_prefixes_and_tags_choose() {
    let node = TestNode::start().await;
    let mut models = Raw::json(&node, "?prefix=models/&kind=stored,purged").await;
    let mut red = Raw::json(&node, "?tag=red&kind=stored").await;
    subscribed(&node, 2).await;
    let mut client = node.client().await;
    client.put("media/1", "Cache-Tag: red\r\n", b"x").await;
    client.put("models/1", "", b"x").await;
    assert_eq!(models.event().await["key"], "models/1");
    assert_eq!(red.event().await["key"], "media/1");
    // A purge of more than is watched, of part of it, and of something else.
    let purge = |body: &'static str| post(&node, "/api/purge", body);
    assert_eq!(purge(r#"{"prefix": "media/"}"#).await["purged"], 1);
    assert_eq!(purge(r#"{"prefix": "mod"}"#).await["purged"], 1);
    assert_eq!(purge(r#"{"key": "models/9"}"#).await["purged"], 0);
    assert_eq!(purge(r#"{"all": true}"#).await["purged"], 0);
    for (key, scope) in
        [("mod", Value::from("prefix")), ("models/9", Value::Null), ("", "all".into())]
    {
        let told = models.event().await;
        assert_eq!(
            (&told["kind"], &told["key"], &told["scope"]),
            (&"purged".into(), &key.into(), &scope)
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn a_subscriber_resumes_at_every_offset_or_is_told_what_is_missing() {
    let node = TestNode::start_with(|settings| settings.feed.history_events = 10).await;
    let mut client = node.client().await;
    for n in 1..=20 {
        client.put(&format!("k/{n}"), "", b"x").await;
    }
    for from in 1..=21_u64 {
        let mut raw = Raw::json(&node, &format!("?from={from}&kind=stored")).await;
        let mut expected = from;
        if from < 11 {
            let gap = raw.event().await;
            assert_eq!(
                (&gap["kind"], &gap["from"], &gap["to"], &gap["reason"]),
                (&"gap".into(), &from.into(), &11.into(), &"expired".into())
            );
            expected = 11;
        }
        while expected <= 20 {
            let event = raw.event().await;
            assert_eq!(
                (&event["offset"], &event["key"]),
                (&expected.into(), &format!("k/{expected}").into())
            );
            expected += 1;
        }
    }
    let mut other_life = Raw::json(&node, "?from=15&epoch=1&kind=stored").await;
    let gap = other_life.event().await;
    assert_eq!((&gap["kind"], &gap["reason"]), (&"gap".into(), &"restarted".into()));
    assert_eq!(other_life.event().await["offset"], 11);
    node.stop().await;
}

#[tokio::test]
async fn an_event_is_encoded_once_however_many_listen() {
    let node = TestNode::start().await;
    let mut readers = Vec::new();
    for n in 0..50 {
        let protocol = if n % 2 == 0 { "straightway.v1.json" } else { "straightway.v1.rkyv+zstd" };
        readers.push(
            Raw::open(
                &node,
                "/events?kind=stored",
                &format!("Sec-WebSocket-Protocol: {protocol}\r\n"),
            )
            .await,
        );
    }
    subscribed(&node, 50).await;
    for n in 0..20 {
        node.put(&format!("k/{n}"), b"x").await;
    }
    for (index, raw) in readers.iter_mut().enumerate() {
        let mut seen = 0;
        while seen < 20 {
            match raw.hear().await {
                Heard::Text(value) => {
                    assert_eq!(value["key"], format!("k/{seen}"), "{index}");
                    seen += 1;
                }
                Heard::Binary(bytes) => {
                    let (header, _) = Header::parse(&bytes).expect("a header");
                    seen += u64::from(header.priority == 1);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // A delivery is counted once it is written: those of the last event may have been heard before.
    let feed = within(async {
        loop {
            let stats = node.admin_client().await.get("api/stats", "").await.json();
            if stats["feed"]["deliveries"].as_u64() >= Some(50 * 20) {
                break stats["feed"].clone();
            }
        }
    })
    .await;
    assert_eq!(
        (&feed["events"], &feed["json_encoded"], &feed["zstd_encoded"]),
        (&20.into(), &20.into(), &20.into())
    );
    assert_eq!(feed["deliveries"], 50 * 20);
    node.stop().await;
}

#[tokio::test]
async fn commands_change_the_filter_and_what_cannot_be_read_is_answered_in_json() {
    let node = TestNode::start().await;
    let mut raw = Raw::json(&node, "?kind=stored").await;
    raw.send(0x81, br#"{"id": "7", "subscribe": {"kinds": ["stored"], "prefix": "b/"}}"#).await;
    let Heard::Text(reply) = raw.hear().await else { panic!("an answer") };
    assert_eq!((&reply["id"], &reply["subscribed"]["error"]), (&"7".into(), &Value::Null));
    for bad in [
        &b"nonsense"[..],
        br#"{"subscribe": {"kinds": ["stolen"]}}"#,
        br#"{"subscribe": {"what": 1}}"#,
    ] {
        raw.send(0x81, bad).await;
        let Heard::Text(reply) = raw.hear().await else { panic!("an answer") };
        assert!(reply["subscribed"]["error"].is_string(), "{reply}");
    }
    node.put("a/1", b"x").await;
    node.put("b/1", b"x").await;
    assert_eq!(raw.event().await["key"], "b/1");
    // An rkyv subscriber whose archive is not valid gets JSON until one is.
    let mut rkyv =
        Raw::open(&node, "/events?kind=stored", "Sec-WebSocket-Protocol: straightway.v1.rkyv\r\n")
            .await;
    assert!(matches!(rkyv.hear().await, Heard::Binary(_)), "hello");
    rkyv.send(0x82, b"no archive at all").await;
    assert!(
        matches!(rkyv.hear().await, Heard::Text(reply) if reply["subscribed"]["error"].is_string())
    );
    node.put("b/2", b"x").await;
    assert!(matches!(rkyv.hear().await, Heard::Text(event) if event["key"] == "b/2"));
    let pool = straightway::buffer::BufferPool::new(straightway::buffer::PoolConfig::tiered())
        .expect("a pool");
    let envelope = straightway::codec::Envelope::new(
        "1",
        Subscribe { kinds: vec!["stored".into()], ..Subscribe::default() },
    );
    rkyv.send(0x82, &envelope.encode(&pool).expect("encoded")).await;
    assert!(matches!(rkyv.hear().await, Heard::Binary(_)), "recovered");
    let feed = &node.admin_client().await.get("api/stats", "").await.json()["feed"];
    assert_eq!(feed["fallbacks_recovered"], 1);
    node.stop().await;
}

#[tokio::test]
async fn long_messages_are_deflated_for_those_who_can() {
    let node = TestNode::start().await;
    let deflated = async || {
        node.admin_client().await.get("api/stats", "").await.json()["feed"]["deflated"].clone()
    };
    let long = "long/".repeat(300);
    let mut plain = Raw::json(&node, "?kind=stored").await;
    node.put(&long, b"x").await;
    assert_eq!(plain.event().await["key"], long);
    assert_eq!(deflated().await, 0, "nobody asked for it");
    drop(plain);
    subscribed(&node, 0).await;
    let before = node.admin_client().await.get("api/stats", "").await.json()["feed"]["sent_bytes"]
        .as_u64()
        .expect("a number");
    let mut raw = Raw::open(
        &node,
        "/events?kind=stored",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
    )
    .await;
    assert!(
        raw.head
            .contains("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        "{}",
        raw.head
    );
    subscribed(&node, 1).await;
    node.put(&long, b"x").await;
    node.put("short", b"x").await;
    assert_eq!(raw.event().await["key"], long);
    assert_eq!(raw.event().await["key"], "short");
    let sent = node.admin_client().await.get("api/stats", "").await.json()["feed"]["sent_bytes"]
        .as_u64()
        .expect("a number");
    assert!(sent - before < 1000, "1,500 bytes of key in {} bytes", sent - before);
    assert_eq!(deflated().await, 1);
    node.stop().await;
}

#[tokio::test]
async fn a_stopping_node_says_when_to_come_back_and_a_client_resumes_in_its_next_life() {
    let addresses = Addresses::hold();
    let node = TestNode::start_with(|settings| addresses.give(settings)).await;
    let mut raw = Raw::json(&node, "?kind=stored").await;
    let mut feed = FeedClient::new(node_client(&node), events("")).expect("a client");
    let putting = async {
        subscribed(&node, 2).await;
        node.put("before", b"x").await;
    };
    let (first, ()) = tokio::join!(next(&mut feed), putting);
    assert_eq!(event_of(&first).key.as_str(), "before");
    let (running, dir) = node.into_node();
    running.stop().await.expect("stopped");
    assert_eq!(raw.event().await["key"], "before");
    assert!(matches!(raw.hear().await, Heard::Close(1012, reason) if reason.contains("come back")));
    let mut settings = support::settings(&dir);
    addresses.give(&mut settings);
    let again = straightway::node::Node::start(settings).await.expect("started again");
    let cache = again.state().cache().clone();
    let putting = async {
        // The client comes back by itself, after a pause of its own choice.
        for n in 0.. {
            cache
                .store(&format!("after/{n}"), bytes::Bytes::from_static(b"x"))
                .await
                .expect("stored");
            tokio::task::yield_now().await;
        }
    };
    let seeing = async {
        loop {
            let message = next(&mut feed).await;
            if message.to_json().expect("text")["key"]
                .as_str()
                .is_some_and(|key| key.starts_with("after/"))
            {
                return;
            }
        }
    };
    let either = async {
        tokio::select! { () = seeing => {}, () = putting => {} }
    };
    within(Box::pin(either)).await;
    assert!(feed.reconnects() > 0);
    again.stop().await.expect("stopped");
}

#[tokio::test]
async fn server_sent_events_tell_the_same_and_resume() {
    let node = TestNode::start().await;
    node.put("one", b"x").await;
    node.put("two", b"x").await;
    let epoch = {
        let mut raw = TcpStream::connect(node.admin()).await.expect("connected");
        let request = format!(
            "GET /events?from=1&kind=stored HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            node.admin()
        );
        raw.write_all(request.as_bytes()).await.expect("written");
        let text = read_until(&mut raw, "two").await;
        assert!(
            text.contains("content-type: text/event-stream")
                && text.contains("event: stored\ndata: {\"offset\":1"),
            "{text}"
        );
        let id = text.split("id: ").nth(1).and_then(|rest| rest.split('-').next()).expect("an id");
        id.to_owned()
    };
    let mut raw = TcpStream::connect(node.admin()).await.expect("connected");
    let request = format!(
        "GET /events?kind=stored HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nLast-Event-ID: {epoch}-1\r\n\r\n",
        node.admin()
    );
    raw.write_all(request.as_bytes()).await.expect("written");
    let text = read_until(&mut raw, "two").await;
    assert!(!text.contains("\"one\""), "{text}");
    node.put("three", b"x").await;
    assert!(read_until(&mut raw, "three").await.contains("\"three\""));
    drop(raw);
    let mut other_life = TcpStream::connect(node.admin()).await.expect("connected");
    let request = request.replace(&format!("{epoch}-1"), "1-2");
    other_life.write_all(request.as_bytes()).await.expect("written");
    let text = read_until(&mut other_life, "three").await;
    assert!(text.contains("\"reason\":\"restarted\"") && text.contains("\"one\""), "{text}");
    drop(other_life);
    // A WebSocket is told the same place.
    let greeted = Raw::json(&node, "").await;
    assert!(greeted.head.contains(&format!("last-event-id: {epoch}-3\r\n")), "{}", greeted.head);
    node.stop().await;
}

/// Each keeps a connection of the admin listener for as long as it likes.
#[tokio::test]
async fn streams_leave_room_for_other_requests() {
    let node = TestNode::start_with(|settings| settings.feed.max_streams = 2).await;
    let mut streams = Vec::new();
    let request = "GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    for _ in 0..2 {
        let mut client = node.admin_client().await;
        client.send(request).await;
        let mut head = [0; 12];
        client.stream().read_exact(&mut head).await.expect("a head");
        assert_eq!(&head, b"HTTP/1.1 200");
        streams.push(client);
    }
    let mut third = node.admin_client().await;
    third.send(request).await;
    third.reply().await.assert_problem(503);
    drop(streams);
    within(async {
        loop {
            let stats = node.admin_client().await.get("api/stats", "").await.json();
            if stats["feed"]["streams"] == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.stop().await;
}

async fn read_until(stream: &mut TcpStream, what: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(&format!("\"{what}\"")) {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk))
            .await
            .expect("in time")
            .expect("read");
        assert!(read > 0, "ended early: {text}");
        text.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    text
}

#[tokio::test]
async fn a_client_asks_for_something_else_on_the_way() {
    let node = TestNode::start().await;
    let mut feed = FeedClient::new(node_client(&node), events("a/")).expect("a client");
    let putting = async {
        subscribed(&node, 1).await;
        node.put("a/1", b"x").await;
    };
    let (first, ()) = tokio::join!(next(&mut feed), putting);
    assert_eq!(event_of(&first).key.as_str(), "a/1");
    let wanted = Subscribe { on_lag: OnLag::Disconnect, ..events("b/") };
    feed.subscribe(wanted).await.expect("sent");
    // It is in force once an event of it comes; the node may take its time to hear of it.
    let putting = async {
        for n in 0.. {
            node.put(&format!("a/x{n}"), b"x").await;
            node.put(&format!("b/{n}"), b"x").await;
        }
    };
    let seeing = async {
        loop {
            let message = next(&mut feed).await;
            if event_of(&message).key.as_str().starts_with("b/") {
                return;
            }
        }
    };
    let either = async {
        tokio::select! { () = seeing => {}, () = putting => {} }
    };
    within(Box::pin(either)).await;
    node.stop().await;
}

#[tokio::test]
async fn statistics_come_in_the_encoding_that_is_asked_for() {
    let node = TestNode::start().await;
    node.put("a", b"x").await;
    let json = node.admin_client().await.get("api/stats", "Accept: application/json\r\n").await;
    assert_eq!(json.header("content-type"), Some("application/json"));
    let reply = node.admin_client().await.get("api/stats", "Accept: application/rkyv\r\n").await;
    assert_eq!(reply.header("content-type"), Some("application/rkyv"));
    let registry = straightway::codec::event::registry().expect("a registry");
    let (header, payload) = Header::parse(&reply.body).expect("a message");
    let checked = registry.check(&header, payload).expect("valid");
    let stats = checked.view::<straightway::codec::event::Stats>().expect("numbers");
    assert_eq!((stats.objects.to_native(), stats.stores.to_native()), (1, 1));
    node.stop().await;
}

/// Whoever was let in misses nothing, however fast the next event is.
#[tokio::test]
async fn an_event_right_after_the_handshake_is_heard() {
    let node = TestNode::start().await;
    for n in 0..50 {
        let mut raw = Raw::json(&node, "?kind=stored").await;
        let body = bytes::Bytes::from_static(b"x");
        node.node().state().cache().store(&format!("k/{n}"), body).await.expect("stored");
        assert_eq!(raw.event().await["key"], format!("k/{n}"));
    }
    node.stop().await;
}

/// What was gathered for a filter that is gone is not taken for another's, and a place beyond the end is another life's.
#[tokio::test]
async fn filters_come_and_go_and_each_gets_its_own() {
    let node = TestNode::start().await;
    for n in 0..3 {
        node.put(&format!("a/{n}"), b"x").await;
        node.put(&format!("b/{n}"), b"x").await;
    }
    let mut raw = Raw::json(&node, "?kind=stored&from=1&prefix=a/").await;
    for prefix in ["a", "b", "a", "b"] {
        let mut other = Raw::json(&node, &format!("?kind=stored&from=1&prefix={prefix}/")).await;
        for n in 0..3 {
            assert_eq!(other.event().await["key"], format!("{prefix}/{n}"));
        }
    }
    for n in 0..3 {
        assert_eq!(raw.event().await["key"], format!("a/{n}"));
    }
    raw.send(0x81, br#"{"subscribe": {"kinds": ["stored"], "prefix": "b/", "from": 1}}"#).await;
    while let Heard::Text(text) = raw.hear().await {
        if text["type"] == "subscribed" {
            break;
        }
    }
    for n in 0..3 {
        assert_eq!(raw.event().await["key"], format!("b/{n}"));
    }
    let mut beyond = Raw::json(&node, "?kind=stored&from=5000").await;
    let gap = beyond.event().await;
    assert_eq!((&gap["kind"], &gap["reason"]), (&"gap".into(), &"restarted".into()));
    assert_eq!(beyond.event().await["offset"], 1);
    node.stop().await;
}
