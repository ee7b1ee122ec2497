//! Members in one process, on stores in memory that fail as they are told to.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod ports;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ports::quiet_port;
use straightway_cluster::catalogue::{Condition, Entry};
use straightway_cluster::memory::{Fault, MemoryStore, NoObserver};
use straightway_cluster::{
    Arriving, Cluster, ClusterConfig, ClusterError, Consistency, Fetched, JoinRole, ObjectId,
    ObjectInfo, ObjectStore, PutOutcome, RaftId, Start, StoreError,
};

const PATIENCE: Duration = Duration::from_mins(1);

struct Node {
    cluster: Cluster,
    store: MemoryStore,
    _folder: tempfile::TempDir,
}

async fn start(start: Start) -> Node {
    start_with(start, 2, Duration::from_hours(1)).await
}

async fn start_with(start: Start, copies: usize, repair_after: Duration) -> Node {
    let folder = tempfile::tempdir().expect("a folder");
    let store = MemoryStore::new();
    let config = ClusterConfig {
        data_dir: folder.path().to_owned(),
        start,
        listen: (Ipv4Addr::LOCALHOST, quiet_port()).into(),
        advertise: Vec::new(),
        name: "test".to_owned(),
        http: String::new(),
        copies,
        repair_after,
        log_entries: 10_000,
        discover: false,
        compress: None,
    };
    let cluster = Cluster::start(config, Arc::new(store.clone()), Arc::new(NoObserver)).await;
    Node { cluster: cluster.expect("a member"), store, _folder: folder }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            // Pause: other members are at work.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for: {what}");
}

/// Three voters who answer each other.
async fn three() -> Vec<Node> {
    let nodes = vec![start(Start::First).await];
    assert!(nodes[0].cluster.ready(PATIENCE).await);
    joined(nodes, 2, Duration::from_hours(1)).await
}

/// With two others that join it.
async fn joined(mut nodes: Vec<Node>, copies: usize, repair_after: Duration) -> Vec<Node> {
    let ticket = nodes[0].cluster.ticket(PATIENCE, JoinRole::Voter).await.expect("a ticket");
    for _ in 0..2 {
        let join = Start::Join(Box::new(ticket.clone()));
        nodes.push(start_with(join, copies, repair_after).await);
    }
    for node in &nodes {
        until("all vote and answer", || {
            let members = node.cluster.status().members;
            members.len() == 3 && members.iter().all(|one| one.role != "learner" && one.healthy)
        })
        .await;
        assert!(node.cluster.ready(PATIENCE).await);
    }
    nodes
}

async fn put(node: &Node, key: &str, len: usize) -> Result<PutOutcome, ClusterError> {
    let object = node.cluster.new_object();
    let info = ObjectInfo { key: key.to_owned(), ..ObjectInfo::default() };
    let info = node.store.insert(object.id(), info, Bytes::from(vec![7; len]));
    node.cluster.put(object.id(), info, Condition::Any).await
}

async fn entry(node: &Node, key: &str) -> Arc<Entry> {
    let found = node.cluster.read(key, Consistency::Linearizable).await.expect("an answer");
    found.expect("an object")
}

