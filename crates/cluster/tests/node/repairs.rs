//! Copies that are made anew.
use std::time::Duration;

use straightway_cluster::memory::Fault;
use straightway_cluster::{JoinRole, ObjectId, ObjectStore, Start};

use crate::support::{
    Node, PATIENCE, entry, evict, holders, joined, put, put_on_two, start_with, until,
};

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

/// More than are looked at without a pause, so that a walk over them can be interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_for_a_lost_member_goes_on_though_there_is_other_news() {
    const OBJECTS: usize = 600;
    let repair_after = Duration::from_secs(6);
    let nodes = vec![start_with(Start::First, 2, repair_after).await];
    assert!(nodes[0].cluster.ready(PATIENCE).await);
    let mut nodes = joined(nodes, 2, repair_after).await;
    nodes[1].store.fail(Fault::Full(0));
    for n in 0..OBJECTS {
        put(&nodes[0], &format!("{n:03}"), 100).await.expect("stored");
    }
    assert_eq!([0, 1, 2].map(|at| nodes[at].store.len()), [OBJECTS, 0, OBJECTS]);
    // The first copy that is made anew stands still.
    nodes[1].store.fail(Fault::Held);
    nodes.remove(2).cluster.stop().await;
    until("the walk has begun", || nodes[1].store.held() > 0).await;
    let ticket = nodes[0].cluster.ticket(PATIENCE, JoinRole::Voter).await.expect("a ticket");
    nodes.push(start_with(Start::Join(Box::new(ticket)), 2, repair_after).await);
    nodes[1].store.fail(Fault::None);
    until("all are on two again", || {
        nodes[0].store.len() == OBJECTS && nodes[1].store.len() + nodes[2].store.len() >= OBJECTS
    })
    .await;
}
