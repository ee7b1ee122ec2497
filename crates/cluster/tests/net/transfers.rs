//! Objects and snapshots between members.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use straightway_buffer::copied;
use straightway_cluster::memory::{Fault, MemoryStore};
use straightway_cluster::net::{NetLimits, TransferSort};
use straightway_cluster::transfer::{
    ChunkSource, OpenSnapshot, ReaderSource, SnapshotMark, SnapshotStore, TransferServer, Transfers,
};
use straightway_cluster::{BoxFuture, ClusterError, ObjectId, ObjectInfo, ObjectStore, StoreError};
use tokio::sync::mpsc;

use crate::support::{Node, Start, cluster, soon, until};

/// A whole object.
const ALL: (u64, Option<u64>) = (0, None);
const ID: ObjectId = ObjectId { node: 1, serial: 7 };

type Kept = Arc<Mutex<Option<(SnapshotMark, Vec<u8>)>>>;

/// Keeps one snapshot, and counts those that are read at the same time.
#[derive(Debug, Default)]
struct Snapshots {
    kept: Kept,
    open: Arc<AtomicUsize>,
    most: AtomicUsize,
}

struct Source {
    chunks: std::vec::IntoIter<Bytes>,
    /// `None`: it has been read to its end, before whoever asked for it can know.
    open: Option<Open>,
}

/// Counts as one that is read.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ChunkSource for Source {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            let chunk = self.chunks.next();
            if chunk.is_none() {
                self.open = None;
            }
            Ok(chunk)
        })
    }
}

impl SnapshotStore for Snapshots {
    fn open(&self, index: u64) -> BoxFuture<'_, Result<Option<OpenSnapshot>, StoreError>> {
        Box::pin(async move {
            let kept = self.kept.lock().clone();
            let Some((mark, bytes)) = kept.filter(|(mark, _)| index == 0 || mark.index == index)
            else {
                return Ok(None);
            };
            let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(open, Ordering::SeqCst);
            let chunks = bytes.chunks(100_000).map(Bytes::copy_from_slice).collect::<Vec<_>>();
            let open = Some(Open(Arc::clone(&self.open)));
            let source = Source { chunks: chunks.into_iter(), open };
            Ok(Some((mark, Box::new(source) as Box<dyn ChunkSource>)))
        })
    }
}

/// Two members, the second with a store to be looked at.
struct Pair {
    nodes: Vec<Node>,
    transfers: Transfers,
    store: MemoryStore,
    server: Arc<TransferServer>,
    snapshots: Arc<Snapshots>,
}

async fn pair() -> Pair {
    let (store, snapshots) = (MemoryStore::new(), Arc::new(Snapshots::default()));
    let held: Arc<Snapshots> = Arc::clone(&snapshots);
    let server = Arc::new(TransferServer::new(Arc::new(store.clone()), held));
    let limits = NetLimits { transfers: 2, ..Start::new(1).limits };
    let first = Start { limits: limits.clone(), ..Start::new(1) };
    let handler: Arc<TransferServer> = Arc::clone(&server);
    let second = Start { limits, bulk: handler, ..Start::new(2) };
    let nodes = Box::pin(cluster([first, second])).await;
    let transfers = Transfers::new(nodes[0].network.clone());
    Pair { nodes, transfers, store, server, snapshots }
}

fn body(len: usize) -> Bytes {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

fn info() -> ObjectInfo {
    ObjectInfo {
        key: "films/one".to_owned(),
        content_type: "video/mp4".to_owned(),
        tags: vec!["films".to_owned()],
        expires_ms: 99,
        ..ObjectInfo::default()
    }
}

/// What is stored under [`ID`], as a source.
async fn stored(store: &MemoryStore) -> ReaderSource {
    let reader = store.open(ID).await.expect("no fault").expect("there");
    ReaderSource::new(reader.into())
}

/// A source that never ends, or fails.
/// Bytes that are sent as they come in.
struct ChannelSource(mpsc::Receiver<Result<Bytes, StoreError>>);

impl ChannelSource {
    /// What is sent last: no bytes.
    const END: Bytes = Bytes::new();
}

impl ChunkSource for ChannelSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async {
            let source = "it ended too early".into();
            let early = StoreError::Failed { what: "reading what is to be stored", source };
            Ok(Some(self.0.recv().await.unwrap_or(Err(early))?).filter(|chunk| !chunk.is_empty()))
        })
    }
}

