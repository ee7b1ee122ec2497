//! Preconditions over HTTP. Their logic is tested by table in `decisions.rs`; here it meets real objects.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use support::{TestNode, within};

#[tokio::test]
async fn reads_are_answered_with_304_or_412() {
    let node = TestNode::start().await;
    let tag = node.put("c", b"body").await.header("etag").unwrap().to_owned();
    let mut client = node.client().await;
    let fresh = client.get("c", &format!("if-none-match: {tag}\r\n")).await;
    assert_eq!(fresh.status, 304);
    assert_eq!(fresh.header("etag"), Some(tag.as_str()));
    assert!(fresh.header("last-modified").is_some() && fresh.header("date").is_some());
    assert_eq!(
        fresh.header("content-type"),
        None,
        "304 repeats validators, not the representation"
    );
    assert_eq!(client.head("c", &format!("if-none-match: {tag}\r\n")).await.status, 304);
    let modified = client.get("c", "").await.header("last-modified").unwrap().to_owned();
    assert_eq!(client.get("c", &format!("if-modified-since: {modified}\r\n")).await.status, 304);
    let old = "if-modified-since: Sat, 01 Jan 2000 00:00:00 GMT\r\n";
    assert_eq!(client.get("c", old).await.text(), "body");
    client.get("c", "if-match: \"other\"\r\n").await.assert_problem(412);
    assert_eq!(client.get("c", &format!("if-match: {tag}\r\n")).await.text(), "body");
    // A precondition is looked at only where the request would otherwise succeed.
    assert_eq!(client.get("missing", "if-match: *\r\n").await.status, 404);
    node.stop().await;
}

#[tokio::test]
async fn stores_happen_only_under_their_condition() {
    let node = TestNode::start().await;
    let put = async |headers: String, body: &'static str| {
        node.client().await.put("c", &headers, body.as_bytes()).await
    };
    put("if-match: *\r\n".into(), "never").await.assert_problem(412);
    assert_eq!(put("if-none-match: *\r\n".into(), "one").await.status, 201);
    put("if-none-match: *\r\n".into(), "never").await.assert_problem(412);
    let tag = node.get("c", "").await.header("etag").unwrap().to_owned();
    put("if-match: \"other\"\r\n".into(), "never").await.assert_problem(412);
    let replaced = put(format!("if-match: \"x\", {tag}\r\n"), "two").await;
    assert_eq!(replaced.status, 204);
    put(format!("if-match: {tag}\r\n"), "never").await.assert_problem(412);
    assert_eq!(node.get("c", "").await.text(), "two");
    put("if-unmodified-since: Sat, 01 Jan 2000 00:00:00 GMT\r\n".into(), "never")
        .await
        .assert_problem(412);
    node.stop().await;
}

#[tokio::test]
async fn removals_happen_only_under_their_condition() {
    let node = TestNode::start().await;
    let tag = node.put("c", b"body").await.header("etag").unwrap().to_owned();
    let mut client = node.client().await;
    client.delete("c", "if-match: \"other\"\r\n").await.assert_problem(412);
    assert_eq!(client.get("c", "").await.text(), "body");
    assert_eq!(client.delete("c", &format!("if-match: {tag}\r\n")).await.status, 204);
    client.delete("c", &format!("if-match: {tag}\r\n")).await.assert_problem(404);
    node.stop().await;
}

#[tokio::test]
async fn of_many_stores_under_the_same_condition_one_wins() {
    let node = TestNode::start_with(|settings| settings.workers = 2).await;
    let first = |at: usize| {
        let node = &node;
        async move {
            node.client()
                .await
                .put("race", "if-none-match: *\r\n", format!("{at}").as_bytes())
                .await
                .status
        }
    };
    let statuses = within(futures_util::future::join_all((0..16).map(first))).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 201 | 412)), "{statuses:?}");
    let winner = statuses.iter().position(|status| *status == 201).unwrap();
    let now = node.get("race", "").await;
    assert_eq!(now.text(), winner.to_string());

    let tag = now.header("etag").unwrap().to_owned();
    let swap = |at: usize| {
        let (node, tag) = (&node, &tag);
        async move {
            node.client()
                .await
                .put("race", &format!("if-match: {tag}\r\n"), format!("swap {at}").as_bytes())
                .await
                .status
        }
    };
    let statuses = within(futures_util::future::join_all((0..16).map(swap))).await;
    assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 1, "{statuses:?}");
    node.stop().await;
}
