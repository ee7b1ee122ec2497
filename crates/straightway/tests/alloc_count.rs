//! Heap allocations of a hot GET: few, and no more for a large object than for a small one.
//!
//! The allocator counts what the network thread allocates, found by its name; the client's own allocations are on another
//! thread. One test in this binary, so that nothing else runs on such a thread.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::{TestNode, mapped, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Counting;

static ARMED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// 0: not looked yet; 1: a network thread; 2: another one.
    static KIND: Cell<u8> = const { Cell::new(0) };
}

fn on_network_thread() -> bool {
    KIND.with(|kind| {
        if kind.get() == 0 {
            // Looking may allocate: until it is done, this thread counts as another one.
            kind.set(2);
            let network =
                std::thread::current().name().is_some_and(|name| name.starts_with("net-"));
            kind.set(if network { 1 } else { 2 });
        }
        kind.get() == 1
    })
}

fn count(bytes: usize) {
    if ARMED.load(Ordering::Relaxed) && on_network_thread() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to `System` unchanged; counting touches nothing that it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises about `layout` are `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: `pointer` came from `System` with this layout, as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Requests that are counted together.
const REQUESTS: u64 = 100;

/// Allocations and allocated bytes of one hot GET, averaged.
async fn cost(node: &TestNode, key: &str, len: usize) -> (u64, u64) {
    let mut client = node.client().await;
    let request = format!("GET /{key} HTTP/1.1\r\nhost: t\r\n\r\n");
    let head = {
        client.send(&request).await;
        let reply = client.reply().await;
        assert_eq!(reply.body.len(), len);
        client.send(&request).await;
        let mut answer = Vec::<u8>::with_capacity(len + 4096);
        // The length of the head, so that later answers can be read without being parsed.
        let head = loop {
            if let Some(at) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(client.stream().read_buf(&mut answer).await.unwrap() > 0, "an answer");
        };
        while answer.len() < head + len {
            assert!(client.stream().read_buf(&mut answer).await.unwrap() > 0, "the rest of it");
        }
        head
    };
    let mut scratch = vec![0; 1 << 20];
    let stream = client.stream();
    let (allocations, bytes) = (ALLOCATIONS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
    ARMED.store(true, Ordering::SeqCst);
    for _ in 0..REQUESTS {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut got = 0;
        // `Age` may grow by a digit in between; an answer is never shorter than the first.
        while got < head + len {
            got += stream.read(&mut scratch).await.unwrap();
        }
    }
    ARMED.store(false, Ordering::SeqCst);
    let per_request = |counter: &AtomicU64, before: u64| {
        (counter.load(Ordering::SeqCst) - before).div_ceil(REQUESTS)
    };
    (per_request(&ALLOCATIONS, allocations), per_request(&BYTES, bytes))
}

#[tokio::test]
async fn a_hot_get_allocates_little_whatever_the_size() {
    let node = TestNode::start_with(|settings| settings.max_object = Some(8 << 20)).await;
    let sizes = [1 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
    for size in sizes {
        node.put(&size.to_string(), &pattern(size as u64, size)).await;
    }
    for sendfile in [true, false] {
        node.set_zero_copy(mapped(sendfile));
        let mut costs = Vec::new();
        for size in sizes {
            let (allocations, bytes) = cost(&node, &size.to_string(), size).await;
            costs.push((allocations, bytes));
        }
        println!("(allocations, bytes) a request at {sizes:?}, sendfile {sendfile}: {costs:?}");
        for ((allocations, bytes), size) in costs.iter().zip(sizes) {
            assert!(*allocations <= 12, "{allocations} allocations for {size} bytes");
            assert!(*bytes <= 4096, "{bytes} bytes allocated for {size} bytes");
        }
        let counts = costs.iter().map(|(allocations, _)| *allocations);
        let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
        assert!(most - least <= 4, "{costs:?}");
    }
    node.stop().await;
}
