//! Storing, reading and removing objects over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use sha2::{Digest, Sha256};
use straightway::cache::{IoMode, ZeroCopyConfig};
use straightway::http::{digest, etag};
use support::{TestNode, mapped, pattern};

#[tokio::test]
async fn what_is_put_comes_back_with_its_description() {
    let node = TestNode::start().await;
    let mut client = node.client().await;
    let body = pattern(1, 100_000);
    let sha256: [u8; 32] = Sha256::digest(&body).into();
    let tag = etag::of_digest(&sha256);

    let created = client
        .put("a/b", "content-type: text/x-test\r\ncache-control: max-age=3600\r\n", &body)
        .await;
    assert_eq!((created.status, created.header("etag")), (201, Some(tag.as_str())));
    let replaced = client
        .put("a/b", "content-type: text/x-test\r\ncache-control: max-age=3600\r\n", &body)
        .await;
    assert_eq!(replaced.status, 204);

    let got = client.get("a/b", "").await;
    assert_eq!(got.status, 200);
    assert!(got.body == body);
    let head = client.head("a/b", "").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), Some("100000"));
    for reply in [&got, &head] {
        assert_eq!(reply.header("etag"), Some(tag.as_str()));
        assert_eq!(reply.header("content-type"), Some("text/x-test"));
        assert_eq!(reply.header("accept-ranges"), Some("bytes"));
        assert_eq!(reply.header("cache-control"), Some("max-age=3600"));
        assert_eq!(reply.header("cache-status"), Some("straightway; hit"));
        assert_eq!(reply.header("repr-digest"), Some(digest::format(&sha256).as_str()));
        assert!(reply.header("age").unwrap().parse::<u64>().unwrap() < 3600);
        assert!(httpdate::parse_http_date(reply.header("last-modified").unwrap()).is_ok());
        assert!(reply.header("date").is_some());
    }

    assert_eq!(client.delete("a/b", "").await.status, 204);
    client.delete("a/b", "").await.assert_problem(404);
    let missed = client.get("a/b", "").await;
    missed.assert_problem(404);
    assert_eq!(missed.header("cache-status"), Some("straightway; fwd=miss"));
    assert_eq!(client.head("a/b", "").await.status, 404);
    node.stop().await;
}

