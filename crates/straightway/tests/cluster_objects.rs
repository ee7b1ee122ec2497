//! Three nodes, one ticket: what is put on any of them is served by all, and what is removed is gone from all.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod cluster;
mod process;

use cluster::Nodes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use process::body_of;

#[test]
fn put_anywhere_get_everywhere_purge_for_good() {
    let nodes = Nodes::start(3);
    // Small, of the size of a chunk, larger than the mapping's window.
    for (at, len) in [(0, 0), (0, 100), (1, 65_536), (2, 3_000_000), (1, 17_000_001)] {
        let path = format!("/object-{at}-{len}");
        let body = body_of(&path, 1, len);
        let put = nodes.client(at).request("PUT", &path, &[("cache-tag", "a, b")], Some(&body));
        assert_eq!(put.expect("an answer").status, 201, "{path}");
        for reader in 0..3 {
            let answer = nodes.client(reader).get(&path).expect("an answer");
            assert_eq!(answer.status, 200, "{path} from node {reader}");
            assert_eq!(answer.body, body, "{path} from node {reader}");
            let head = nodes.client(reader).request("HEAD", &path, &[], None).expect("a head");
            assert_eq!(head.header("content-length"), Some(len.to_string().as_str()));
            assert_eq!(head.header("etag"), answer.header("etag"));
        }
        let replaced = nodes.client((at + 1) % 3).put(&path, b"another").expect("an answer");
        assert_eq!(replaced, 204, "{path}");
        let linearizable = [("consistency", "linearizable")];
        let answer =
            nodes.client(at).request("GET", &path, &linearizable, None).expect("an answer");
        assert_eq!(answer.body, b"another", "{path}");
    }
    let ranged =
        nodes.client(2).request("PUT", "/ranged", &[], Some(&body_of("/ranged", 1, 200_000)));
    assert_eq!(ranged.expect("an answer").status, 201);
    for reader in 0..3 {
        let range = [("range", "bytes=70000-70009")];
        let answer =
            nodes.client(reader).request("GET", "/ranged", &range, None).expect("an answer");
        assert_eq!(
            (answer.status, &answer.body[..]),
            (206, &body_of("/ranged", 1, 200_000)[70_000..70_010])
        );
    }

    // Removal by each way there is: acknowledged means gone everywhere.
    for (at, key) in ["k0", "k1", "k2"].into_iter().enumerate() {
        assert_eq!(nodes.client(at).put(&format!("/{key}"), key.as_bytes()).expect("put"), 201);
    }
    assert_eq!(nodes.client(1).delete("/k0").expect("delete"), 204);
    assert_eq!(nodes.client(2).delete("/k0").expect("delete"), 404);
    assert_eq!(nodes.client(0).request("PURGE", "/k1", &[], None).expect("purge").status, 200);
    assert_eq!(nodes.purge(2, r#"{"prefix": "k"}"#).expect("purge").1["purged"], 1);
    for reader in 0..3 {
        for key in ["/k0", "/k1", "/k2"] {
            assert_eq!(
                nodes.client(reader).get(key).expect("get").status,
                404,
                "{key} from {reader}"
            );
        }
    }
    let tagged = [("cache-tag", "red")];
    nodes.client(0).request("PUT", "/t", &tagged, Some(b"t")).expect("put");
    assert_eq!(nodes.purge(1, r#"{"tag": "red"}"#).expect("purge").1["purged"], 1);
    assert_eq!(nodes.client(2).get("/t").expect("get").status, 404);
    let (status, purged) = nodes.purge(2, r#"{"all": true}"#).expect("purge");
    assert_eq!(status, 200);
    assert_eq!(purged["purged"], 6);
    for reader in 0..3 {
        assert_eq!(nodes.client(reader).get("/ranged").expect("get").status, 404);
    }

    // Conditions are judged where the change takes effect.
    let absent = [("if-none-match", "*")];
    let first = nodes.client(0).request("PUT", "/once", &absent, Some(b"1")).expect("put");
    assert_eq!(first.status, 201);
    let second = nodes.client(1).request("PUT", "/once", &absent, Some(b"2")).expect("put");
    assert_eq!(second.status, 412);
    let etag = first.header("etag").expect("a tag").to_owned();
    let matching = [("if-match", etag.as_str())];
    let third = nodes.client(2).request("PUT", "/once", &matching, Some(b"3")).expect("put");
    assert_eq!(third.status, 204);
    let late = nodes.client(0).request("PUT", "/once", &matching, Some(b"4")).expect("put");
    assert_eq!(late.status, 412);
}

#[test]
fn a_node_that_must_ask_a_majority_for_everything_is_not_ready() {
    let mut nodes = Nodes::start(3);
    nodes.wait_for("it is ready", |nodes| nodes.ready(0) == Some(200));
    nodes.kill(1);
    nodes.kill(2);
    nodes.wait_for("its lease is over", |nodes| nodes.ready(0) == Some(503));
    nodes.restart(1);
    nodes.wait_for("it is ready again", |nodes| nodes.ready(0) == Some(200));
}

#[test]
fn more_keys_than_a_page_holds_are_listed_and_nonsense_is_refused_at_once() {
    let nodes = Nodes::start(1);
    let mut client = nodes.client(0);
    let keys: Vec<_> = (0..25).map(|n| format!("page/{n:02}+&é")).collect();
    for key in &keys {
        let path = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string();
        assert_eq!(client.put(&format!("/{path}"), b"x").expect("an answer"), 201);
    }
    let mut admin = process::Client::connect(nodes.node(0).admin).expect("it accepts");
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/api/objects?prefix=page&limit=10{cursor}"));
        let page: serde_json::Value =
            serde_json::from_slice(&page.expect("an answer").body).expect("JSON");
        let objects = page["objects"].as_array().expect("objects");
        found.extend(objects.iter().map(|one| one["key"].as_str().expect("a key").to_owned()));
        pages += 1;
        let Some(last) = page["cursor"].as_str() else { break };
        cursor = format!("&cursor={}", utf8_percent_encode(last, NON_ALPHANUMERIC));
    }
    assert_eq!((found, pages), (keys, 3));
    let listed = nodes.cli(0, &["ls", "page"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 25);

    let tags = vec!["t"; 65].join(",");
    let answer = client.request("PUT", "/tagged", &[("cache-tag", &tags)], Some(b"x"));
    let answer = answer.expect("an answer");
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 400 && said.contains("64"), "{}: {said}", answer.status);
}
