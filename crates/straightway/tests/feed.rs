//! The live feed over real sockets: who hears what, once, in order, in which bytes; and those who misbehave.
mod support;

use std::time::Duration;

use serde_json::Value;
use straightway::client::{Client as NodeClient, FeedClient, FeedMessage, FeedView};
use straightway::codec::event::{Event, Kind, OnLag, Subscribe};
use straightway::codec::ws::{FrameReader, Incoming, Limits, Opcode, Role, frame_head, mask};
use straightway::codec::{Archived, Encoding, Header};
use support::TestNode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Generous: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Subscribers that have taken their places.
async fn subscribed(node: &TestNode, count: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let stats = node.admin_client().await.get("api/stats", "").await.json();
        if stats["feed"]["subscribers"] == count {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stats}");
        tokio::task::yield_now().await;
    }
}

/// A bare WebSocket, to see and send every byte.
struct Raw {
    stream: TcpStream,
    reader: FrameReader,
    input: Vec<u8>,
    head: String,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Text(Value),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    End,
}

impl Raw {
    async fn open(node: &TestNode, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(node.admin()).await.expect("connected");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
            node.admin()
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let limits = Limits { max_message: 1 << 20, max_fragments: 64 };
        let deflate = head.windows(18).any(|window| window == b"permessage-deflate");
        let head = String::from_utf8(head).expect("text").to_lowercase();
        Self {
            stream,
            reader: FrameReader::new(Role::Client, limits, deflate),
            input: Vec::new(),
            head,
        }
    }

    async fn json(node: &TestNode, query: &str) -> Self {
        let raw = Self::open(
            node,
            &format!("/events{query}"),
            "Sec-WebSocket-Protocol: straightway.v1.json\r\n",
        )
        .await;
        assert!(raw.head.starts_with("http/1.1 101"), "{}", raw.head);
        assert!(
            raw.head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{}",
            raw.head
        );
        raw
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        let (head, used) = frame_head(Opcode::Binary, payload.len());
        let mut frame = head[head.len() - used..].to_vec();
        frame[0] = first;
        frame[1] |= 0x80;
        frame.extend_from_slice(&[1, 2, 3, 4]);
        let start = frame.len();
        frame.extend_from_slice(payload);
        mask(&mut frame[start..], [1, 2, 3, 4], 0);
        // The node may have closed already: then what it said is still to be read.
        drop(self.stream.write_all(&frame).await);
    }

    async fn hear(&mut self) -> Heard {
        tokio::time::timeout(PATIENCE, self.hear_any()).await.expect("in time")
    }

