//! Messages and calls between members.
use std::time::Duration;

use bytes::Bytes;
use raft::prelude::MessageType;
use straightway_cluster::ClusterError;
use straightway_cluster::net::{
    Compression, Inbound, Lane, MAX_CALL_BYTES, NetLimits, Network, PeerStats, QueueLimits,
};

use crate::support::{LONG, Node, Start, append, cluster, message, soon, until};

fn stats(node: &Node, peer: u64) -> PeerStats {
    node.network.peer_stats().into_iter().find(|stats| stats.id == peer).expect("a peer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_exchange_messages_on_both_lanes() {
    let mut nodes = cluster((1..=3).map(Start::new)).await;
    for node in &nodes {
        let (network, from) = (&node.network, node.id);
        for to in (1..=3).filter(|to| *to != from) {
            network.send_raft(to, Lane::Control, message(MessageType::MsgHeartbeat, from, to));
            network.send_raft(to, Lane::Append, append(from, to, 300_000, 7));
        }
    }
    for node in &mut nodes {
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (peer, message) = node.message().await;
            assert_eq!((message.from, message.to), (peer, node.id));
            let bytes = message.get_entries().iter().map(|entry| entry.data.len()).sum::<usize>();
            assert!(message.get_entries().iter().all(|entry| entry.data.iter().all(|b| *b == 7)));
            seen.push((peer, bytes));
        }
        seen.sort_unstable();
        let others = (1..=3).filter(|id| *id != node.id);
        assert_eq!(seen, others.flat_map(|id| [(id, 0), (id, 300_000)]).collect::<Vec<_>>());
    }
    // Counted when it was written, which may have been read by then.
    let counted = |to| {
        let stats = stats(&nodes[0], to);
        (stats.control.sent, stats.append.sent) == (1, 1)
    };
    until("what was sent to be counted", || counted(2) && counted(3)).await;
    let stats = stats(&nodes[0], 2);
    assert_eq!((stats.control.sent, stats.append.sent, stats.control.dropped), (1, 1, 0));
    assert_eq!((stats.control.received, stats.append.received), (1, 1));
    assert!(stats.append.gathered_bytes >= 300_000, "once, on arrival: {stats:?}");
    let wire = nodes[0].network.stats().wire;
    let passed = |way: straightway_wire::DirectionSnapshot| (way.direct, way.streamed);
    assert_eq!((passed(wire.sent), passed(wire.received)), ((2, 2), (2, 2)));
    assert!(wire.received.bytes > 600_000 && wire.sent.bytes > 600_000, "{wire:?}");
    assert!(wire.gathered_bytes >= 600_000 && wire.allocations_avoided > 0, "{wire:?}");
    assert!(stats.round_trip.is_some_and(|time| time > Duration::ZERO), "{stats:?}");
    assert_eq!((stats.boot, stats.inbound), (1, [true, true, false]));
    for node in &nodes {
        node.network.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_compressed_where_both_sides_have_said_so() {
    let start = |id| {
        let mut start = Start::new(id);
        start.limits.compress = (id < 3).then_some(Compression::Zstd);
        // Bytes of signs of life count too: there are none.
        (start.limits.idle, start.limits.keep_alive) = (LONG * 4, LONG * 2);
        start
    };
    let mut nodes = cluster((1..=3).map(start)).await;
    for to in [2, 3] {
        until("its hello", || stats(&nodes[0], to).inbound[1]).await;
        nodes[0].network.send_raft(to, Lane::Append, append(1, to, 300_000, 7));
    }
    for node in &mut nodes[1..] {
        let (_, message) = node.message().await;
        assert_eq!(message, append(1, node.id, 300_000, 7));
    }
    let sent = |to| stats(&nodes[0], to).append;
    // Last of all a write is counted; of a message in chunks each is one, and the message is counted with the first.
    until("both to be counted", || sent(2).batches > 0 && sent(3).sent_bytes > 300_000).await;
    assert_eq!((sent(2).sent, sent(3).sent), (1, 1));
    assert!(sent(2).sent_bytes < 3000, "{:?}", sent(2));
    assert!(sent(3).sent_bytes > 300_000, "{:?}", sent(3));
    until("its hello", || stats(&nodes[1], 1).inbound[1]).await;
    nodes[1].network.send_raft(1, Lane::Append, append(2, 1, 300_000, 9));
    assert_eq!(nodes[0].message().await, (2, append(2, 1, 300_000, 9)));
    assert!(stats(&nodes[0], 2).append.received_bytes < 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_entry_says_how_much_memory_it_keeps() {
    let mut nodes = cluster([Start::new(1), Start::new(2)]).await;
    let network = nodes[0].network.clone();
    let mut beat = message(MessageType::MsgHeartbeat, 1, 2);
    beat.context = Bytes::from_static(b"a read");
    network.send_raft(2, Lane::Control, beat);
    let mut kept = async || match nodes[1].event("a message", |_| true).await {
        Inbound::Raft { frame_bytes, message, .. } => (frame_bytes, message.get_msg_type()),
        _ => (0, MessageType::MsgHup),
    };
    soon("a heartbeat, which keeps nothing", async {
        loop {
            if let (bytes, MessageType::MsgHeartbeat) = kept().await {
                assert!(bytes < 100, "{bytes}");
                break;
            }
        }
    })
    .await;
    // One that arrives in two packets has memory of its own.
    soon("an entry that is a slice", async {
        loop {
            network.send_raft(2, Lane::Append, append(1, 2, 100, 1));
            if kept().await.0 >= 64 << 10 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_lanes_give_signs_of_life_that_are_answered() {
    let limits = NetLimits { keep_alive: Duration::from_millis(50), ..Start::new(1).limits };
    let start = |id| Start { limits: limits.clone(), ..Start::new(id) };
    let nodes = cluster([start(1), start(2)]).await;
    for (at, peer) in [(0, 2), (1, 1)] {
        until("echoes on both lanes", || {
            let stats = stats(&nodes[at], peer);
            stats.control.round_trip.is_some() && stats.append.round_trip.is_some()
        })
        .await;
        let stats = stats(&nodes[at], peer);
        assert_eq!((stats.control.sent, stats.control.received), (0, 0), "they are no messages");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_peer_does_not_take_is_not_sent() {
    let start = |id, append_message| {
        let mut start = Start::new(id);
        start.limits.append_message = append_message;
        start
    };
    let mut nodes = cluster([start(1, 4 << 20), start(2, 1 << 20)]).await;
    until("its hello", || stats(&nodes[0], 2).inbound[1]).await;
    let network = nodes[0].network.clone();
    let before = stats(&nodes[0], 2).append;
    network.send_raft(2, Lane::Append, append(1, 2, 2 << 20, 1));
    network.send_raft(2, Lane::Append, append(1, 2, 500_000, 2));
    assert_eq!(nodes[1].message().await.1, append(1, 2, 500_000, 2));
    let after = stats(&nodes[0], 2).append;
    assert_eq!(after.dropped, before.dropped + 1, "{after:?}");
    assert_eq!(after.connections, before.connections, "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_does_not_take_what_members_send_is_refused() {
    let begin = async |control_message, append_message| {
        let mut start = Start::new(1);
        start.limits = NetLimits { control_message, append_message, ..start.limits };
        let (sender, _inbound) = tokio::sync::mpsc::channel(1);
        let (handlers, config, _) = start.parts();
        Network::start(config, sender, handlers, &[]).await
    };
    let least = (64 << 10, 512 << 10);
    for (control, append, lane) in
        [(least.0 - 1, least.1, "control"), (least.0, least.1 - 1, "append")]
    {
        match begin(control, append).await {
            Err(ClusterError::Config { what }) => assert!(what.contains(lane), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    begin(least.0, least.1).await.expect("that is enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_have_the_same_key_and_no_other_pair_has() {
    let nodes = cluster((1..=3).map(Start::new)).await;
    let key = |at: usize, peer| nodes[at].network.exporter_key(peer);
    // Where both dialled twice at the beginning, one side may be on the newer connection a moment before the other.
    let mut keys = [None; 3];
    until("the same keys on both sides", || {
        keys = [key(0, 2), key(0, 3), key(1, 3)];
        keys.iter().all(Option::is_some) && keys == [key(1, 1), key(2, 1), key(2, 2)]
    })
    .await;
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    assert_eq!(nodes[0].network.exporter_key(7), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_reading_is_bounded_and_disturbs_nobody() {
    let limits = NetLimits {
        // Echoes of signs of life would wait and be replaced in the queues that are counted here.
        idle: LONG * 8,
        keep_alive: LONG * 4,
        inbound_bytes: 64 << 10,
        append_queue: QueueLimits { messages: 32, bytes: 1 << 20 },
        control_queue: QueueLimits { messages: 64, bytes: 1 << 20 },
        ..Start::new(1).limits
    };
    let start = |id| Start { limits: limits.clone(), ..Start::new(id) };
    let slow = Start { unread: 1, ..start(2) };
    let mut nodes = cluster([start(1), slow, start(3)]).await;
    let network = nodes[0].network.clone();

    // It stops: what it does not take stays here, then in the queue.
    let vote = |size: usize| {
        let mut vote = message(MessageType::MsgRequestVote, 1, 2);
        vote.context = Bytes::from(vec![1; size]);
        vote
    };
    let heartbeat = |commit| {
        let mut heartbeat = message(MessageType::MsgHeartbeat, 1, 2);
        heartbeat.commit = commit;
        heartbeat
    };
    // A queue that fills may only be waiting for its turn. It stands still if nothing leaves it while heartbeats come.
    let (mut votes, mut heartbeats) = (0_u64, 0_u64);
    soon("the control lane to stall", async {
        loop {
            while stats(&nodes[0], 2).control.queued < 8 {
                network.send_raft(2, Lane::Control, vote(16 << 10));
                votes += 1;
                tokio::task::yield_now().await;
            }
            let before = stats(&nodes[0], 2).control;
            for commit in heartbeats + 1..=heartbeats + 50 {
                network.send_raft(2, Lane::Control, heartbeat(commit));
            }
            heartbeats += 50;
            let after = stats(&nodes[0], 2).control;
            // The first of them may have taken the place of an older one.
            let placed = 50 - (after.replaced - before.replaced);
            if placed <= 1 && after.queued as u64 == before.queued as u64 + placed {
                break;
            }
        }
    })
    .await;
    soon("the append lane to fill", async {
        while stats(&nodes[0], 2).append.dropped < 100 {
            network.send_raft(2, Lane::Append, append(1, 2, 100_000, 2));
            tokio::task::yield_now().await;
        }
    })
    .await;
    let full = stats(&nodes[0], 2);
    assert!(full.append.queued_bytes <= 1 << 20 && full.append.queued <= 32, "{full:?}");
    assert!(full.control.connected && full.append.connected, "slow, not gone: {full:?}");

    // Told.
    nodes[0].event("a report", |event| matches!(event, Inbound::Unreachable { peer: 2 })).await;
    // The other one is not disturbed.
    for _ in 0..20 {
        network.send_raft(3, Lane::Append, append(1, 3, 100_000, 3));
        network.send_raft(3, Lane::Control, message(MessageType::MsgHeartbeat, 1, 3));
        nodes[2].message().await;
        nodes[2].message().await;
    }
    assert_eq!(stats(&nodes[0], 3).append.dropped, 0);
    // And not once for each that was dropped: again only after all that waited was sent. One more may be of the time when the
    // second did not know the first yet.
    let events = std::iter::from_fn(|| nodes[0].inbound.try_recv().ok());
    let told = events.filter(|event| matches!(event, Inbound::Unreachable { peer: 2 })).count();
    let PeerStats { control, append, .. } = stats(&nodes[0], 2);
    let writes = control.batches + append.batches;
    assert!(told as u64 <= 1 + writes, "told {told} times more in {writes} writes");

    // It reads again: of the heartbeats it sees those that were not replaced, the last one at the end.
    let placed = heartbeats - stats(&nodes[0], 2).control.replaced;
    let (mut seen, mut votes_seen) = (Vec::new(), 0);
    while votes_seen < votes || seen.last() != Some(&heartbeats) {
        let (_, message) = nodes[1].message().await;
        match message.get_msg_type() {
            MessageType::MsgHeartbeat => seen.push(message.commit),
            MessageType::MsgRequestVote => votes_seen += 1,
            _ => {}
        }
    }
    assert_eq!((votes_seen, seen.len() as u64), (votes, placed), "none lost: {seen:?}");
    assert!(seen.is_sorted(), "in order: {seen:?}");
    for node in &nodes {
        node.network.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_refused_or_given_up() {
    let limits = NetLimits { calls_pending: 2, calls_answered: 1, ..Start::new(1).limits };
    let start = |id| Start { limits: limits.clone(), ..Start::new(id) };
    let nodes = cluster([start(1), start(2)]).await;
    let network = &nodes[0].network;
    let call = |method: &'static str, payload: Bytes| network.call(2, method, payload, LONG);
    for size in [0, 1, 1452, 1453, 30_000, MAX_CALL_BYTES] {
        let payload = Bytes::from(vec![5; size]);
        assert_eq!(call("echo", payload.clone()).await.expect("answered"), payload);
    }
    assert_eq!(call("who", Bytes::new()).await.expect("answered"), 1_u64.to_le_bytes()[..]);
    let refused = call("else", Bytes::new()).await;
    assert!(
        matches!(&refused, Err(ClusterError::Refused { reason }) if reason == "no method `else`"),
        "{refused:?}"
    );
    let long = call("long", Bytes::new()).await;
    assert!(matches!(&long, Err(ClusterError::Refused { reason }) if reason.contains("1048576")));
    let large = call("echo", vec![0; MAX_CALL_BYTES + 1].into()).await;
    assert!(matches!(large, Err(ClusterError::Invalid { .. })), "{large:?}");
    let nobody = network.call(7, "echo", Bytes::new(), LONG).await;
    assert!(matches!(nobody, Err(ClusterError::Unreachable { peer: 7, .. })), "{nobody:?}");

    // One hangs: beyond what is answered at once the peer says so, beyond what may wait this side does.
    let short = network.call(2, "hang", Bytes::new(), Duration::from_millis(50)).await;
    assert!(matches!(short, Err(ClusterError::Timeout { .. })), "{short:?}");
    nodes[1].answers.hanging.notified().await;
    soon("the hanging call to be given up over there", async {
        while matches!(call("echo", Bytes::new()).await, Err(ClusterError::Busy { .. })) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let hang = |network: straightway_cluster::net::Network| {
        tokio::spawn(async move { network.call(2, "hang", Bytes::new(), LONG).await })
    };
    let first = hang(network.clone());
    nodes[1].answers.hanging.notified().await;
    let busy = call("echo", Bytes::new()).await;
    assert!(matches!(busy, Err(ClusterError::Busy { what: "the peer" })), "{busy:?}");
    // Dropped calls make room.
    for _ in 0..10 {
        let mut dropped = Box::pin(call("hang", Bytes::new()));
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(dropped.as_mut().poll(context).is_pending())
        });
        assert!(polled.await, "it waits");
    }
    let busy = call("echo", Bytes::new()).await;
    assert!(matches!(busy, Err(ClusterError::Busy { what: "the peer" })), "{busy:?}");

    // The peer goes: whoever waits for it hears of it.
    nodes[1].network.close().await;
    let gone = soon("the call to fail", first).await.expect("no panic");
    assert!(matches!(gone, Err(ClusterError::Unreachable { peer: 2, .. })), "{gone:?}");
    until("the lane to be known as down", || !stats(&nodes[0], 2).control.connected).await;
    let gone = call("echo", Bytes::new()).await;
    assert!(matches!(gone, Err(ClusterError::Unreachable { peer: 2, .. })), "{gone:?}");
}

/// Sends the second heartbeats until one has come: a lane that is dialled anew drops what it was given.
async fn heard(first: &Node, second: &mut Node) {
    soon("a heartbeat over there", async {
        let came = |told| matches!(told, Inbound::Raft { peer: 1, .. });
        while !second.inbound.try_recv().is_ok_and(came) {
            first.network.send_raft(2, Lane::Control, message(MessageType::MsgHeartbeat, 1, 2));
            // Pause: the lane is another task's; it is given another one.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
fn a_peer_that_was_killed_and_started_elsewhere_is_found_where_it_dials_from() {
    let limits = NetLimits::default();
    let start = |id| Start { limits: limits.clone(), ..Start::new(id) };
    let (ours, theirs) = (runtime(), runtime());
    let first = ours.block_on(start(1).start());
    let second = theirs.block_on(start(2).start());
    let members = [first.member(), second.member()];
    second.network.set_members(&members);
    first.network.set_members(&members);
    ours.block_on(first.connected(2));
    let place = second.address();
    // No goodbye is sent by a runtime that is gone; nobody tells the first where the second is now.
    theirs.shutdown_timeout(LONG);
    drop(second);
    let again = runtime();
    let mut second = again.block_on(Start { boot: 2, ..start(2) }.start());
    assert_ne!(second.address(), place);
    second.network.set_members(&members);
    ours.block_on(until("its hello", || stats(&first, 2).boot == 2));
    // The QUIC library knows where it was dialled from.
    ours.block_on(first.connected(2));
    ours.block_on(heard(&first, &mut second));
}

#[test]
fn a_peer_that_was_killed_and_started_again_is_back_at_once() {
    // Silence is not noticed within the test.
    let limits = NetLimits { idle: LONG * 4, ..Start::new(1).limits };
    let start = |id| Start { limits: limits.clone(), ..Start::new(id) };
    let (ours, theirs) = (runtime(), runtime());
    let mut first = ours.block_on(start(1).start());
    let second = theirs.block_on(start(2).start());
    let (members, place) = ([first.member(), second.member()], second.address());
    // In this order: a first that is refused, because it is not known yet, would tell of that.
    second.network.set_members(&members);
    first.network.set_members(&members);
    ours.block_on(first.connected(2));
    ours.block_on(first.event("a connection", |event| matches!(event, Inbound::Reachable { .. })));
    assert_eq!(stats(&first, 2).boot, 1);

    // No goodbye is sent by a runtime that is gone.
    theirs.shutdown_timeout(LONG);
    drop(second);
    assert!(stats(&first, 2).control.connected, "nobody has noticed");
    let again = runtime();
    let mut second = again.block_on(Start { boot: 2, bind: place, ..start(2) }.start());
    second.network.set_members(&members);
    ours.block_on(first.event("a report", |event| matches!(event, Inbound::Unreachable { .. })));
    ours.block_on(first.event("a connection", |event| matches!(event, Inbound::Reachable { .. })));
    // The old connection may be lost, and another one made, before the new start has said hello.
    ours.block_on(until("its hello", || stats(&first, 2).boot == 2));
    ours.block_on(first.connected(2));
    // It may be about to leave the old connection yet.
    ours.block_on(heard(&first, &mut second));
    let key = || (first.network.exporter_key(2), second.network.exporter_key(1));
    ours.block_on(until("keys of the new connection", || {
        let (ours, theirs) = key();
        ours.is_some() && ours == theirs
    }));
}
