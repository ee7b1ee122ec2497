//! Subscribers that are slow, gone, hostile or not let in: what becomes of them, and that it costs others nothing.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod support;
mod websocket;

use std::cell::Cell;
use std::time::Duration;

use support::TestNode;
use tokio::io::AsyncWriteExt;
use websocket::{Heard, PATIENCE, Raw, post, subscribed};

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
    let half = 3000_u64;
    for purge in ["one/", "two/"] {
        for n in 0..half {
            cache.store(&format!("{filler}/{n}"), body.clone()).await.expect("stored");
        }
        post(&node, "/api/purge", &format!("{{\"prefix\": \"{purge}\"}}")).await;
    }
    // Each once: the purges ahead of others, those in order.
    let all = 2 * half + 2;
    let (mut seen, mut last, mut overtook) = (0, 0, Vec::new());
    while seen < all {
        let event = slow.event().await;
        let offset = event["offset"].as_u64().expect("an offset");
        if event["urgent"] == true {
            assert_eq!(event["kind"], "purged");
            assert!(offset > last + 1, "ahead of its turn");
            overtook.push(offset);
        } else {
            assert!(offset > last && !overtook.contains(&offset), "in order, once");
            last = offset;
        }
        seen += 1;
    }
    assert!(overtook.contains(&all), "{overtook:?}");
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
        // At once: what may be sent in a second is limited, not what a busy machine sends in ten.
        raw.send_all(&frames).await;
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
async fn heartbeats_find_those_who_are_gone() {
    let node = TestNode::start_with(|settings| {
        settings.feed.heartbeat = Duration::from_secs(1);
        // Long enough to answer in, on a busy machine as well.
        settings.feed.pong_timeout = Duration::from_secs(10);
    })
    .await;
    let mut answering = Raw::json(&node, "?kind=stored").await;
    let mut silent = Raw::json(&node, "?kind=stored").await;
    let gone = Cell::new(false);
    let answering = async {
        for answered in 0.. {
            // It is asked still when the other one has been closed.
            let enough = answered >= 3 && gone.get();
            let Heard::Ping(payload) = answering.hear().await else { panic!("a ping") };
            assert_eq!(payload, 1_u64.to_le_bytes(), "where the stream stands");
            answering.send(0x8a, &payload).await;
            if enough {
                break;
            }
        }
    };
    let finding = async {
        assert_eq!(silent.closed().await, 4012);
        gone.set(true);
    };
    tokio::join!(answering, finding);
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
    // A page whose name leads here by now is not ours.
    for (host, status) in [("evil.example:8081", 403), ("localhost:8081", 426)] {
        for (request, status) in
            [("GET /events", status), ("POST /api/nothing", if status == 403 { 403 } else { 404 })]
        {
            let mut page = node.admin_client().await;
            let head = format!(
                "{request} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: 0\r\n\r\n"
            );
            page.send(head).await;
            assert_eq!(page.reply().await.status, status, "{request} {host}");
        }
    }
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
