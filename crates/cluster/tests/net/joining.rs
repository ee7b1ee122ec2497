//! Joining by ticket.
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use iroh::SecretKey;
use straightway_cluster::net::{
    JoinRole, Joiner, NetLimits, Rate, Refusal, Ticket, TicketGrant, TicketMember, TicketSecret,
    join,
};
use straightway_cluster::{ClusterError, ClusterId, NodeKey, StorageId};

use crate::ports::quiet_port;
use crate::support::{CLUSTER, Node, Start, loopback, soon};

const NOW: u64 = 1000;

fn ticket(node: &Node) -> Ticket {
    ticket_of(TicketMember { key: node.key(), addresses: vec![node.address()] })
}

fn ticket_of(member: TicketMember) -> Ticket {
    Ticket {
        cluster: CLUSTER,
        members: vec![member],
        secret: TicketSecret([0x5e; 32]),
        expires_ms: NOW + 60_000,
        role: JoinRole::Voter,
    }
}

fn grant(ticket: &Ticket) -> TicketGrant {
    TicketGrant {
        verifier: ticket.secret.verifier(),
        role: ticket.role,
        expires_ms: ticket.expires_ms,
    }
}

fn give(node: &Node, ticket: &Ticket) {
    *node.door.ticket.lock() = Some((ticket.secret.id(), grant(ticket)));
}

fn joiner() -> Joiner {
    Joiner {
        storage: StorageId([8; 16]),
        name: "south".to_owned(),
        addresses: vec![([127, 0, 0, 1], 4433).into()],
        mesh: None,
        http: "http://127.0.0.1:8080".to_owned(),
    }
}

fn secret() -> SecretKey {
    SecretKey::from_bytes(&[88; 32])
}

async fn ask(ticket: &Ticket, me: &Joiner) -> Result<u64, ClusterError> {
    let secret = secret();
    let joined = join(loopback(), &secret, ticket, me, NOW);
    soon("an answer", joined).await.map(|answer| answer.raft_id)
}

fn reason(answer: Result<u64, ClusterError>) -> String {
    match answer {
        Err(ClusterError::Refused { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_lets_one_node_in_once() {
    let node = Start::new(1).start().await;
    let ticket = ticket(&node);
    assert!(reason(ask(&ticket, &joiner()).await).contains("knows no such ticket"));
    give(&node, &ticket);
    // As text, as people hand it over.
    let text = ticket.to_string().parse().expect("a ticket");
    let answer = soon("an answer", join(loopback(), &secret(), &text, &joiner(), NOW)).await;
    let answer = answer.expect("let in");
    assert_eq!((answer.cluster, answer.raft_id), (CLUSTER, 9));
    let key = NodeKey(*secret().public().as_bytes());
    assert_eq!((answer.members[0].key, answer.members[0].storage), (key, Some(StorageId([8; 16]))));
    {
        let joined = node.door.joined.lock();
        assert_eq!((joined[0].key, &joined[0].node), (key, &joiner()));
        assert_eq!((joined[0].ticket, joined[0].role), (ticket.secret.id(), JoinRole::Voter));
    }
    assert!(reason(ask(&ticket, &joiner()).await).contains("has been used"));
    assert_eq!(node.network.stats().refused(Refusal::Ticket), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_tickets_are_refused_each_with_its_reason() {
    let node = Start::new(1).start().await;
    let ticket = ticket(&node);
    give(&node, &ticket);
    // Expired: as the joiner sees it, and as the cluster does.
    let late = Ticket { expires_ms: NOW, ..ticket.clone() };
    let expired = ask(&late, &joiner()).await.expect_err("expired").to_string();
    assert!(expired.contains("expired"), "{expired}");
    *node.door.ticket.lock() =
        Some((ticket.secret.id(), TicketGrant { expires_ms: NOW - 1, ..grant(&ticket) }));
    assert!(reason(ask(&ticket, &joiner()).await).contains("has expired"));
    // Another cluster's.
    let other = Ticket { cluster: ClusterId([1; 16]), ..ticket.clone() };
    assert!(reason(ask(&other, &joiner()).await).contains("another cluster"));
    // Not the secret that the name is of, and another role than the one that was given.
    *node.door.ticket.lock() =
        Some((ticket.secret.id(), TicketGrant { verifier: [0; 32], ..grant(&ticket) }));
    assert!(reason(ask(&ticket, &joiner()).await).contains("proof"));
    give(&node, &Ticket { role: JoinRole::Learner, ..ticket.clone() });
    assert!(reason(ask(&ticket, &joiner()).await).contains("proof"));
    // A node that nobody could dial.
    give(&node, &ticket);
    for bad in [
        Joiner { addresses: Vec::new(), ..joiner() },
        Joiner { addresses: vec![([0, 0, 0, 0], 80).into()], ..joiner() },
        Joiner { addresses: vec![([127, 0, 0, 1], 0).into()], ..joiner() },
        Joiner { name: "x".repeat(1000), ..joiner() },
        Joiner { name: "\x1b[2J".to_owned(), ..joiner() },
    ] {
        assert!(reason(ask(&ticket, &bad).await).contains("not valid"), "{bad:?}");
    }
    assert!(!node.door.used.load(Ordering::SeqCst), "nothing of that has used it up");
    assert_eq!(ask(&ticket, &joiner()).await.expect("let in"), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_member_is_asked_when_one_cannot_be_reached() {
    let node = Start::new(1).start().await;
    let mut ticket = ticket(&node);
    let silent = std::net::UdpSocket::bind(loopback()).expect("bound");
    let address = silent.local_addr().expect("bound");
    let key = NodeKey(*SecretKey::from_bytes(&[3; 32]).public().as_bytes());
    let nobody = TicketMember { key, addresses: vec![address] };
    ticket.members.insert(0, nobody);
    give(&node, &ticket);
    assert_eq!(ask(&ticket, &joiner()).await.expect("let in"), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_not_there_yet_is_asked_again() {
    let silent = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, quiet_port())).await;
    let silent = silent.expect("a port");
    let bind = silent.local_addr().expect("bound");
    let start = Start { bind, ..Start::new(1) };
    let member =
        TicketMember { key: NodeKey(*start.secret.public().as_bytes()), addresses: vec![bind] };
    let ticket = ticket_of(member);
    *start.door.ticket.lock() = Some((ticket.secret.id(), grant(&ticket)));
    // There without a leader, at first.
    start.door.not_now.store(2, Ordering::SeqCst);
    let asked = tokio::spawn(async move { ask(&ticket, &joiner()).await });
    silent.recv_from(&mut [0; 2048]).await.expect("it was dialled");
    drop(silent);
    let node = start.start().await;
    assert_eq!(asked.await.expect("no panic").expect("let in"), 9);
    assert_eq!(node.door.not_now.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_slow() {
    let few = Rate { per_second: 0.001, burst: 1.0 };
    let limits = NetLimits { joins_each: few, ..Start::new(1).limits };
    let node = Start { limits, ..Start::new(1) }.start().await;
    let ticket = ticket(&node);
    assert!(reason(ask(&ticket, &joiner()).await).contains("knows no such ticket"));
    let second = ask(&ticket, &joiner()).await;
    assert!(matches!(second, Err(ClusterError::Unreachable { .. })), "{second:?}");
    assert_eq!(node.network.stats().refused(Refusal::RateLimited), 1);
}