fn channel() -> (mpsc::Sender<Result<Bytes, StoreError>>, ChannelSource) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, ChannelSource(receiver))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_arrives_as_it_was_both_ways_and_is_copied_once() {
    const LEN: usize = 64 << 20;
    let pair = pair().await;
    let (ours, bytes) = (MemoryStore::new(), body(LEN));
    let known = ours.insert(ID, info(), bytes.clone());
    let before = copied().cursor;
    let mut source = stored(&ours).await;
    let pushed = pair.transfers.push(2, ID, &known, &mut source);
    assert_eq!(Some(soon("the push", pushed).await.expect("stored")), known.digest);
    let (found, there) = pair.store.get(ID).expect("stored");
    assert!(found == known && there == bytes);

    let mut pull = soon("the pull", pair.transfers.pull(2, ID, ALL, TransferSort::Store))
        .await
        .expect("found");
    assert_eq!(pull.about(), &known);
    let (mut hasher, mut len) = (Sha256::new(), 0);
    while let Some(chunk) = soon("a chunk", pull.next_chunk()).await.expect("right") {
        hasher.update(&chunk);
        len += chunk.len();
    }
    let digest: [u8; 32] = hasher.finalize().into();
    assert_eq!((len, Some(digest)), (LEN, known.digest));
    let gathered = copied().cursor - before;
    assert!(gathered >= 2 * LEN as u64, "{gathered}");
    if std::env::var_os("NEXTEST").is_some() {
        // Nothing else runs in this process. What is said beside a body is counted elsewhere.
        assert_eq!(gathered, 2 * LEN as u64, "once for each way, on arrival");
    }
    // Counted when all was handed over, which may have been read by then.
    until("the end to be counted", || pair.server.stats().sent > 0).await;
    let stats = pair.server.stats();
    assert_eq!((stats.stored, stats.sent, stats.failed), (1, 1, 0));
    assert_eq!((stats.bytes_in, stats.bytes_out), (LEN as u64, LEN as u64));
    assert_eq!(pair.nodes[0].network.peer_stats()[0].append.dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_sent_on_while_it_comes_in() {
    let pair = pair().await;
    let (sender, mut source) = channel();
    let bytes = body(1_000_000);
    let transfers = pair.transfers.clone();
    let pushed = tokio::spawn(async move { transfers.push(2, ID, &info(), &mut source).await });
    for piece in bytes.chunks(77_777) {
        sender.send(Ok(Bytes::copy_from_slice(piece))).await.expect("wanted");
    }
    assert!(!pushed.is_finished() && pair.store.is_empty(), "not before its end");
    sender.send(Ok(ChannelSource::END)).await.expect("wanted");
    let digest = soon("the push", pushed).await.expect("no panic").expect("stored");
    let expected: [u8; 32] = Sha256::digest(&bytes).into();
    assert_eq!(digest, expected);
    let (found, there) = pair.store.get(ID).expect("stored");
    assert_eq!((found.len, found.digest, found.key), (Some(1_000_000), Some(digest), info().key));
    assert_eq!(there, bytes);

    // From an offset on, and beyond the end.
    for offset in [0, 1, 65_536, 999_999, 1_000_000, 2_000_000] {
        let mut pull =
            pair.transfers.pull(2, ID, (offset, None), TransferSort::Store).await.expect("found");
        let mut found = Vec::new();
        while let Some(chunk) = soon("a chunk", pull.next_chunk()).await.expect("right") {
            found.extend_from_slice(&chunk);
        }
        let offset = usize::try_from(offset).expect("small").min(bytes.len());
        assert!(found == bytes[offset..], "{offset}");
    }
    for (offset, len, end) in [(0, 10, 10), (70_000, 200_000, 270_000), (999_999, 5, 1_000_000)] {
        let from = (u64::try_from(offset).expect("small"), Some(len));
        let pull = pair.transfers.pull(2, ID, from, TransferSort::Read).await;
        let mut pull = pull.expect("found");
        let mut found = Vec::new();
        while let Some(chunk) = soon("a chunk", pull.next_chunk()).await.expect("right") {
            found.extend_from_slice(&chunk);
        }
        assert!(found == bytes[offset..end], "{len} from {offset}");
    }
    let missing = pair
        .transfers
        .pull(2, ObjectId { serial: 8, ..ID }, ALL, TransferSort::Store)
        .await
        .expect_err("missing");
    assert!(missing.to_string().contains("not there"), "{missing}");
    let nobody = pair.transfers.pull(9, ID, ALL, TransferSort::Store).await.expect_err("nobody");
    assert!(matches!(nobody, ClusterError::Unreachable { peer: 9, .. }), "{nobody}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_was_announced_is_kept_by_nobody() {
    let pair = pair().await;
    let ours = MemoryStore::new();
    let known = ours.insert(ID, info(), body(300_000));
    let push = async |announced: &ObjectInfo| {
        let mut source = stored(&ours).await;
        soon("the push", pair.transfers.push(2, ID, announced, &mut source)).await
    };
    // Read wrongly, longer or shorter than announced.
    ours.fail(Fault::Corrupt);
    let mut failures = vec![push(&known).await];
    ours.fail(Fault::None);
    for len in [299_999, 300_001] {
        failures.push(push(&ObjectInfo { len: Some(len), ..known.clone() }).await);
    }
    for failure in failures {
        assert!(matches!(failure, Err(ClusterError::Store(StoreError::Digest))), "{failure:?}");
    }
    assert!(pair.store.is_empty());
    assert_eq!(pair.store.aborted(), 3);

    // The same when it is fetched.
    let known = pair.store.insert(ID, info(), body(300_000));
    pair.store.fail(Fault::Corrupt);
    let mut pull = pair.transfers.pull(2, ID, ALL, TransferSort::Store).await.expect("found");
    assert_eq!(pull.about(), &known);
    let end = loop {
        match soon("a chunk", pull.next_chunk()).await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(ClusterError::Store(StoreError::Digest))), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_says_so_before_all_was_sent() {
    let pair = pair().await;
    pair.store.fail(Fault::Full(1_000_000));
    // Before the first byte, as the length is known.
    let announced = ObjectInfo { len: Some(2_000_000), ..info() };
    let (sender, mut source) = channel();
    let full = soon("an answer", pair.transfers.push(2, ID, &announced, &mut source)).await;
    assert!(
        matches!(full, Err(ClusterError::Store(StoreError::Full { len: Some(2_000_000) }))),
        "{full:?}"
    );
    drop(sender);
    // On the way, while a source without end goes on.
    let (sender, mut source) = channel();
    let endless = async { while sender.send(Ok(body(100_000))).await.is_ok() {} };
    let transfers = pair.transfers.clone();
    let push = async move {
        let full = transfers.push(2, ID, &info(), &mut source).await;
        drop(source);
        full
    };
    let (full, ()) = soon("an answer", async { tokio::join!(push, endless) }).await;
    assert!(matches!(full, Err(ClusterError::Store(StoreError::Full { .. }))), "{full:?}");
    assert!(pair.store.is_empty());
    assert_eq!(pair.server.stats().failed, 2);
    // There is room again.
    pair.store.fail(Fault::None);
    let ours = MemoryStore::new();
    let known = ours.insert(ID, info(), body(10));
    let mut source = stored(&ours).await;
    pair.transfers.push(2, ID, &known, &mut source).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_vanishes_leaves_nothing_behind() {
    let pair = pair().await;
    let known = pair.store.insert(ID, info(), body(8 << 20));
    // More than may be under way at once: each makes room for the next.
    for round in 1..=5 {
        let mut pull = soon("the pull", pair.transfers.pull(2, ID, ALL, TransferSort::Store))
            .await
            .expect("found");
        assert!(soon("a chunk", pull.next_chunk()).await.expect("right").is_some());
        drop(pull);
        until("the server to notice", || pair.server.stats().failed == round).await;
    }
    let other = ObjectId { serial: 8, ..ID };
    for round in 1..=5 {
        let (sender, mut source) = channel();
        let transfers = pair.transfers.clone();
        let push =
            tokio::spawn(async move { transfers.push(2, other, &info(), &mut source).await });
        sender.send(Ok(body(200_000))).await.expect("wanted");
        until("the bytes over there", || pair.server.stats().bytes_in == round * 200_000).await;
        push.abort();
        until("the store to notice", || pair.store.aborted() == round).await;
    }
    // The client of ours fails, and says so.
    let (sender, mut source) = channel();
    drop(sender);
    let failed = soon("the push", pair.transfers.push(2, other, &info(), &mut source)).await;
    assert!(matches!(failed, Err(ClusterError::Store(StoreError::Failed { .. }))), "{failed:?}");
    until("the store to notice", || pair.store.aborted() == 6).await;
    assert_eq!((pair.store.len(), known.len), (1, Some(8 << 20)));
    // The peer goes in the middle.
    let mut pull = soon("the pull", pair.transfers.pull(2, ID, ALL, TransferSort::Store))
        .await
        .expect("found");
    pair.nodes[1].network.close().await;
    let end = loop {
        match soon("a chunk", pull.next_chunk()).await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(ClusterError::Unreachable { peer: 2, .. })), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_its_own_stream_only() {
    let pair = pair().await;
    let bytes = body(16 << 20);
    pair.store.insert(ID, info(), bytes.clone());
    let other = ObjectId { serial: 8, ..ID };
    pair.store.insert(other, info(), body(4 << 20));
    // Nothing of these is read while the other one comes through: they are all that clients may have at a time here.
    let pull = |from| pair.transfers.pull(2, ID, from, TransferSort::Read);
    let mut slow = soon("the pull", pull(ALL)).await.expect("found");
    let slower = soon("the pull", pull((1, Some(8 << 20)))).await.expect("found");
    let mut quick = soon("the pull", pair.transfers.pull(2, other, ALL, TransferSort::Store))
        .await
        .expect("found");
    while soon("a chunk", quick.next_chunk()).await.expect("right").is_some() {}
    until("the end to be counted", || pair.server.stats().sent > 0).await;
    let sent = pair.server.stats();
    assert_eq!((sent.sent, sent.bytes_out), (1, 4 << 20), "the windows hold back the others");
    drop(slower);
    let mut len = 0;
    while let Some(chunk) = soon("a chunk", slow.next_chunk()).await.expect("right") {
        len += chunk.len();
        if len % (1 << 20) == 0 {
            // Pause: the slow reader is the fault.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(len, bytes.len());
    // A slow store over there.
    pair.store.fail(Fault::Slow(Duration::from_millis(1)));
    let ours = MemoryStore::new();
    let third = ObjectId { serial: 9, ..ID };
    let known = ours.insert(ID, info(), bytes);
    let mut source = stored(&ours).await;
    soon("the push", pair.transfers.push(2, third, &known, &mut source)).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_fetched_one_at_a_time() {
    let pair = pair().await;
    let bytes = body(5_000_000);
    let mark = SnapshotMark { index: 40, term: 3, len: Some(5_000_000) };
    let missing = pair.transfers.pull_snapshot(2, 0).await.expect_err("none");
    assert!(missing.to_string().contains("not there"), "{missing}");
    *pair.snapshots.kept.lock() = Some((mark, bytes.to_vec()));
    let pulls = (0..8).map(|number| {
        let (transfers, bytes) = (pair.transfers.clone(), bytes.clone());
        tokio::spawn(async move {
            let index = if number % 2 == 0 { 0 } else { 40 };
            // The others before it may take longer than it waits for its turn.
            let pulled = soon("its turn", async {
                loop {
                    match transfers.pull_snapshot(2, index).await {
                        Err(ClusterError::Busy { .. }) => {}
                        pulled => break pulled,
                    }
                }
            });
            let mut pull = pulled.await.expect("found");
            assert_eq!(*pull.about(), mark);
            let mut found = Vec::new();
            while let Some(chunk) = soon("a chunk", pull.next_chunk()).await.expect("right") {
                found.extend_from_slice(&chunk);
            }
            assert!(found == bytes);
        })
    });
    for pull in pulls.collect::<Vec<_>>() {
        soon("a snapshot", pull).await.expect("no panic");
    }
    assert_eq!(pair.snapshots.most.load(Ordering::SeqCst), 1, "one at a time");
    let other = pair.transfers.pull_snapshot(2, 39).await.expect_err("another one");
    assert!(other.to_string().contains("not there"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_breaks_the_rules_is_its_own_end() {
    let pair = pair().await;
    pair.store.insert(ID, info(), body(100));
    let connection = pair.nodes[0].network.open_bulk(2).await.expect("connected");
    for (round, garbage) in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x53, 255], &[0x53; 4000]].into_iter().enumerate()
    {
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        send.write_all(garbage).await.expect("written");
        send.finish().expect("open");
        let answer = soon("the end", receive.read_to_end(1000)).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.is_empty()));
        until("the count", || pair.server.stats().failed == round as u64 + 1).await;
    }
    let mut pull = soon("the pull", pair.transfers.pull(2, ID, ALL, TransferSort::Store))
        .await
        .expect("found");
    assert!(soon("a chunk", pull.next_chunk()).await.expect("right").is_some());
    assert!(connection.close_reason().is_none(), "the connection goes on");
}
