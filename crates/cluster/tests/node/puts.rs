//! What a put waits for, and how it ends.
use std::time::Duration;

use bytes::Bytes;
use straightway_cluster::catalogue::Condition;
use straightway_cluster::memory::Fault;
use straightway_cluster::{
    ClusterError, JoinRole, ObjectId, ObjectInfo, PutOutcome, Start, StoreError,
};
use tokio::task::JoinHandle;

use crate::support::{Node, PATIENCE, entry, holders, put, start, three, until};

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

/// A put on the first of three, whose copies have begun and stand still on both others.
async fn held_up(nodes: &[Node]) -> (JoinHandle<Result<PutOutcome, ClusterError>>, ObjectId) {
    nodes[1].store.fail(Fault::Held);
    nodes[2].store.fail(Fault::Held);
    let (first, store) = (nodes[0].cluster.clone(), nodes[0].store.clone());
    let object = first.new_object();
    let id = object.id();
    let info = ObjectInfo { key: "film".to_owned(), ..ObjectInfo::default() };
    let info = store.insert(id, info, Bytes::from(vec![7; 1000]));
    let begun = tokio::spawn(async move {
        let _object = object;
        first.put(id, info, Condition::Any).await
    });
    until("both have begun to store it", || nodes[1..].iter().all(|node| node.store.held() > 0))
        .await;
    (begun, id)
}

/// With one other of three there would be a majority. Of five, two others are needed.
async fn grow_to_five(nodes: &mut Vec<Node>) {
    for _ in 0..2 {
        let ticket = nodes[0].cluster.ticket(PATIENCE, JoinRole::Voter).await.expect("a ticket");
        nodes.push(start(Start::Join(Box::new(ticket))).await);
    }
    until("five vote", || {
        let status = nodes[0].cluster.status();
        status.members.iter().filter(|one| one.role != "learner").count() == 5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_waits_for_a_majority_of_those_who_vote_when_it_is_in_the_log() {
    let mut nodes = three().await;
    let (begun, id) = held_up(&nodes).await;
    grow_to_five(&mut nodes).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_stays_short_of_copies_is_not_called_stored() {
    let mut nodes = three().await;
    let (begun, id) = held_up(&nodes).await;
    grow_to_five(&mut nodes).await;
    // The second takes its copy, and nobody beside it: three of the five are needed.
    nodes.remove(2).cluster.stop().await;
    for node in &nodes[2..] {
        node.store.fail(Fault::Full(0));
    }
    nodes[1].store.fail(Fault::None);
    let told = begun.await.expect("no panic");
    assert!(matches!(told, Err(ClusterError::Timeout { .. })), "{told:?}");
    // What is not known may well have happened.
    assert_eq!(entry(&nodes[0], "film").await.object, id);
    assert_eq!(holders(&nodes[0], id), [nodes[0].cluster.id(), nodes[1].cluster.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_under_way_ends_with_its_node() {
    let mut nodes = three().await;
    for other in nodes.split_off(1) {
        other.cluster.stop().await;
    }
    let first = &nodes[0].cluster;
    let (removed, ()) = tokio::join!(first.remove("film", Condition::Any), first.stop());
    assert!(matches!(removed, Err(ClusterError::Stopped { .. })), "{removed:?}");
    let later = first.remove("film", Condition::Any).await;
    assert!(matches!(later, Err(ClusterError::Stopped { .. })), "{later:?}");
}
