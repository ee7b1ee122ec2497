//! Whole members: logs, catalogues and all, on loopback.
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raft::prelude::{Message, MessageType};
use straightway_cluster::catalogue::{Condition, Scope};
use straightway_cluster::memory::{MemoryStore, NoObserver};
use straightway_cluster::mesh::discovery;
use straightway_cluster::net::{
    Handlers, Identity, Lane, LocalNode, MemberAddress, NetConfig, Network, Refusal,
};
use straightway_cluster::{Cluster, ClusterConfig, ClusterError, JoinRole, Start, Ticket};
use tokio::sync::mpsc;

use crate::ports::quiet_port;
use crate::support::{Answers, Door, LONG, NoBulk, message, soon, until};

fn config(folder: &Path, start: Start) -> ClusterConfig {
    ClusterConfig {
        data_dir: folder.to_path_buf(),
        start,
        listen: free(),
        advertise: Vec::new(),
        name: "test".to_owned(),
        http: String::new(),
        copies: 3,
        log_entries: 10_000,
        repair_after: Duration::from_hours(1),
        discover: false,
        compress: None,
    }
}

async fn start(config: ClusterConfig) -> Result<Cluster, ClusterError> {
    let started = Cluster::start(config, Arc::new(MemoryStore::new()), Arc::new(NoObserver));
    soon("a member", started).await
}

/// Stops a member for another one in its folder: what was under way lets go of that a moment later.
async fn end(member: Cluster, folder: &Path) {
    let place = member.local_addr();
    member.stop().await;
    drop(member);
    let_go(folder).await;
    until("its place to be free", || UdpSocket::bind(place).is_ok()).await;
}

/// Waits until nobody has a member's folder.
async fn let_go(folder: &Path) {
    until("its folder to be free", || Identity::open(folder).is_ok()).await;
}

/// The first member of a cluster, and a ticket.
async fn first(config: ClusterConfig) -> (Cluster, Ticket) {
    let cluster = start(config).await.expect("started");
    assert!(cluster.ready(LONG).await);
    let ticket = cluster.ticket(Duration::from_mins(5), JoinRole::Voter).await.expect("issued");
    (cluster, ticket)
}

fn join(ticket: &Ticket) -> Start {
    Start::Join(Box::new(ticket.clone()))
}

/// A place that is free now, and that the system gives to nobody until it is asked for.
fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, quiet_port()).into()
}

/// Three members, all of them voters, in these folders; the first leads.
async fn three(folders: &[tempfile::TempDir]) -> Vec<Cluster> {
    let (one, ticket) = first(config(folders[0].path(), Start::First)).await;
    let mut members = vec![one];
    for folder in &folders[1..] {
        members.push(start(config(folder.path(), join(&ticket))).await.expect("joined"));
    }
    until("all vote", || {
        members.iter().all(|member| {
            let status = member.status();
            status.members.iter().filter(|member| member.role != "learner").count() == 3
        })
    })
    .await;
    members
}

fn folders() -> Vec<tempfile::TempDir> {
    (0..3).map(|_| tempfile::tempdir().expect("a folder")).collect()
}

