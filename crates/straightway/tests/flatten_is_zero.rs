//! Bodies leave the node without passing through its memory: counted, not timed.
//!
//! hyper copies a body behind its head when it believes that the socket cannot take slices; that copy would read the
//! mapping in user code. The socket counts long slices outside the mapping that arrive in a body handed over mapped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use straightway::cache::ZeroCopyConfig;
use support::{TestNode, mapped, pattern};

const SIZES: [usize; 5] = [65_536, 65_537, 1 << 20, (1 << 20) + 1, 5 << 20];

async fn fetch_everything(node: &TestNode) {
    let mut client = node.client().await;
    for size in SIZES {
        let body = pattern(size as u64, size);
        let key = size.to_string();
        for _ in 0..3 {
            assert!(client.get(&key, "").await.body == body);
        }
        let half = client.get(&key, &format!("range: bytes={}-\r\n", size / 2)).await;
        assert!(half.body == body[size / 2..]);
        assert_eq!(client.get(&key, "range: bytes=0-20000,40000-65535\r\n").await.status, 206);
        // Several answers in one read: a queue in hyper that must not be flattened either.
        client.send(format!("GET /{key} HTTP/1.1\r\nhost: t\r\n\r\n").repeat(3)).await;
        for _ in 0..3 {
            assert!(client.reply().await.body == body);
        }
    }
}

#[tokio::test]
async fn no_byte_of_a_mapped_body_is_copied_by_the_node() {
    let node = TestNode::start().await;
    for size in SIZES {
        node.put(&size.to_string(), &pattern(size as u64, size)).await;
    }
    let before = node.node().state().cache().zero_copy_stats().await;
    for config in [mapped(true), mapped(false), ZeroCopyConfig { adaptive: true, ..mapped(true) }] {
        node.set_zero_copy(config);
        fetch_everything(&node).await;
    }
    node.settled().await;
    let after = node.node().state().cache().zero_copy_stats().await;
    let http = node.http();
    assert_eq!((http.flattened_bytes, http.mapped_bytes_refused), (0, 0));
    assert_eq!(after.pread_reads, before.pread_reads);
    let total: u64 = SIZES.iter().map(|size| *size as u64).sum();
    assert!(
        after.bytes_served - before.bytes_served > 6 * 3 * total,
        "all of it was counted as served"
    );
    assert!(
        after.sendfile_bytes - before.sendfile_bytes > 6 * total,
        "sendfile was used where it was asked for"
    );
    assert!(after.writev_bytes - before.writev_bytes > 6 * total, "and the mapping where that was");
    node.stop().await;
}

#[tokio::test]
async fn a_copied_body_is_not_taken_for_a_mapped_one() {
    let node = TestNode::start().await;
    node.put("k", &pattern(1, 60_000)).await;
    let before = node.node().state().cache().zero_copy_stats().await;
    node.set_zero_copy(ZeroCopyConfig {
        mmap_threshold: usize::MAX,
        enable_sendfile: true,
        adaptive: false,
    });
    assert!(node.get("k", "").await.body == pattern(1, 60_000));
    node.settled().await;
    let after = node.node().state().cache().zero_copy_stats().await;
    assert_eq!(after.sendfile_transfers, before.sendfile_transfers);
    assert_eq!(after.pread_bytes - before.pread_bytes, 60_000);
    assert_eq!(node.http().flattened_bytes, 0, "a copy that was asked for is none of hyper's");
    node.stop().await;
}