/// Puts an object that the first two members hold, and not the third: a copy that takes longer than a second is helped out by
/// another one, which has no room here.
async fn put_on_two(nodes: &[Node], key: &str, len: usize) -> Arc<Entry> {
    nodes[2].store.fail(Fault::Full(0));
    put(&nodes[0], key, len).await.expect("stored");
    nodes[2].store.fail(Fault::None);
    // The third knows of it, too.
    let entry = entry(&nodes[2], key).await;
    assert_eq!(entry.holders.len(), 2);
    entry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_waits_for_no_single_member_and_says_when_there_is_no_room() {
    let nodes = three().await;
    // Of two other members one stands still, whichever is nearer.
    nodes[1].store.fail(Fault::Slow(Duration::from_hours(1)));
    assert_eq!(put(&nodes[0], "slow", 1000).await.expect("stored"), PutOutcome::Created);
    nodes[1].store.fail(Fault::None);
    // One without room is not asked for more than that; two are too many.
    nodes[1].store.fail(Fault::Full(0));
    assert_eq!(put(&nodes[0], "full", 1000).await.expect("stored"), PutOutcome::Created);
    nodes[2].store.fail(Fault::Full(0));
    let held = nodes[0].store.len();
    let refused = put(&nodes[0], "fuller", 1000).await;
    assert!(matches!(refused, Err(ClusterError::Store(StoreError::Full { .. }))), "{refused:?}");
    assert_eq!(nodes[0].store.len(), held, "what was not announced is not kept");
    // What is the caller's mistake is told before anything is stored.
    let tags = vec!["t".to_owned(); 65];
    let wrong = nodes[0].cluster.check(&ObjectInfo { tags, ..ObjectInfo::default() });
    assert!(matches!(wrong, Err(ClusterError::Config { .. })), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_waits_for_a_majority_of_those_who_vote_when_it_is_in_the_log() {
    let mut nodes = three().await;
    nodes[1].store.fail(Fault::Held);
    nodes[2].store.fail(Fault::Held);
    let (first, store) = (nodes[0].cluster.clone(), nodes[0].store.clone());
    let object = first.new_object();
    let id = object.id();
    let info = ObjectInfo { key: "film".to_owned(), ..ObjectInfo::default() };
    let info = store.insert(id, info, Bytes::from(vec![7; 1000]));
    let begun = tokio::spawn(async move { first.put(id, info, Condition::Any).await });
    until("both have begun to store it", || nodes[1..].iter().all(|node| node.store.held() > 0))
        .await;
    // With one of them there would be a majority of the three. Now five vote.
    for _ in 0..2 {
        let ticket = nodes[0].cluster.ticket(PATIENCE, JoinRole::Voter).await.expect("a ticket");
        nodes.push(start(Start::Join(Box::new(ticket))).await);
    }
    until("five vote", || {
        let status = nodes[0].cluster.status();
        status.members.iter().filter(|one| one.role != "learner").count() == 5
    })
    .await;
    nodes[1].store.fail(Fault::None);
    assert_eq!(begun.await.expect("no panic").expect("stored"), PutOutcome::Created);
    let known = holders(&nodes[0], id);
    assert!(known.len() >= 3, "{known:?}");
    for node in &nodes {
        let holds = node.store.get(id).is_some();
        assert!(holds || !known.contains(&node.cluster.id()), "{known:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_lane_shows_its_round_trip() {
    let nodes = three().await;
    until("signs of life where entries go", || {
        let peers = nodes[1].cluster.metrics().peers;
        peers.len() == 2 && peers.iter().all(|peer| peer.append.rtt_us() > 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_here_passes_through() {
    let nodes = three().await;
    let len = 3_000_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let other = &nodes[2];
    other.store.fail(Fault::Full(0));
    let (first, second) = tokio::join!(other.cluster.fetch(&entry), other.cluster.fetch(&entry));
    for fetched in [first, second] {
        let Fetched::Arriving(mut arriving) = fetched.expect("begun") else {
            panic!("there is no room for it")
        };
        let mut found = 0;
        while let Some(chunk) = arriving.next().await {
            found += chunk.expect("bytes").len();
        }
        if found < len {
            // The one whose fetch came to nothing goes on by another way.
            assert!(!arriving.stored().await);
            let rest = u64::try_from(found).unwrap()..entry.len;
            let mut rest = other.cluster.fetch_range(&entry, rest).expect("begun");
            while let Some(chunk) = rest.next().await {
                found += chunk.expect("bytes").len();
            }
        }
        assert_eq!(found, len);
    }
    assert!(other.store.get(entry.object).is_none());
    // With room it is kept, and a range of what nobody has is refused before anything is sent.
    other.store.fail(Fault::None);
    let Ok(Fetched::Arriving(mut arriving)) = other.cluster.fetch(&entry).await else {
        panic!("nobody else asks")
    };
    assert!(arriving.stored().await, "whether or not it is read");
    assert!(other.store.get(entry.object).is_some());
    let gone = Entry { object: ObjectId { serial: 1, ..entry.object }, ..(*entry).clone() };
    let mut nothing = other.cluster.fetch_range(&Arc::new(gone), 0..10).expect("begun");
    assert!(matches!(nothing.next().await, Some(Err(ClusterError::Refused { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_reader_does_not_wait_for_the_first_ones_bytes_to_be_stored() {
    let nodes = three().await;
    let len = 9_000_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let other = &nodes[2];
    other.store.fail(Fault::Held);
    let arriving = async || match other.cluster.fetch(&entry).await {
        Ok(Fetched::Arriving(arriving)) => arriving,
        other => panic!("{other:?}"),
    };
    let mut first = arriving().await;
    // It stands still: the second has all, and a third has begun.
    assert!(all_of(&mut arriving().await).await.expect("bytes") == vec![7; len]);
    let mut third = arriving().await;
    let begun = third.next().await.expect("some").expect("bytes");
    assert_eq!(other.store.len(), 0);
    // Once it is stored, the rest is read where it is.
    other.store.fail(Fault::None);
    assert!(first.stored().await);
    let rest = all_of(&mut third).await.expect("bytes");
    assert!(begun.len() + rest.len() < len, "{}", rest.len());
    assert!(third.stored().await);
    assert!(other.store.get(entry.object).is_some());
}

/// What is abandoned, once something is: who could not ask in time takes nothing for that.
async fn abandoned(node: &Node, objects: &[ObjectId]) -> Vec<ObjectId> {
    let asked = async {
        loop {
            let found = node.cluster.abandoned(objects.iter().copied()).await;
            if !found.is_empty() {
                return found;
            }
            // Pause: other members are at work.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("something is abandoned")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_put_under_way_are_nobody_elses_to_remove() {
    let mut nodes = three().await;
    let under_way = nodes[1].cluster.new_object();
    let unknown = ObjectId { node: 99, serial: 1 };
    let all = [under_way.id(), unknown];
    for node in &nodes {
        assert_eq!(abandoned(node, &all).await, [unknown], "the put's member is asked");
    }
    let id = under_way.id();
    drop(under_way);
    for node in &nodes {
        assert_eq!(abandoned(node, &[id]).await, [id]);
    }
    // Where it cannot be asked, it may come back.
    let gone = nodes.remove(1);
    gone.cluster.stop().await;
    assert!(nodes[0].cluster.abandoned([id]).await.is_empty());
    for node in nodes {
        node.cluster.stop().await;
    }
}

/// As if it had no room for it any more.
async fn evict(node: &Node, object: ObjectId) {
    node.store.forget(vec![object]).await;
    node.cluster.lost(object);
}

fn holders(node: &Node, object: ObjectId) -> Vec<RaftId> {
    let entry = node.cluster.catalogue().by_object(object);
    entry.map(|entry| entry.holders.to_vec()).unwrap_or_default()
}

/// Three members; of what is on all of them, `"evicted"` is left on the first alone, `"lost"` on the first and the third.
async fn with_few_copies(repair_after: Duration) -> (Vec<Node>, [ObjectId; 2]) {
    let nodes = vec![start_with(Start::First, 3, repair_after).await];
    assert!(nodes[0].cluster.ready(PATIENCE).await);
    for key in ["evicted", "lost"] {
        put(&nodes[0], key, 1000).await.expect("stored");
    }
    let objects = [entry(&nodes[0], "evicted").await.object, entry(&nodes[0], "lost").await.object];
    let nodes = joined(nodes, 3, repair_after).await;
    until("those that join have what there is", || {
        objects.iter().all(|object| holders(&nodes[1], *object).len() == 3)
    })
    .await;
    evict(&nodes[2], objects[0]).await;
    for object in objects {
        evict(&nodes[1], object).await;
    }
    until("it is known what was evicted", || {
        objects.iter().map(|object| holders(&nodes[0], *object).len()).eq([1, 2])
    })
    .await;
    (nodes, objects)
}

/// What was on the third comes to the second, and what was evicted does not, though its turn is before.
async fn only_what_was_lost(nodes: &[Node], [evicted, lost]: [ObjectId; 2]) {
    until("the lost copy is made anew", || nodes[1].store.get(lost).is_some()).await;
    assert!(nodes[1].store.get(evicted).is_none());
    assert_eq!(holders(&nodes[0], evicted), [nodes[0].cluster.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_is_copied_anew_and_what_is_evicted_is_not() {
    let (mut nodes, objects) = with_few_copies(Duration::from_secs(6)).await;
    nodes.remove(2).cluster.stop().await;
    only_what_was_lost(&nodes, objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_member_held_is_copied_anew_and_what_is_evicted_is_not() {
    let (mut nodes, objects) = with_few_copies(Duration::from_secs(20)).await;
    let third = nodes.remove(2);
    nodes[0].cluster.remove_member(third.cluster.id()).await.expect("removed");
    only_what_was_lost(&nodes, objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_copied_anew_wherever_it_was() {
    let nodes = vec![start_with(Start::First, 2, Duration::from_secs(6)).await];
    assert!(nodes[0].cluster.ready(PATIENCE).await);
    let nodes = joined(nodes, 2, Duration::from_secs(6)).await;
    let object = put_on_two(&nodes, "film", 1000).await.object;
    let copies =
        |nodes: &[Node]| nodes.iter().filter(|node| node.store.get(object).is_some()).count();
    for at in 0..3 {
        // One that is helped out by a third is no damage.
        if copies(&nodes) > 2 {
            evict(&nodes[at], object).await;
            until("it is known", || holders(&nodes[0], object).len() == 2).await;
        }
        if nodes[at].store.get(object).is_none() {
            continue;
        }
        nodes[at].store.forget(vec![object]).await;
        nodes[at].cluster.damaged(object);
        until("there are two again", || {
            copies(&nodes) == 2 && holders(&nodes[0], object).len() == 2
        })
        .await;
    }
}

/// What comes, as long as something does.
async fn all_of(arriving: &mut Arriving) -> Result<Vec<u8>, ClusterError> {
    let mut found = Vec::new();
    while let Some(chunk) = arriving.next().await {
        found.extend_from_slice(&chunk?);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_with_other_bytes_is_passed_over() {
    let nodes = three().await;
    let len = 300_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let holds = |at: &usize| nodes[*at].store.get(entry.object).is_some();
    let (holders, others): (Vec<_>, Vec<_>) = (0..3).partition(holds);
    assert_eq!((holders.len(), others.len()), (2, 1));
    let other = &nodes[others[0]];
    let right = vec![7; len];
    // Whichever of the two is nearer.
    for &wrong in &holders {
        let store = &nodes[wrong].store;
        let (info, body) = store.get(entry.object).expect("held");
        store.insert(entry.object, info.clone(), Bytes::from(vec![8; len]));
        let mut range = other.cluster.fetch_range(&entry, 0..entry.len).expect("begun");
        assert!(all_of(&mut range).await.expect("bytes") == right);
        let Ok(Fetched::Arriving(mut whole)) = other.cluster.fetch(&entry).await else {
            panic!("nobody else asks")
        };
        assert!(all_of(&mut whole).await.expect("bytes") == right);
        assert!(whole.stored().await);
        other.store.forget(vec![entry.object]).await;
        store.insert(entry.object, info, body);
        // One that claims the right ones and sends others is found out before the end.
        store.fail(Fault::Corrupt);
        let Ok(Fetched::Arriving(mut whole)) = other.cluster.fetch(&entry).await else {
            panic!("nobody else asks")
        };
        match all_of(&mut whole).await {
            Ok(found) => assert!(found == right),
            Err(error) => {
                assert!(matches!(error, ClusterError::Store(StoreError::Digest)), "{error}");
            }
        }
        assert!(whole.stored().await, "from the other one");
        store.fail(Fault::None);
        assert!(other.store.get(entry.object).expect("stored").1 == right);
        other.store.forget(vec![entry.object]).await;
    }
    // Where nobody has the right ones, nobody gets any.
    for at in holders {
        let (info, _) = nodes[at].store.get(entry.object).expect("held");
        nodes[at].store.insert(entry.object, info, Bytes::from(vec![8; len]));
    }
    let mut range = other.cluster.fetch_range(&entry, 0..10).expect("begun");
    assert!(matches!(range.next().await, Some(Err(ClusterError::Refused { .. }))));
    let Ok(Fetched::Arriving(mut whole)) = other.cluster.fetch(&entry).await else {
        panic!("nobody else asks")
    };
    assert!(matches!(whole.next().await, Some(Err(ClusterError::Refused { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_ranges_do_not_keep_others_from_theirs() {
    let nodes = three().await;
    let len = 8_000_000;
    let entry = put_on_two(&nodes, "film", len).await;
    let other = &nodes[2];
    // More than the transfers of both holders. Each goes on taking something, as a client far away does.
    let (hurry, _) = tokio::sync::watch::channel(false);
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut arriving = other.cluster.fetch_range(&entry, 0..entry.len).expect("begun");
        let mut hurry = hurry.subscribe();
        let (cluster, entry) = (other.cluster.clone(), entry.clone());
        slow.spawn(async move {
            let mut found = 0;
            while found < entry.len {
                match arriving.next().await {
                    Some(chunk) => found += chunk.expect("bytes").len() as u64,
                    // It was let go for being so slow, and comes again.
                    None => {
                        arriving = cluster.fetch_range(&entry, found..entry.len).expect("begun");
                    }
                }
                // Pause: it reads slowly, until it is told otherwise.
                let pause = tokio::time::sleep(Duration::from_millis(300));
                tokio::select! {
                    () = pause => {}
                    _ = hurry.wait_for(|hurry| *hurry) => {}
                }
            }
            found
        });
    }
    for _ in 0..4 {
        let mut quick = other.cluster.fetch_range(&entry, 5_000_000..6_000_000).expect("begun");
        assert_eq!(all_of(&mut quick).await.expect("its turn comes").len(), 1_000_000);
    }
    hurry.send_replace(true);
    assert_eq!(slow.join_all().await, vec![entry.len; 10]);
}