fn refused(member: &Cluster, why: Refusal) -> u64 {
    let counts = member.metrics().refused;
    counts.into_iter().find(|(name, _)| *name == why.name()).map_or(0, |(_, count)| count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_members_word_does_not_stop_another() {
    let folders = folders();
    let mut members = three(&folders).await;
    let third = members.pop().expect("three");
    let (at, third_id) = (third.local_addr(), third.id());
    end(third, folders[2].path()).await;
    // Somebody has its key, and says what it likes.
    let identity = Identity::open(folders[2].path()).expect("opened");
    let record = identity.record();
    let node = LocalNode {
        cluster: record.cluster.expect("joined"),
        raft_id: record.raft_id,
        storage: record.storage.expect("joined"),
        boot: identity.boot(),
    };
    let known: Vec<_> = members[0].catalogue().members();
    let known: Vec<_> = known
        .iter()
        .map(|member| MemberAddress {
            id: member.id,
            key: member.key,
            addresses: member.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
            storage: Some(member.storage),
        })
        .collect();
    let (sender, _inbound) = mpsc::channel(1024);
    let handlers = Handlers {
        service: Arc::new(Answers::default()),
        bulk: Arc::new(NoBulk),
        join: Arc::new(Door::default()),
    };
    let config = NetConfig::new(at, identity.secret().clone(), node);
    let rogue = Network::start(config, sender, handlers, &known).await.expect("started");
    let second = members[1].id();
    until("connections with the second", || {
        let stats = rogue.peer_stats();
        stats.iter().any(|peer| peer.id == second && peer.control.connected && peer.inbound[0])
    })
    .await;
    // No member sends that: it is hung up on, and counted.
    let connections = || {
        let stats = rogue.peer_stats();
        stats.into_iter().find(|peer| peer.id == second).map_or(0, |peer| peer.control.connections)
    };
    let before = connections();
    let without_term = Message { term: 0, ..message(MessageType::MsgHeartbeat, third_id, second) };
    rogue.send_raft(second, Lane::Control, without_term);
    until("the count", || refused(&members[1], Refusal::RaftMessage) > 0).await;
    until("another connection", || connections() > before).await;
    assert_eq!(refused(&members[1], Refusal::RaftMessage), 1);
    let without: Vec<_> = known.into_iter().filter(|member| member.id != second).collect();
    rogue.set_members(&without);
    until("another try", || rogue.stats().refused(Refusal::Stranger) > 0).await;
    let nothing = members[1].remove("nothing", Condition::Version(u64::MAX)).await;
    assert!(nothing.is_ok(), "it goes on: {nothing:?}");
    rogue.close().await;
    for member in &members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ended_between_the_answer_and_the_first_snapshot_goes_on() {
    // Nobody reaches it at its first start: it becomes a member and hears no more. It may be answered where it dials from all the
    // same, before it has ended: then there is another try.
    let place = free();
    let mut tries = 0;
    let (folders, one, ticket, two) = loop {
        let folders = folders();
        let (one, ticket) = first(config(folders[0].path(), Start::First)).await;
        let joining = config(folders[1].path(), join(&ticket));
        let deaf = ClusterConfig { advertise: vec![place], ..joining };
        let two = start(deaf).await.expect("joined");
        assert_eq!(two.id(), 2);
        two.stop().await;
        if two.catalogue().members().is_empty() {
            break (folders, one, ticket, two);
        }
        tries += 1;
        assert!(tries < 10, "it hears of the others each time");
        one.stop().await;
    };
    end(two, folders[1].path()).await;
    let again = ClusterConfig { listen: place, ..config(folders[1].path(), join(&ticket)) };
    let two = start(again).await.expect("started");
    until("the catalogue", || two.catalogue().members().len() == 2).await;
    end(two, folders[1].path()).await;
    // From now on it knows by its catalogue.
    let identity = Identity::open(folders[1].path()).expect("opened");
    assert_eq!(identity.record().members.len(), 2);
    drop(identity);
    let again = ClusterConfig { listen: place, ..config(folders[1].path(), Start::First) };
    let two = start(again).await.expect("started");
    assert!(two.ready(LONG).await);
    end(two, folders[1].path()).await;
    let identity = Identity::open(folders[1].path()).expect("opened");
    assert!(identity.record().members.is_empty());
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_did_not_hear_the_answer_joins_again_as_the_same_one() {
    let folders = folders();
    let (one, ticket) = first(config(folders[0].path(), Start::First)).await;
    let members = || one.catalogue().members().len();
    tokio::select! {
        biased;
        // It ends as soon as it is a member, which it does not know.
        () = until("a second member", || members() == 2) => {}
        started = start(config(folders[1].path(), join(&ticket))) => {
            started.expect("joined").stop().await;
        }
    }
    let_go(folders[1].path()).await;
    // It may be started elsewhere than before.
    let place = free();
    let again = ClusterConfig { listen: place, ..config(folders[1].path(), join(&ticket)) };
    let two = start(again).await.expect("let in again");
    assert_eq!((two.id(), members()), (2, 2));
    assert!(two.ready(LONG).await);
    until("its new place to be known", || {
        let known = one.catalogue().member(2).map(|member| member.addresses.clone());
        known.is_some_and(|known| known == [place.to_string()])
    })
    .await;
    two.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_that_wait_leave_a_leader_room_for_other_calls() {
    let folders = folders();
    let members = three(&folders).await;
    // They wait for its lease to be over.
    members[2].stop().await;
    let mut purges = tokio::task::JoinSet::new();
    for _ in 0..80 {
        let before = members[1].catalogue().applied().index;
        let member = members[1].clone();
        purges.spawn(async move { member.purge(Scope::Prefix, "nothing").await });
        // One at a time: it is not their commands that take the room.
        until("its command", || members[1].catalogue().applied().index > before).await;
    }
    while let Some(purged) = soon("a purge", purges.join_next()).await {
        assert_eq!(purged.expect("it ends").expect("purged"), 0);
    }
    assert_eq!(refused(&members[0], Refusal::Calls), 0);
    for member in &members[..2] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_have_all_moved_find_each_other_by_their_beacons() {
    if let Err(error) = discovery::socket(discovery::GROUP, Ipv4Addr::LOCALHOST.into()) {
        println!("SKIP beacons: there is no multicast on loopback: {error}");
        return;
    }
    let folders = folders();
    let found = |folder, start| ClusterConfig { discover: true, ..config(folder, start) };
    let (one, ticket) = first(found(folders[0].path(), Start::First)).await;
    let two = start(found(folders[1].path(), join(&ticket))).await.expect("joined");
    assert!(two.ready(LONG).await);
    end(two, folders[1].path()).await;
    end(one, folders[0].path()).await;
    // Each dials the other where it was.
    let place = free();
    let other = std::iter::repeat_with(free).find(|other| *other != place).expect("another");
    let places = [place, other];
    let moved = |at: usize, begin| {
        start(ClusterConfig { listen: places[at], ..found(folders[at].path(), begin) })
    };
    let one = moved(0, Start::First).await.expect("started");
    let two = moved(1, join(&ticket)).await.expect("started");
    until("the new places to be known", || {
        (1..=2).zip(places).all(|(id, place)| {
            let known = two.catalogue().member(id);
            known.is_some_and(|known| known.addresses == [place.to_string()])
        })
    })
    .await;
    two.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_moved_is_found_where_it_dials_from() {
    let folders = folders();
    let (one, ticket) = first(config(folders[0].path(), Start::First)).await;
    let two = start(config(folders[1].path(), join(&ticket))).await.expect("joined");
    assert!(two.ready(LONG).await);
    end(two, folders[1].path()).await;
    // It dials the first, which knows its old place only, answers it where it dials from, and is told by the log then.
    let place = free();
    let moved = ClusterConfig { listen: place, ..config(folders[1].path(), join(&ticket)) };
    let two = start(moved).await.expect("started");
    until("its new place to be known", || {
        let known = one.catalogue().member(2);
        known.is_some_and(|known| known.addresses == [place.to_string()])
    })
    .await;
    two.stop().await;
    one.stop().await;
}