    async fn hear_any(&mut self) -> Heard {
        loop {
            if !self.input.is_empty() {
                let (taken, heard) = {
                    let (taken, incoming) =
                        self.reader.read(&mut self.input).expect("sound frames");
                    (taken, incoming.map(|incoming| heard(&incoming)))
                };
                self.input.drain(..taken);
                if let Some(heard) = heard {
                    return heard;
                }
                continue;
            }
            let mut chunk = vec![0; 64 * 1024];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return Heard::End,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// The next message about an object.
    async fn event(&mut self) -> Value {
        loop {
            match self.hear().await {
                Heard::Text(value) if value["kind"] == "stats" => {}
                Heard::Ping(_) => {}
                Heard::Text(value) => return value,
                other => panic!("{other:?}"),
            }
        }
    }

    /// What the node closes with.
    async fn closed(&mut self) -> u16 {
        loop {
            match self.hear().await {
                Heard::Close(code, _) => return code,
                Heard::End => panic!("closed without a word"),
                _ => {}
            }
        }
    }
}

fn heard(incoming: &Incoming<'_>) -> Heard {
    match incoming {
        Incoming::Text(text) => Heard::Text(serde_json::from_str(text).expect("JSON")),
        Incoming::Binary(bytes) => Heard::Binary(bytes.to_vec()),
        Incoming::Ping(payload) => Heard::Ping(payload.to_vec()),
        Incoming::Pong(payload) => Heard::Pong(payload.to_vec()),
        Incoming::Close(Some((code, reason))) => Heard::Close(*code, (*reason).to_owned()),
        Incoming::Close(None) => Heard::Close(1005, String::new()),
    }
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

async fn post(node: &TestNode, path: &str, body: &str) -> Value {
    let mut client = node.admin_client().await;
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    client.send(head).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
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
    let feed = &node.admin_client().await.get("api/stats", "").await.json()["feed"];
    assert_eq!(
        (&feed["events"], &feed["json_encoded"], &feed["zstd_encoded"]),
        (&20.into(), &20.into(), &20.into())
    );
    assert_eq!(feed["deliveries"], 50 * 20);
    node.stop().await;
}

#[tokio::test]
async fn who_does_not_read_costs_others_nothing_and_gets_a_gap_or_is_closed() {
    let node = TestNode::start_with(|settings| {
        settings.feed.max_lag = 100;
        settings.feed.history_events = 100_000;
    })
    .await;
    let mut stalled = Raw::json(&node, "?kind=stored").await;
    let mut strict = Raw::json(&node, "?kind=stored&on_lag=disconnect").await;
    let mut healthy = Raw::json(&node, "?kind=stored").await;
    subscribed(&node, 3).await;
    let cache = node.node().state().cache().clone();
    let body = bytes::Bytes::from_static(b"x");
    let filler = "f".repeat(900);
    let mut expected = 1_u64;
    // Until both who do not read are behind by more than they may be.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        for _ in 0..200 {
            cache.store(&format!("{filler}/{expected}"), body.clone()).await.expect("stored");
            let event = healthy.event().await;
            assert_eq!(event["offset"], expected, "nothing is left out for those who read");
            expected += 1;
        }
        let feed = &node.admin_client().await.get("api/stats", "").await.json()["feed"];
        // Closing is decided when the socket takes bytes again: what can be seen now is that writes stand still.
        let behind = feed["deliveries"].as_u64().expect("a number") + 2000 < 3 * (expected - 1);
        if behind {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{feed}");
    }
    let mut last = 0;
    let mut gaps = 0;
    while last < expected - 1 {
        let event = stalled.event().await;
        if event["kind"] == "gap" {
            assert_eq!(event["from"], last + 1);
            last = event["to"].as_u64().expect("an offset") - 1;
            gaps += 1;
        } else {
            assert_eq!(event["offset"], last + 1, "in order, once each");
            last += 1;
        }
    }
    assert!(gaps > 0);
    assert_eq!(strict.closed().await, 4008);
    node.stop().await;
}

#[tokio::test]
async fn a_purge_overtakes_what_a_slow_subscriber_has_not_taken() {
    let node = TestNode::start().await;
    let mut slow = Raw::json(&node, "?kind=stored,purged").await;
    subscribed(&node, 1).await;
    let cache = node.node().state().cache().clone();
    let body = bytes::Bytes::from_static(b"x");
    let filler = "f".repeat(1500);
    let count = 6000_u64;
    for n in 1..=count {
        cache.store(&format!("{filler}/{n}"), body.clone()).await.expect("stored");
    }
    post(&node, "/api/purge", r#"{"prefix": "nothing/"}"#).await;
    let mut last = 0;
    let mut overtook = None;
    while last < count {
        let event = slow.event().await;
        if event["kind"] == "purged" {
            assert_eq!((&event["urgent"], &event["offset"]), (&true.into(), &(count + 1).into()));
            overtook = Some(last);
        } else {
            assert_eq!(event["offset"], last + 1);
            last += 1;
        }
    }
    assert!(overtook.is_some_and(|after| after < count), "{overtook:?}");
    // In its turn it does not come again: the next thing is something new.
    cache.store("new", body).await.expect("stored");
    assert_eq!(slow.event().await["key"], "new");
    node.stop().await;
}

#[tokio::test]
async fn those_who_break_the_protocol_are_told_and_closed_and_others_go_on() {
    let node = TestNode::start().await;
    let mut witness = Raw::json(&node, "?kind=stored").await;
    for (frames, code) in [
        (vec![(0x83_u8, b"reserved".to_vec())], 1002_u16),
        (vec![(0x81, b"\xff\xfe".to_vec())], 1007),
        (vec![(0x82, vec![0; 5000])], 1009),
        (vec![(0x80, b"continues nothing".to_vec())], 1002),
        (
            vec![(0x01, b"x".to_vec()); 1]
                .into_iter()
                .chain((0..20).map(|_| (0x00, b"x".to_vec())))
                .collect(),
            1008,
        ),
        ((0..200).map(|_| (0x89, b"ping".to_vec())).collect(), 1008),
        ((0..200).map(|_| (0x81, br#"{"subscribe":{}}"#.to_vec())).collect(), 4029),
        (vec![(0x88, 1000_u16.to_be_bytes().to_vec())], 1000),
    ] {
        let mut raw = Raw::json(&node, "?kind=stored").await;
        for (first, payload) in &frames {
            raw.send(*first, payload).await;
        }
        assert_eq!(raw.closed().await, code, "{:?}", frames[0]);
        while raw.hear().await != Heard::End {}
    }
    subscribed(&node, 1).await;
    node.put("k", b"x").await;
    assert_eq!(witness.event().await["key"], "k");
    node.stop().await;
}

#[tokio::test]
async fn an_unmasked_frame_ends_the_connection() {
    let node = TestNode::start().await;
    let mut raw = Raw::json(&node, "").await;
    raw.stream.write_all(&[0x81, 2, b'h', b'i']).await.expect("written");
    assert_eq!(raw.closed().await, 1002);
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
async fn heartbeats_find_those_who_are_gone() {
    let node = TestNode::start_with(|settings| {
        settings.feed.heartbeat = Duration::from_secs(1);
        settings.feed.pong_timeout = Duration::from_secs(1);
    })
    .await;
    let mut answering = Raw::json(&node, "?kind=stored").await;
    let mut silent = Raw::json(&node, "?kind=stored").await;
    let answering = tokio::spawn(async move {
        for _ in 0..3 {
            let Heard::Ping(payload) = answering.hear().await else { panic!("a ping") };
            assert_eq!(payload, 1_u64.to_le_bytes(), "where the stream stands");
            answering.send(0x8a, &payload).await;
        }
        answering
    });
    assert_eq!(silent.closed().await, 4012);
    answering.await.expect("was not closed");
    node.stop().await;
}

#[tokio::test]
async fn upgrades_that_should_not_be_are_refused_with_a_reason() {
    let node = TestNode::start_with(|settings| {
        settings.origins = vec!["https://dash.example".into()];
        settings.feed.max_subscribers = 1;
    })
    .await;
    let protocol = "Sec-WebSocket-Protocol: straightway.v1.json\r\n";
    for (path, headers, status) in [
        ("/events", "Sec-WebSocket-Protocol: chat\r\n".to_owned(), "400"),
        ("/events?kind=stolen", protocol.to_owned(), "400"),
        ("/events?what=1", protocol.to_owned(), "400"),
        ("/events", format!("{protocol}Origin: http://evil.example\r\n"), "403"),
        ("/events", format!("{protocol}Origin: null\r\n"), "403"),
    ] {
        let raw = Raw::open(&node, path, &headers).await;
        assert!(
            raw.head.starts_with(&format!("http/1.1 {status}")),
            "{path} {headers}: {}",
            raw.head
        );
    }
    let own = Raw::open(&node, "/events", &format!("Origin: http://{}\r\n", node.admin())).await;
    assert!(
        own.head.starts_with("http/1.1 101") && !own.head.contains("sec-websocket-protocol"),
        "{}",
        own.head
    );
    subscribed(&node, 1).await;
    let full = Raw::open(&node, "/events", "Origin: https://dash.example\r\n").await;
    assert!(full.head.starts_with("http/1.1 503"), "{}", full.head);
    drop(own);
    subscribed(&node, 0).await;
    let plain = node.admin_client().await.get("events", "").await;
    assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")));
    node.stop().await;
}

#[tokio::test]
async fn a_token_is_asked_for_and_may_come_as_a_subprotocol() {
    use straightway::config::settings::Secret;
    let node = TestNode::start_with(|settings| settings.token = Some(Secret::new("s3cret"))).await;
    let without = Raw::open(&node, "/events", "").await;
    assert!(without.head.starts_with("http/1.1 401"), "{}", without.head);
    let header = Raw::open(&node, "/events", "Authorization: Bearer s3cret\r\n").await;
    assert!(header.head.starts_with("http/1.1 101"), "{}", header.head);
    // base64url of the token, beside the protocol that is meant; never echoed.
    let offers = "Sec-WebSocket-Protocol: straightway.v1.json, straightway.bearer.czNjcmV0\r\n";
    let hidden = Raw::open(&node, "/events", offers).await;
    assert!(
        hidden.head.starts_with("http/1.1 101") && !hidden.head.contains("bearer"),
        "{}",
        hidden.head
    );
    let wrong =
        Raw::open(&node, "/events", "Sec-WebSocket-Protocol: straightway.bearer.czNjcmV1\r\n")
            .await;
    assert!(wrong.head.starts_with("http/1.1 401"), "{}", wrong.head);
    node.stop().await;
}

#[tokio::test]
async fn long_messages_are_deflated_for_those_who_can() {
    let node = TestNode::start().await;
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
    let long = "long/".repeat(300);
    node.put(&long, b"x").await;
    node.put("short", b"x").await;
    assert_eq!(raw.event().await["key"], long);
    assert_eq!(raw.event().await["key"], "short");
    let sent = node.admin_client().await.get("api/stats", "").await.json()["feed"]["sent_bytes"]
        .as_u64()
        .expect("a number");
    assert!(sent < 1000, "1,500 bytes of key in {sent} bytes");
    node.stop().await;
}

#[tokio::test]
async fn a_stopping_node_says_when_to_come_back_and_a_client_resumes_in_its_next_life() {
    let node = TestNode::start().await;
    let mut raw = Raw::json(&node, "?kind=stored").await;
    let mut feed = FeedClient::new(node_client(&node), events("")).expect("a client");
    let putting = async {
        subscribed(&node, 2).await;
        node.put("before", b"x").await;
    };
    let (first, ()) = tokio::join!(next(&mut feed), putting);
    assert_eq!(event_of(&first).key.as_str(), "before");
    let (data, admin) = (node.address(), node.admin());
    let path = node.cache_path();
    let (running, dir) = node.into_node();
    running.stop().await.expect("stopped");
    assert_eq!(raw.event().await["key"], "before");
    assert!(matches!(raw.hear().await, Heard::Close(1012, reason) if reason.contains("come back")));
    let mut settings = support::settings(&dir);
    (settings.listen, settings.admin, settings.cache) = (vec![data], admin, path);
    let again = straightway::node::Node::start(settings).await.expect("started again");
    let cache = again.state().cache().clone();
    let putting = async {
        // The client comes back by itself, after a pause of its own choice.
        for n in 0.. {
            cache
                .store(&format!("after/{n}"), bytes::Bytes::from_static(b"x"))
                .await
                .expect("stored");
            tokio::time::sleep(Duration::from_millis(20)).await;
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
    tokio::select! { () = seeing => {}, () = putting => {} }
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
    // It is in force once an event of it comes.
    let putting = async {
        for n in 0..200 {
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
    tokio::join!(seeing, putting);
    node.stop().await;
}
