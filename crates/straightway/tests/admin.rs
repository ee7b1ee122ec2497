//! The admin listener.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use straightway::admin::table::{CACHE, COPIES, ENCODING, FEED, HTTP, Kind, POOL, Stat, ZERO_COPY};
use straightway::buffer::{CopyStats, PoolStats};
use straightway::cache::{CacheStats, ZeroCopyStats};
use straightway::config::settings::Secret;
use straightway::feed::FeedStats;
use support::{Client, TestNode, mapped, pattern};
use tokio::net::TcpStream;

async fn patch(client: &mut Client<TcpStream>, headers: &str, body: &str) -> support::Reply {
    let head = format!(
        "PATCH /api/config HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    client.send(head + body).await;
    client.reply().await
}

#[tokio::test]
async fn statistics_count_what_happened() {
    let node = TestNode::start().await;
    node.set_zero_copy(mapped(true));
    node.put("a", &pattern(1, 100_000)).await;
    let mut client = node.client().await;
    client.get("a", "").await;
    client.get("b", "").await;
    // The next answer on the same connection proves that the one before has been counted.
    client.get("b", "").await;
    let stats = node.admin_client().await.get("api/stats", "").await;
    assert_eq!(stats.header("content-type"), Some("application/json"));
    let stats = stats.json();
    assert_eq!(stats["cache"]["objects"], 1);
    assert_eq!(
        (stats["cache"]["hits"].as_u64(), stats["cache"]["misses"].as_u64()),
        (Some(1), Some(2))
    );
    assert_eq!(stats["zero_copy"]["sendfile_bytes"], 100_000);
    assert_eq!(stats["zero_copy"]["bytes_copied"], 0);
    assert_eq!(stats["http"]["received_bytes"], 100_000);
    // The shape that DESIGN.md promises.
    for name in ["objects", "bytes", "capacity", "hits", "misses", "evictions", "checksum_failures"]
    {
        assert!(stats["cache"][name].is_u64(), "{name}");
    }
    for name in [
        "mmap_reads",
        "mmap_bytes",
        "sendfile_transfers",
        "sendfile_bytes",
        "mmap_skipped",
        "bytes_copied",
        "bytes_served",
    ] {
        assert!(stats["zero_copy"][name].is_u64(), "{name}");
    }
    let pools = stats["pools"].as_object().unwrap();
    assert!(!pools.is_empty());
    for pool in pools.values() {
        for name in ["hits", "misses", "returns", "drops", "bytes_held"] {
            assert!(pool[name].is_u64(), "{name}");
        }
        assert!(pool["hit_rate"].is_f64());
    }
    node.stop().await;
}

#[tokio::test]
async fn every_statistic_is_a_metric() {
    let node = TestNode::start().await;
    node.put("a", b"body").await;
    node.settled().await;
    let metrics = node.admin_client().await.get("metrics", "").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text();
    let name = |group: &str, name: &str, kind: Kind| {
        format!("straightway_{group}_{name}{}", if kind == Kind::Counter { "_total" } else { "" })
    };
    let mut names: Vec<String> =
        CACHE.iter().map(|stat| name("cache", stat.name, stat.kind)).collect();
    names.extend(ZERO_COPY.iter().map(|stat| name("zero_copy", stat.name, stat.kind)));
    names.extend(POOL.iter().map(|stat| name("pool", stat.name, stat.kind)));
    names.extend(COPIES.iter().map(|stat| name("copies", stat.name, stat.kind)));
    names.extend(HTTP.iter().map(|stat| name("http", stat.name, stat.kind)));
    names.extend(FEED.iter().map(|stat| name("feed", stat.name, stat.kind)));
    names.extend(ENCODING.iter().map(|stat| name("encoding", stat.name, stat.kind)));
    for name in names {
        assert!(text.lines().any(|line| line.starts_with(&name)), "{name} is missing");
        assert!(
            text.contains(&format!("# HELP {}", name.trim_end_matches("_total"))),
            "{name} has no help"
        );
    }
    assert!(text.contains(r#"straightway_http_requests_total{method="PUT",status="201"} 1"#));
    assert!(text.contains(r#"straightway_http_latency_seconds_bucket{le="+Inf"} 1"#));
    assert!(text.contains("straightway_cache_objects 1\n"));
    assert!(
        text.contains("straightway_encoding_count_total{type=\"straightway.event\"} 1\n"),
        "{text}"
    );
    assert!(text.trim_end().ends_with("# EOF"));
    node.stop().await;
}

#[tokio::test]
async fn objects_are_listed_page_by_page_with_their_description() {
    let node = TestNode::start().await;
    for at in 0..25 {
        let headers =
            "cache-tag: t1, t2\r\ncontent-type: text/x-test\r\ncache-control: max-age=60\r\n";
        node.client().await.put(&format!("page/{at}"), headers, b"body").await;
    }
    node.put("other", b"body").await;
    let mut client = node.admin_client().await;
    let mut seen = Vec::new();
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let page = client
            .get(&format!("api/objects?prefix=page%2F&limit=10&cursor={from}"), "")
            .await
            .json();
        let objects = page["objects"].as_array().unwrap().clone();
        assert!(objects.len() <= 10);
        seen.extend(objects);
        cursor = page["cursor"].as_u64();
    }
    let mut keys: Vec<&str> = seen.iter().map(|object| object["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((seen.len(), keys.len()), (25, 25));
    let object = &seen[0];
    assert_eq!((&object["len"], &object["content_type"]), (&4.into(), &"text/x-test".into()));
    assert_eq!(object["tags"], serde_json::json!(["t1", "t2"]));
    let lifetime = object["expires_ms"].as_u64().unwrap() - object["stored_ms"].as_u64().unwrap();
    assert_eq!(lifetime, 60_000);
    assert!(object["etag"].as_str().unwrap().starts_with('"'));
    client.get("api/objects?page=2", "").await.assert_problem(400);
    node.stop().await;
}

#[tokio::test]
async fn settings_change_at_run_time_and_only_the_known_ones() {
    let node = TestNode::start().await;
    let mut client = node.admin_client().await;
    let before = client.get("api/config", "").await.json();
    assert_eq!(before["mmap_threshold"], 65536);
    let after = patch(&mut client, "", r#"{"mmap_threshold": 1024, "adaptive": false}"#).await;
    assert_eq!(after.status, 200);
    assert_eq!(
        after.json(),
        serde_json::json!({"mmap_threshold": 1024, "enable_sendfile": true, "adaptive": false})
    );
    for wrong in [
        r#"{"mmap_treshold": 1}"#,
        r#"{"mmap_threshold": "1"}"#,
        r#"{"mmap_threshold": -1}"#,
        "[]",
        "",
    ] {
        patch(&mut client, "", wrong).await.assert_problem(400);
    }
    assert_eq!(client.get("api/config", "").await.json(), after.json());
    node.put("a", &pattern(1, 2000)).await;
    node.get("a", "").await;
    assert_eq!(
        node.node().state().cache().zero_copy_stats().await.pread_reads,
        0,
        "above the new threshold"
    );
    node.stop().await;
}

#[tokio::test]
async fn settings_are_changed_only_with_the_token() {
    let node = TestNode::start_with(|settings| settings.token = Some(Secret::new("t0ken"))).await;
    let mut client = node.admin_client().await;
    patch(&mut client, "", r#"{"adaptive": false}"#).await.assert_problem(401);
    let token = "authorization: Bearer t0ken\r\n";
    assert_eq!(
        patch(&mut node.admin_client().await, token, r#"{"adaptive": false}"#).await.status,
        200
    );
    assert_eq!(client.get("api/config", "").await.status, 200, "reading needs none");
    node.stop().await;
}

#[tokio::test]
async fn health_and_index_and_what_does_not_exist() {
    let node = TestNode::start().await;
    let mut client = node.admin_client().await;
    assert_eq!(client.get("health/live", "").await.status, 200);
    assert_eq!(client.get("health/ready", "").await.status, 200);
    assert!(client.get("api", "").await.text().contains("/api/stats"));
    for (path, content_type) in [
        ("", "text/html; charset=utf-8"),
        ("dashboard.js", "text/javascript; charset=utf-8"),
        ("dashboard.css", "text/css; charset=utf-8"),
        ("feed.js", "text/javascript; charset=utf-8"),
        ("members.js", "text/javascript; charset=utf-8"),
    ] {
        let page = client.get(path, "").await;
        assert_eq!((page.status, page.header("content-type")), (200, Some(content_type)));
        assert!(
            page.header("content-security-policy")
                .is_some_and(|p| p.contains("default-src 'none'"))
        );
    }
    let regions = client.get("api/regions", "").await.json();
    assert!(regions["regions"].as_u64() > Some(0) && regions["segments"].is_array());
    assert_eq!(client.head("metrics", "").await.status, 200);
    client.get("nope", "").await.assert_problem(404);
    let refused = client.delete("metrics", "").await;
    refused.assert_problem(405);
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    node.stop().await;
}

/// The fields of a statistics type, as `Debug` names them.
fn fields(stats: &impl std::fmt::Debug) -> Vec<String> {
    let text = format!("{stats:#?}");
    let names = text.lines().filter_map(|line| line.trim().split_once(": "));
    names.map(|(name, _)| name.to_owned()).collect()
}

fn names<S>(table: &[Stat<S>]) -> Vec<&str> {
    table.iter().map(|stat| stat.name).collect()
}

#[test]
fn no_statistic_is_missing_from_the_table() {
    for field in fields(&FeedStats::default()) {
        assert!(names(FEED).contains(&&*field), "feed {field}");
    }
    assert_eq!(fields(&ZeroCopyStats::default()).len(), 13, "the fields are found");
    for field in fields(&CacheStats::default()) {
        assert!(names(CACHE).contains(&field.as_str()), "CacheStats::{field}");
    }
    for field in fields(&ZeroCopyStats::default()) {
        assert!(names(ZERO_COPY).contains(&field.as_str()), "ZeroCopyStats::{field}");
    }
    for field in fields(&PoolStats::default()) {
        assert!(names(POOL).contains(&field.as_str()), "PoolStats::{field}");
    }
    for field in fields(&CopyStats::default()) {
        assert!(names(COPIES).contains(&field.as_str()), "CopyStats::{field}");
    }
}
