//! Ranges over HTTP: single, several, conditional, and by every way out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use straightway::cache::ZeroCopyConfig;
use support::{Client, Reply, TestNode, mapped, pattern};
use tokio::net::TcpStream;

const LEN: usize = 3 * (1 << 20) + 12_345;

async fn stored(node: &TestNode) -> (Client<TcpStream>, Vec<u8>, String) {
    let body = pattern(7, LEN);
    let tag = node.put("r", &body).await.header("etag").unwrap().to_owned();
    (node.client().await, body, tag)
}

#[tokio::test]
async fn single_ranges_by_every_way() {
    let node = TestNode::start().await;
    let (mut client, body, _) = stored(&node).await;
    let copied = ZeroCopyConfig { mmap_threshold: usize::MAX, ..mapped(false) };
    let mib = 1 << 20;
    for config in [mapped(true), mapped(false), copied] {
        node.set_zero_copy(config);
        for (first, last) in [
            (0, 0),
            (1, 10),
            (mib - 1, mib),
            (mib - 5, 3 * mib + 5),
            (LEN - 1, LEN - 1),
            (0, LEN - 1),
        ] {
            let reply = client.get("r", &format!("range: bytes={first}-{last}\r\n")).await;
            assert_eq!(reply.status, 206);
            assert_eq!(
                reply.header("content-range"),
                Some(format!("bytes {first}-{last}/{LEN}").as_str())
            );
            assert!(reply.body == body[first..=last], "{first}-{last} with {config:?}");
            assert_eq!(reply.header("accept-ranges"), Some("bytes"));
        }
        let suffix = client.get("r", "range: bytes=-100\r\n").await;
        assert!(suffix.status == 206 && suffix.body == body[LEN - 100..]);
    }
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_satisfied_is_416_and_what_cannot_be_read_is_ignored() {
    let node = TestNode::start().await;
    let (mut client, body, _) = stored(&node).await;
    let reply = client.get("r", &format!("range: bytes={LEN}-\r\n")).await;
    reply.assert_problem(416);
    assert_eq!(reply.header("content-range"), Some(format!("bytes */{LEN}").as_str()));
    for ignored in ["bytes=9-0", "lines=0-9", "bytes=0-9\r\nrange: bytes=0-9"] {
        let reply = client.get("r", &format!("range: {ignored}\r\n")).await;
        assert!(reply.status == 200 && reply.body == body, "{ignored}");
    }
    let head = client.head("r", "range: bytes=0-9\r\n").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(LEN.to_string().as_str())));
    assert_eq!(client.get("missing", "range: bytes=0-9\r\n").await.status, 404);
    node.stop().await;
}

#[tokio::test]
async fn several_ranges_come_as_parts_in_the_order_of_the_request() {
    let node = TestNode::start().await;
    let (mut client, body, _) = stored(&node).await;
    let copied = ZeroCopyConfig { mmap_threshold: usize::MAX, ..mapped(false) };
    for config in [mapped(true), mapped(false), copied] {
        node.set_zero_copy(config);
        let asked = [(2_000_000, 3_100_000), (0, 0), (500_000, 500_099), (LEN - 7, LEN - 1)];
        let specs = asked.map(|(first, last)| format!("{first}-{last}")).join(",");
        let reply = client.get("r", &format!("range: bytes={specs}\r\n")).await;
        assert_eq!(reply.status, 206);
        assert_eq!(reply.header("content-range"), None, "belongs to the parts");
        let parts = parts(&reply);
        assert_eq!(parts.len(), asked.len());
        for ((first, last), (range, bytes)) in asked.into_iter().zip(&parts) {
            assert_eq!(*range, format!("bytes {first}-{last}/{LEN}"));
            assert!(*bytes == body[first..=last], "{first}-{last} with {config:?}");
        }
    }
    let merged = client.get("r", "range: bytes=0-9,5-19\r\n").await;
    assert_eq!(
        (merged.status, merged.header("content-range")),
        (206, Some(format!("bytes 0-19/{LEN}").as_str()))
    );
    assert!(merged.body == body[..20]);
    node.stop().await;
}

/// Takes a multipart body apart, strictly (RFC 2046 §5.1).
fn parts(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let boundary = reply
        .header("content-type")
        .unwrap()
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = reply.body.strip_prefix(delimiter.as_bytes()).expect("a delimiter first");
    let mut parts = Vec::new();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head_end = part.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&part[..head_end]).unwrap();
        assert!(head.contains("content-type: application/octet-stream"), "{head}");
        let range =
            head.lines().find_map(|line| line.strip_prefix("content-range: ")).unwrap().to_owned();
        let numbers: Vec<usize> = range
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| !digits.is_empty())
            .map(|n| n.parse().unwrap())
            .collect();
        let body_start = head_end + 4;
        let body_end = body_start + numbers[1] - numbers[0] + 1;
        parts.push((range, part[body_start..body_end].to_vec()));
        rest = part[body_end..]
            .strip_prefix(delimiter.as_bytes())
            .expect("a delimiter behind each part");
    }
    assert_eq!(rest, b"--\r\n", "the last delimiter ends the body");
    parts
}

#[tokio::test]
async fn if_range_gives_the_rest_only_of_the_same_bytes() {
    let node = TestNode::start().await;
    let (mut client, body, tag) = stored(&node).await;
    let same = client.get("r", &format!("range: bytes=10-\r\nif-range: {tag}\r\n")).await;
    assert!(same.status == 206 && same.body == body[10..]);
    let modified = same.header("last-modified").unwrap().to_owned();
    for other in [r#""other""#.to_owned(), format!("W/{tag}"), modified] {
        let reply = client.get("r", &format!("range: bytes=10-\r\nif-range: {other}\r\n")).await;
        assert!(reply.status == 200 && reply.body == body, "{other}");
    }
    client.put("r", "", b"changed").await;
    let changed = client.get("r", &format!("range: bytes=3-\r\nif-range: {tag}\r\n")).await;
    assert_eq!((changed.status, changed.text()), (200, "changed"));
    node.stop().await;
}
