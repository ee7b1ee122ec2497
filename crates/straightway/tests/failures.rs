//! When the file is damaged, cut short, or written over: a reader gets the right bytes or too few, never a mix, and the
//! node goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use straightway::cache::ZeroCopyConfig;
use straightway::node::Node;
use support::{Client, TestNode, mapped, pattern, settings, within};
use tokio::net::{TcpSocket, TcpStream};

const LARGE: usize = 12 << 20;

/// A connection whose kernel buffers hold little, so that most of a large body waits in the node.
async fn narrow(node: &TestNode) -> Client<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    Client::new(socket.connect(node.address()).await.unwrap())
}

/// Asks for an object and waits until its body has begun to arrive and the socket is full.
async fn stuck_reader(node: &TestNode, key: &str) -> Client<TcpStream> {
    let mut client = narrow(node).await;
    client.send(format!("GET /{key} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")).await;
    let mut byte = [0];
    assert_eq!(within(client.stream().peek(&mut byte)).await.unwrap(), 1);
    client
}

/// Reads on to the end. `Err`: the connection broke off.
async fn body_of(mut client: Client<TcpStream>) -> Result<Vec<u8>, Vec<u8>> {
    client.read_reply(false).await.map(|reply| reply.body)
}

/// Flips a bit of the stored body that begins with `start`, wherever in the file that is.
fn flip(cache: &Path, start: &[u8], offset: usize) {
    let bytes = std::fs::read(cache).unwrap();
    let at = bytes
        .windows(start.len())
        .position(|window| window == start)
        .expect("the body is in the file")
        + offset;
    let file = std::fs::File::options().write(true).open(cache).unwrap();
    file.write_all_at(&[bytes[at] ^ 4], at as u64).unwrap();
}

#[tokio::test]
async fn a_file_cut_short_under_a_running_node_fails_one_answer_at_a_time() {
    for config in [
        mapped(true),
        mapped(false),
        ZeroCopyConfig { mmap_threshold: usize::MAX, ..mapped(false) },
    ] {
        let node = TestNode::start().await;
        node.set_zero_copy(config);
        let body = pattern(1, LARGE);
        node.put("large", &body).await;
        node.put("other", &pattern(2, 100_000)).await;
        let reader = stuck_reader(&node, "large").await;
        std::fs::File::options()
            .write(true)
            .open(node.cache_path())
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        match body_of(reader).await {
            Ok(whole) => assert!(whole == body, "a complete answer must be the right one"),
            Err(part) => assert!(part.len() < LARGE, "{config:?}"),
        }
        for key in ["large", "other"] {
            let mut client = node.client().await;
            client.send(format!("GET /{key} HTTP/1.1\r\nhost: t\r\n\r\n")).await;
            if let Ok(reply) = client.read_reply(false).await {
                assert!(
                    matches!(reply.status, 404 | 500),
                    "{key}: {} with {config:?}",
                    reply.status
                );
            }
        }
        assert_eq!(node.admin_client().await.get("health/live", "").await.status, 200);
        // Closing writes a checkpoint, which may fail on such a file; it must not take the process down.
        let (node, _dir) = node.into_node();
        let _ = within(node.stop()).await;
    }
}

#[tokio::test]
async fn a_flipped_bit_makes_its_object_a_miss_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [("small", 5_000), ("medium", 70_000), ("large", 3_000_000)];
    let node = Node::start(settings(&dir)).await.unwrap();
    let connect =
        async |node: &Node| Client::new(TcpStream::connect(node.ready().data[0]).await.unwrap());
    for (seed, (key, len)) in sizes.into_iter().enumerate() {
        connect(&node).await.put(key, "", &pattern(seed as u64, len)).await;
        connect(&node)
            .await
            .put(&format!("{key}-sound"), "", &pattern(seed as u64 + 10, len))
            .await;
    }
    node.stop().await.unwrap();
    for (seed, (_, len)) in sizes.into_iter().enumerate() {
        flip(&dir.path().join("test.cache"), &pattern(seed as u64, 64), len - 1);
    }
    let node = Node::start(settings(&dir)).await.unwrap();
    let mut client = connect(&node).await;
    for (seed, (key, len)) in sizes.into_iter().enumerate() {
        for _ in 0..2 {
            let reply = client.get(key, "").await;
            reply.assert_problem(404);
            assert_eq!(reply.header("cache-status"), Some("straightway; fwd=miss"));
        }
        assert!(
            client.get(&format!("{key}-sound"), "").await.body == pattern(seed as u64 + 10, len)
        );
    }
    assert_eq!(node.state().cache().stats().checksum_failures, 3, "each counted once");
    node.stop().await.unwrap();
}

#[tokio::test]
async fn damage_behind_the_first_window_breaks_the_answer_off() {
    for sendfile in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let settings = || straightway::config::settings::NodeSettings {
            verify_ahead: 0,
            zero_copy: mapped(sendfile),
            ..settings(&dir)
        };
        let node = Node::start(settings()).await.unwrap();
        let connect = async |node: &Node| {
            Client::new(TcpStream::connect(node.ready().data[0]).await.unwrap())
        };
        let body = pattern(5, LARGE);
        connect(&node).await.put("k", "", &body).await;
        node.stop().await.unwrap();
        let bad = (5 << 20) + 17;
        flip(&dir.path().join("test.cache"), &body[..64], bad);
        let node = Node::start(settings()).await.unwrap();
        let mut client = connect(&node).await;
        client.send("GET /k HTTP/1.1\r\nhost: t\r\n\r\n").await;
        let part = client.read_reply(false).await.expect_err("the damaged window must not go out");
        assert!(
            part.len() <= 5 << 20 && body.starts_with(&part),
            "{} bytes came, all of them right",
            part.len()
        );
        assert_eq!(connect(&node).await.get("k", "").await.status, 404);
        assert_eq!(node.state().http_stats().aborted_responses, 1);
        node.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_object_replaced_while_it_is_sent_is_sent_as_it_was_or_breaks_off() {
    let node = TestNode::start().await;
    for config in [mapped(true), mapped(false)] {
        node.set_zero_copy(config);
        let old = pattern(20, LARGE);
        node.put("k", &old).await;
        let reader = stuck_reader(&node, "k").await;
        assert_eq!(node.put("k", &pattern(21, LARGE)).await.status, 204);
        assert_eq!(node.client().await.delete("k", "").await.status, 204);
        match body_of(reader).await {
            Ok(whole) => assert!(whole == old, "{config:?}"),
            Err(part) => assert!(old.starts_with(&part), "{config:?}"),
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_reader_overtaken_by_eviction_gets_the_right_bytes_or_too_few() {
    for config in [mapped(true), mapped(false)] {
        let node = TestNode::start().await;
        node.set_zero_copy(config);
        let body = pattern(30, LARGE);
        node.put("held", &body).await;
        let reader = stuck_reader(&node, "held").await;
        let mut writer = node.client().await;
        let lap = pattern(31, 4 << 20);
        for at in 0..48 {
            // Three times the cache. Space that is still being read may be refused, but not reused.
            let status = writer.put(&format!("lap/{at}"), "", &lap).await.status;
            assert!(matches!(status, 201 | 507), "{status}");
            if status == 507 {
                writer = node.client().await;
            }
        }
        assert!(node.node().state().cache().stats().evictions > 0, "the cache was lapped");
        match body_of(reader).await {
            Ok(whole) => assert!(whole == body, "{config:?}"),
            Err(part) => assert!(body.starts_with(&part), "{} bytes with {config:?}", part.len()),
        }
        node.stop().await;
    }
}
