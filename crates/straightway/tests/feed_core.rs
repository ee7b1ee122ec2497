//! The feed by itself, without a node: what it allocates and copies for many subscribers, and what it does not send.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use straightway::codec::event::{EventRef, Kind, Subscribe};
use straightway::codec::{Agreed, Encoding, OptimizerMode};
use straightway::feed::{Feed, FeedLimits, Subscriber};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is counted is counted for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Silence is not what is tested: on a busy machine a ping would come between the events.
fn limits() -> FeedLimits {
    FeedLimits {
        flush_window: Duration::ZERO,
        heartbeat: Duration::from_hours(1),
        ..FeedLimits::default()
    }
}

fn feed() -> Feed {
    Feed::start("test".into(), limits(), OptimizerMode::On).expect("started")
}

/// A subscriber of stored objects, in JSON, without a handshake.
fn subscribe(feed: &Feed, from: Option<u64>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    ours.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let (stream, _) = listener.accept().expect("accepted");
    let wanted = Subscribe { kinds: vec!["stored".into()], from, ..Subscribe::default() };
    let reserved = feed.reserve(&wanted, None).expect("sound").expect("room");
    let agreed = Agreed { subprotocol: None, encoding: Encoding::Json, zstd: false };
    let unread = bytes::Bytes::new();
    feed.join(reserved, Subscriber { stream, unread, agreed, deflate: false, wanted });
    ours
}

fn event(key: &str) -> EventRef<'_> {
    EventRef { kind: Kind::Stored, key, node: "test", ..EventRef::default() }
}

/// Publishes events one by one, each heard by all before the next; answers with allocations and bytes copied.
fn cost(subscribers: usize) -> (u64, u64) {
    let feed = feed();
    let mut sockets: Vec<TcpStream> = (0..subscribers).map(|_| subscribe(&feed, Some(1))).collect();
    let mut room = vec![0; 4096];
    let mut hear = |feed: &Feed, count: usize| {
        for _ in 0..count {
            feed.publish(&event("a/key/of/some/length"));
            for socket in &mut sockets {
                let read = socket.read(&mut room).expect("an event");
                assert!(room[..read].starts_with(&[0x81]));
            }
        }
    };
    // Pools, plans and lists grow to their size.
    hear(&feed, 200);
    let (allocations, copied) =
        (ALLOCATIONS.load(Ordering::Relaxed), straightway::buffer::copied().gather);
    hear(&feed, 50);
    let spent = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let copied = straightway::buffer::copied().gather - copied;
    assert_eq!(feed.stats().json_encoded, 250, "once an event");
    feed.stop();
    (spent, copied)
}

#[test]
fn allocations_do_not_grow_with_subscribers_and_payloads_exist_once() {
    let _alone = alone();
    let (few, _) = cost(5);
    let (many, copied) = cost(200);
    assert!(many <= few + 100, "50 events: {few} allocations for 5 subscribers, {many} for 200");
    assert_eq!(copied, 0, "single events are not copied at all");
}

#[test]
fn what_is_worth_nothing_any_more_is_not_sent() {
    let _alone = alone();
    let feed = feed();
    feed.publish_with(&event("stale"), 1, 1);
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let stale_from = now_ms() + 2;
    while now_ms() < stale_from {
        std::thread::yield_now();
    }
    feed.publish_with(&event("fresh"), 1, 60_000);
    let mut socket = subscribe(&feed, Some(1));
    let mut room = vec![0; 4096];
    let read = socket.read(&mut room).expect("an event");
    let text = String::from_utf8_lossy(&room[2..read]).into_owned();
    assert!(text.contains("\"fresh\"") && !text.contains("\"stale\""), "{text}");
    assert_eq!(feed.stats().expired, 1);
    feed.stop();
}

/// The bound of the history is one on memory, whatever forms are asked for.
#[test]
fn forms_made_on_request_count_as_history() {
    let _alone = alone();
    let limits = FeedLimits { history_bytes: 1 << 20, ..limits() };
    let feed = Feed::start("test".into(), limits, OptimizerMode::On).expect("started");
    let mut socket = subscribe(&feed, Some(1));
    let key = "k".repeat(1000);
    let mut room = vec![0; 64 * 1024];
    for _ in 0..2000 {
        feed.publish(&event(&key));
        let mut heard = 0;
        while heard < 1000 {
            heard += socket.read(&mut room).expect("an event");
        }
    }
    // The rest is JSON, as it is and deflated.
    let stats = feed.stats();
    assert!((1 << 17..600 << 10).contains(&stats.history_bytes), "{stats:?}");
    feed.stop();
}
