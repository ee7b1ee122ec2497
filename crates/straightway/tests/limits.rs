//! What clients do wrong, or slowly, or leave half done.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use std::time::Duration;

use straightway::config::settings::Secret;
use straightway::node::{Node, NodeError};
use support::{Client, TestNode, mapped, pattern, settings, within};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

const LIMIT: u64 = 1 << 20;

async fn limited() -> TestNode {
    TestNode::start_with(|settings| settings.max_object = Some(LIMIT)).await
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_before_it_is_read() {
    let node = limited().await;
    let mut client = node.client().await;
    client
        .send(format!("PUT /big HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", LIMIT + 1))
        .await;
    let reply = client.reply().await;
    reply.assert_problem(413);
    assert_eq!(
        reply.header("connection"),
        Some("close"),
        "the unread body must not be taken for a request"
    );
    assert_eq!(node.http().received_bytes, 0);
    assert_eq!(node.client().await.put("fits", "", &pattern(0, 1 << 20)).await.status, 201);
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_is_still_sending_hears_the_refusal() {
    let node = limited().await;
    let mut client = node.client().await;
    let body = pattern(1, 4 << 20);
    client
        .send(format!("PUT /big HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", body.len()))
        .await;
    // All of it is sent before the answer is looked at, as simple clients do.
    client.send(&body).await;
    client.reply().await.assert_problem(413);
    node.stop().await;
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_413_half_way() {
    let node = limited().await;
    let mut client = node.client().await;
    client.send("PUT /big HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = pattern(1, 1 << 18);
    for _ in 0..5 {
        client.send(format!("{:x}\r\n", chunk.len())).await;
        client.send(&chunk).await;
        client.send("\r\n").await;
    }
    client.reply().await.assert_problem(413);
    assert_eq!(node.get("big", "").await.status, 404);
    assert_eq!(node.node().state().cache().stats().objects, 0);
    node.stop().await;
}

#[tokio::test]
async fn expect_continue_is_answered_by_the_verdict_when_there_is_one() {
    let node = TestNode::start_with(|settings| {
        settings.max_object = Some(LIMIT);
        settings.token = Some(Secret::new("t0ken"));
    })
    .await;
    let ask = async |headers: &str, len: u64| {
        let mut client = node.client().await;
        let expect = "expect: 100-continue\r\n";
        client
            .send(format!(
                "PUT /e HTTP/1.1\r\nhost: t\r\ncontent-length: {len}\r\n{expect}{headers}\r\n"
            ))
            .await;
        let reply = client.reply().await;
        (client, reply)
    };
    ask("", 4).await.1.assert_problem(401);
    let token = "authorization: Bearer t0ken\r\n";
    ask(token, LIMIT + 1).await.1.assert_problem(413);
    ask(&format!("{token}if-match: *\r\n"), 4).await.1.assert_problem(412);
    let (mut client, reply) = ask(token, 4).await;
    assert_eq!(reply.status, 100);
    client.send("body").await;
    assert_eq!(client.reply().await.status, 201);
    assert_eq!(node.get("e", "").await.text(), "body");
    node.stop().await;
}

#[tokio::test]
async fn changing_methods_need_the_token() {
    let node = TestNode::start_with(|settings| settings.token = Some(Secret::new("t0ken"))).await;
    let mut client = node.client().await;
    let refused = client.delete("k", "").await;
    refused.assert_problem(401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"straightway\""));
    node.client()
        .await
        .put("k", "authorization: Bearer wrong\r\n", b"body")
        .await
        .assert_problem(401);
    assert_eq!(
        client.get("k", "").await.status,
        404,
        "reading needs no token, and nothing was stored"
    );
    let token = "authorization: Bearer t0ken\r\n";
    assert_eq!(client.put("k", token, b"body").await.status, 201);
    assert_eq!(client.delete("k", token).await.status, 204);
    node.stop().await;
}

#[tokio::test]
async fn listening_to_the_world_without_a_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |change: fn(&mut straightway::config::settings::NodeSettings)| {
        let mut settings = settings(&dir);
        settings.listen = vec!["0.0.0.0:0".parse().unwrap()];
        change(&mut settings);
        Node::start(settings).await
    };
    let refused = start(|_| {}).await;
    assert!(matches!(refused, Err(NodeError::Unprotected { .. })));
    assert!(!dir.path().join("test.cache").exists(), "refused before anything is touched");
    start(|settings| settings.token = Some(Secret::new("t"))).await.unwrap().stop().await.unwrap();
    start(|settings| settings.insecure = true).await.unwrap().stop().await.unwrap();
    let admin = start(|settings| {
        settings.listen.clear();
        settings.admin = "[::]:0".parse().unwrap();
    });
    assert!(matches!(admin.await, Err(NodeError::Unprotected { .. })));
}

#[tokio::test]
async fn a_client_that_leaves_half_way_leaves_nothing_behind() {
    let node = TestNode::start().await;
    for announced in ["content-length: 500000", "transfer-encoding: chunked"] {
        let mut client = node.client().await;
        client.send(format!("PUT /half HTTP/1.1\r\nhost: t\r\n{announced}\r\n\r\n")).await;
        let before = node.http().received_bytes;
        client.send("30d40\r\n").await;
        client.send(pattern(1, 200_000)).await;
        within(async {
            while node.http().received_bytes < before + 100_000 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(client);
        node.settled().await;
        assert_eq!(node.get("half", "").await.status, 404);
        assert_eq!(node.node().state().cache().stats().objects, 0);
    }
    assert_eq!(node.put("half", b"whole").await.status, 201);
    assert_eq!(node.get("half", "").await.text(), "whole");
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_answer() {
    let node = TestNode::start().await;
    node.put("k", b"body").await;
    let mut client = node.client().await;
    client.send("GET /k HTTP/1.1\r\nhost: t\r\n\r\n").await;
    within(tokio::io::AsyncWriteExt::shutdown(client.stream())).await.unwrap();
    assert_eq!(client.reply().await.text(), "body");
    assert!(client.rest().await.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn a_body_longer_than_announced_is_cut_and_the_rest_is_no_request() {
    let node = TestNode::start().await;
    let mut client = node.client().await;
    client
        .send("PUT /k HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nbody and more\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.status, 201);
    assert_eq!(client.reply().await.status, 400);
    assert!(client.rest().await.is_empty(), "the connection ends");
    assert_eq!(node.get("k", "").await.text(), "body");
    node.stop().await;
}

#[tokio::test]
async fn malformed_and_oversized_heads_are_refused() {
    let node = TestNode::start().await;
    for (head, status) in [
        ("GET / NOPE\r\n\r\n".to_owned(), 400),
        ("GET /k HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400),
        (format!("GET /k HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000)), 431),
        ("GET /k HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /k HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), 400),
        (
            "PUT /k HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody"
                .to_owned(),
            400,
        ),
    ] {
        let mut client = node.client().await;
        client.send(&head).await;
        assert_eq!(client.reply().await.status, status, "{head:.40}");
    }
    node.stop().await;
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let node =
        TestNode::start_with(|settings| settings.header_timeout = Duration::from_millis(60)).await;
    let mut silent = node.client().await;
    let mut dripping = node.client().await;
    dripping.send("GET /k HT").await;
    assert!(silent.rest().await.is_empty());
    assert!(dripping.rest().await.is_empty());
    let stats = node.http();
    assert_eq!((stats.cut_header, stats.cut_idle), (2, 0));
    node.stop().await;
    // Another node: here a head may take as long as it takes.
    let node =
        TestNode::start_with(|settings| settings.idle_timeout = Duration::from_millis(80)).await;
    let mut idle = node.client().await;
    assert_eq!(idle.get("k", "").await.status, 404);
    assert!(idle.rest().await.is_empty());
    let stats = node.http();
    assert_eq!((stats.cut_header, stats.cut_idle), (0, 1));
    node.stop().await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let node =
        TestNode::start_with(|settings| settings.send_timeout = Duration::from_millis(60)).await;
    let mut client = node.client().await;
    client.send("PUT /k HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\nhalf").await;
    assert!(client.read_reply(false).await.is_err());
    assert_eq!(node.http().cut_stalled, 1);
    assert_eq!(node.get("k", "").await.status, 404);
    node.stop().await;
}

/// A connection whose kernel buffers hold little, so that the node meets a full socket early.
async fn narrow(node: &TestNode) -> Client<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    Client::new(socket.connect(node.address()).await.unwrap())
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_off_and_lets_its_object_go() {
    let node =
        TestNode::start_with(|settings| settings.send_timeout = Duration::from_millis(80)).await;
    for sendfile in [true, false] {
        node.set_zero_copy(mapped(sendfile));
        // Not by a client, whose pauses the limit would hold for as well.
        let large = bytes::Bytes::from(pattern(3, 12 << 20));
        node.node().state().cache().store("large", large).await.unwrap();
        let mut client = narrow(&node).await;
        let cut = node.http().cut_stalled;
        client.send("GET /large HTTP/1.1\r\nhost: t\r\n\r\n").await;
        within(async {
            while node.http().cut_stalled == cut {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(
            client.read_reply(false).await.is_err(),
            "a broken connection, not a complete answer"
        );
        within(async {
            while node.node().state().cache().zero_copy_stats().await.pins_held > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    let node =
        TestNode::start_with(|settings| settings.send_timeout = Duration::from_secs(10)).await;
    let body = pattern(4, 8 << 20);
    node.put("large", &body).await;
    for sendfile in [true, false] {
        node.set_zero_copy(mapped(sendfile));
        let mut client = narrow(&node).await;
        client.send("GET /large HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
        let mut received = Vec::new();
        let mut sip = [0; 3001];
        loop {
            let read = within(client.stream().read(&mut sip)).await.unwrap();
            if read == 0 {
                break;
            }
            received.extend(&sip[..read]);
            tokio::task::yield_now().await;
        }
        assert!(received.ends_with(&body), "sendfile: {sendfile}");
    }
    node.stop().await;
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let node = TestNode::start_with(|settings| settings.max_connections = 2).await;
    let (mut first, mut second) = (node.client().await, node.client().await);
    assert_eq!(first.get("k", "").await.status, 404);
    assert_eq!(second.get("k", "").await.status, 404);
    let mut third = node.client().await;
    third.send("GET /k HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(first.get("k", "").await.status, 404, "those that are in go on");
    assert_eq!(node.http().connections_accepted, 2);
    drop(second);
    assert_eq!(third.reply().await.status, 404);
    node.stop().await;
}

#[tokio::test]
async fn bodies_nobody_asked_for_do_no_harm() {
    let node = TestNode::start().await;
    node.put("k", b"body").await;
    let mut client = node.client().await;
    client.send("GET /k HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhello").await;
    assert_eq!(client.reply().await.text(), "body");
    assert_eq!(client.get("k", "").await.text(), "body", "a short one is skipped");
    let long = pattern(1, 4 << 20);
    let mut client = node.client().await;
    client
        .send(format!("POST /k HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", long.len()))
        .await;
    client.send(&long).await;
    client.reply().await.assert_problem(405);
    node.stop().await;
}

#[tokio::test]
async fn an_older_client_is_served_and_let_go() {
    let node = TestNode::start().await;
    node.put("k", b"body").await;
    let mut client = node.client().await;
    client.send("GET /k HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.reply().await.text(), "body");
    assert!(client.rest().await.is_empty(), "no keep-alive unless asked for");
    node.stop().await;
}

#[tokio::test]
async fn a_body_for_which_there_is_no_room_is_507_and_fits_once_there_is() {
    let node = TestNode::start().await;
    let quarter = node.node().state().cache().info().max_object;
    // Uploads that take their space and do not go on, until one finds none and is told.
    let mut stalled = Vec::new();
    let refused = loop {
        assert!(stalled.len() < 8, "there is room for all of them");
        let (mut client, part) = (node.client().await, pattern(stalled.len() as u64, 256 * 1024));
        let taken_in = node.http().received_bytes + part.len() as u64;
        client
            .send(format!(
                "PUT /stalled{} HTTP/1.1\r\nhost: t\r\ncontent-length: {quarter}\r\n\r\n",
                stalled.len()
            ))
            .await;
        client.send(&part).await;
        // The first bytes wait for the space of all: once the last of these are taken in, it has its space.
        let has_space = async {
            while node.http().received_bytes < taken_in {
                tokio::task::yield_now().await;
            }
        };
        let told = tokio::select! { told = client.reply() => Some(told), () = has_space => None };
        match told {
            Some(refused) => break refused,
            None => stalled.push(client),
        }
    };
    refused.assert_problem(507);
    drop(stalled);
    // Their space comes back once the node has noticed that they are gone.
    node.settled().await;
    let body = pattern(9, usize::try_from(quarter).unwrap());
    let mut stored = 507;
    while stored == 507 {
        stored = within(node.client().await.put("late", "", &body)).await.status;
    }
    assert_eq!(stored, 201);
    assert!(node.get("late", "").await.body == body);
    node.stop().await;
}
