//! Members, and what is asked of them.
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use straightway_cluster::catalogue::{Condition, Entry};
use straightway_cluster::memory::{Fault, MemoryStore, NoObserver};
use straightway_cluster::{
    Arriving, Cluster, ClusterConfig, ClusterError, Consistency, JoinRole, ObjectId, ObjectInfo,
    ObjectStore, PutOutcome, RaftId, Start,
};

use crate::ports::quiet_port;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    pub(crate) store: MemoryStore,
    _folder: tempfile::TempDir,
}

pub(crate) async fn start(start: Start) -> Node {
    start_with(start, 2, Duration::from_hours(1)).await
}

pub(crate) async fn start_with(start: Start, copies: usize, repair_after: Duration) -> Node {
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

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            // Pause: other members are at work.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for: {what}");
}

/// Three voters who answer each other.
pub(crate) async fn three() -> Vec<Node> {
    let nodes = vec![start(Start::First).await];
    assert!(nodes[0].cluster.ready(PATIENCE).await);
    joined(nodes, 2, Duration::from_hours(1)).await
}

/// With two others that join it.
pub(crate) async fn joined(
    mut nodes: Vec<Node>,
    copies: usize,
    repair_after: Duration,
) -> Vec<Node> {
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

pub(crate) async fn put(node: &Node, key: &str, len: usize) -> Result<PutOutcome, ClusterError> {
    let object = node.cluster.new_object();
    let info = ObjectInfo { key: key.to_owned(), ..ObjectInfo::default() };
    let info = node.store.insert(object.id(), info, Bytes::from(vec![7; len]));
    node.cluster.put(object.id(), info, Condition::Any).await
}

pub(crate) async fn entry(node: &Node, key: &str) -> Arc<Entry> {
    let found = node.cluster.read(key, Consistency::Linearizable).await.expect("an answer");
    found.expect("an object")
}

/// Puts an object that the first two members hold, and not the third: a copy that takes longer than a second is helped out by
/// another one, which has no room here.
pub(crate) async fn put_on_two(nodes: &[Node], key: &str, len: usize) -> Arc<Entry> {
    nodes[2].store.fail(Fault::Full(0));
    put(&nodes[0], key, len).await.expect("stored");
    nodes[2].store.fail(Fault::None);
    // The third knows of it, too.
    let entry = entry(&nodes[2], key).await;
    assert_eq!(entry.holders.len(), 2);
    entry
}

/// As if it had no room for it any more.
pub(crate) async fn evict(node: &Node, object: ObjectId) {
    node.store.forget(vec![object]).await;
    node.cluster.lost(object);
}

pub(crate) fn holders(node: &Node, object: ObjectId) -> Vec<RaftId> {
    let entry = node.cluster.catalogue().by_object(object);
    entry.map(|entry| entry.holders.to_vec()).unwrap_or_default()
}

/// What comes, as long as something does.
pub(crate) async fn all_of(arriving: &mut Arriving) -> Result<Vec<u8>, ClusterError> {
    let mut found = Vec::new();
    while let Some(chunk) = arriving.next().await {
        found.extend_from_slice(&chunk?);
    }
    Ok(found)
}