#[tokio::test]
async fn every_size_comes_back_whole_by_every_way() {
    let sizes = [0, 1, 1023, 4096, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1, (3 << 20) - 7];
    let copied =
        ZeroCopyConfig { mmap_threshold: usize::MAX, enable_sendfile: false, adaptive: false };
    for io in [IoMode::Standard, IoMode::Portable] {
        let node = TestNode::start_with(|settings| settings.io = io).await;
        let mut client = node.client().await;
        for size in sizes {
            assert_eq!(
                client.put(&size.to_string(), "", &pattern(size as u64, size)).await.status,
                201
            );
        }
        for config in [mapped(true), mapped(false), copied, ZeroCopyConfig::default()] {
            node.set_zero_copy(config);
            for size in sizes {
                let reply = client.get(&size.to_string(), "").await;
                assert_eq!(reply.status, 200);
                assert!(
                    reply.body == pattern(size as u64, size),
                    "{size} bytes by {config:?} with {io:?}"
                );
                let len = size.to_string();
                assert_eq!(
                    client.head(&size.to_string(), "").await.header("content-length"),
                    Some(len.as_str())
                );
            }
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn a_chunked_body_is_stored_whole() {
    let node = TestNode::start().await;
    let mut client = node.client().await;
    let body = pattern(2, 300_000);
    client.send("PUT /c HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for chunk in body.chunks(70_001) {
        client.send(format!("{:x}\r\n", chunk.len())).await;
        client.send(chunk).await;
        client.send("\r\n").await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 201);
    assert!(client.get("c", "").await.body == body);
    node.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let node = TestNode::start().await;
    node.set_zero_copy(mapped(true));
    let keys = ["one", "two", "three", "four"];
    for (seed, key) in keys.into_iter().enumerate() {
        node.put(key, &pattern(seed as u64, 70_000)).await;
    }
    let mut client = node.client().await;
    let requests: String =
        keys.map(|key| format!("GET /{key} HTTP/1.1\r\nhost: t\r\n\r\n")).concat();
    client.send(requests.repeat(8)).await;
    for _ in 0..8 {
        for seed in 0..keys.len() {
            assert!(client.reply().await.body == pattern(seed as u64, 70_000));
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn keys_are_percent_decoded_and_queries_belong_to_them() {
    let node = TestNode::start().await;
    let mut client = node.client().await;
    for (key, body) in
        [("%E2%82%AC%20x", "euro"), ("q", "plain"), ("q?v=1", "query"), ("a//b/", "slashes")]
    {
        assert_eq!(client.put(key, "", body.as_bytes()).await.status, 201, "{key}");
    }
    assert_eq!(client.get("%e2%82%ac%20%78", "").await.text(), "euro");
    assert_eq!(client.get("q", "").await.text(), "plain");
    assert_eq!(client.get("q?v=1", "").await.text(), "query");
    assert_eq!(client.get("q?v=2", "").await.status, 404);
    assert_eq!(client.get("a//b/", "").await.text(), "slashes");
    for bad in ["", "%00", "%zz", "%ff"] {
        client.get(bad, "").await.assert_problem(400);
        client.delete(bad, "").await.assert_problem(400);
    }
    client.get(&"k".repeat(2049), "").await.assert_problem(400);
    assert_eq!(client.get(&"k".repeat(2048), "").await.status, 404);
    node.stop().await;
}

#[tokio::test]
async fn a_put_with_a_wrong_digest_stores_nothing() {
    let node = TestNode::start().await;
    let right = digest::format(&Sha256::digest(b"body").into());
    let wrong = digest::format(&Sha256::digest(b"other").into());
    for field in ["repr-digest", "content-digest"] {
        node.client()
            .await
            .put("d", &format!("{field}: {wrong}\r\n"), b"body")
            .await
            .assert_problem(400);
        node.client()
            .await
            .put("d", &format!("{field}: sha-256=:oops:\r\n"), b"body")
            .await
            .assert_problem(400);
        assert_eq!(node.get("d", "").await.status, 404);
    }
    let reply = node.client().await.put("d", &format!("repr-digest: {right}\r\n"), b"body").await;
    assert_eq!(reply.status, 201);
    assert_eq!(node.get("d", "").await.header("repr-digest"), Some(right.as_str()));
    node.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_here_are_refused() {
    let node = TestNode::start().await;
    for (header, status) in [
        ("cache-control: no-store", 400),
        ("cache-control: max-age=soon", 400),
        ("content-range: bytes 0-3/10", 400),
        ("content-encoding: gzip", 415),
    ] {
        node.client()
            .await
            .put("n", &format!("{header}\r\n"), b"body")
            .await
            .assert_problem(status);
        assert_eq!(node.get("n", "").await.status, 404, "{header}");
    }
    assert_eq!(
        node.client().await.put("n", "content-encoding: identity\r\n", b"body").await.status,
        201
    );
    let tags = (0..17).map(|at| at.to_string()).collect::<Vec<_>>().join(",");
    node.client()
        .await
        .put("t", &format!("cache-tag: {tags}\r\n"), b"body")
        .await
        .assert_problem(400);
    for method in ["POST", "PATCH", "OPTIONS", "TRACE", "MERGE"] {
        let mut client = node.client().await;
        client.send(format!("{method} /n HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n")).await;
        let reply = client.reply().await;
        reply.assert_problem(405);
        assert_eq!(reply.header("allow"), Some("GET, HEAD, PUT, DELETE, PURGE"));
    }
    node.stop().await;
}

#[tokio::test]
async fn tags_and_types_are_kept_and_a_lifetime_of_zero_is_over_at_once() {
    let node = TestNode::start().await;
    let headers = "cache-tag: red, blue\r\ncontent-type: image/test\r\n";
    node.client().await.put("tagged", headers, b"body").await;
    let meta = node.node().state().cache().stat("tagged").await.unwrap().unwrap();
    assert_eq!(
        (meta.tags.as_slice(), meta.content_type.as_deref()),
        (&["red".into(), "blue".into()][..], Some("image/test"))
    );
    node.client().await.put("brief", "cache-control: max-age=0\r\n", b"body").await;
    assert_eq!(node.get("brief", "").await.status, 404);
    node.put("plain", b"body").await;
    assert_eq!(
        node.get("plain", "").await.header("content-type"),
        Some("application/octet-stream")
    );
    node.stop().await;
}

#[tokio::test]
async fn readers_see_the_old_or_the_new_object_and_never_a_mix() {
    const LEN: usize = 200_000;
    let node = TestNode::start_with(|settings| settings.workers = 2).await;
    node.set_zero_copy(mapped(true));
    node.put("k", &pattern(0, LEN)).await;
    let mut writer = node.client().await;
    let writing = async {
        for seed in 1..40 {
            assert_eq!(writer.put("k", "", &pattern(seed, LEN)).await.status, 204);
        }
    };
    let reading = async {
        let mut client = node.client().await;
        let mut newest = 0;
        for _ in 0..200 {
            let reply = client.get("k", "").await;
            let seed = (newest..40)
                .find(|seed| reply.body == pattern(*seed, LEN))
                .expect("one whole body, not older than the last");
            let sha256: [u8; 32] = Sha256::digest(&reply.body).into();
            assert_eq!(
                reply.header("etag"),
                Some(etag::of_digest(&sha256).as_str()),
                "headers and body belong together"
            );
            newest = seed;
        }
    };
    // Each step of them has a time limit of its own.
    tokio::join!(writing, reading);
    node.stop().await;
}
