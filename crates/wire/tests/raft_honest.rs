//! What honest members say is never taken for a lie: clusters in which messages are lost, doubled and overtaken, members
//! restart, logs are cut and members change, with the judge before every node.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod nodes;

use std::collections::BTreeMap;

use nodes::{Node, snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use raft::StateRole;
use raft::prelude::*;
use raft::storage::MemStorage;
use straightway_wire::raft::Severity;

#[derive(Debug, Clone, Copy)]
enum Act {
    /// Everybody's clock; the numbers say who ticks, by their lowest bits.
    Tick(u8),
    /// One message under way arrives, or is lost, or arrives and stays under way.
    Deliver(prop::sample::Index),
    Lose(prop::sample::Index),
    Double(prop::sample::Index),
    DeliverAll,
    Persist(u64),
    Propose,
    Read,
    Transfer(u64),
    Members(u64, bool),
    Restart(u64),
    Compact(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        6 => any::<u8>().prop_map(Act::Tick),
        6 => which().prop_map(Act::Deliver),
        2 => which().prop_map(Act::Lose),
        2 => which().prop_map(Act::Double),
        6 => Just(Act::DeliverAll),
        4 => (1..5_u64).prop_map(Act::Persist),
        4 => Just(Act::Propose),
        1 => Just(Act::Read),
        1 => (1..5_u64).prop_map(Act::Transfer),
        1 => ((2..5_u64), any::<bool>()).prop_map(|(id, voter)| Act::Members(id, voter)),
        1 => (1..5_u64).prop_map(Act::Restart),
        1 => (1..5_u64).prop_map(Act::Compact),
    ]
}

struct Cluster {
    nodes: BTreeMap<u64, Node>,
    under_way: Vec<Message>,
    delivered: usize,
    stale: usize,
}

impl Cluster {
    /// 1, 2 and 3 vote, 4 learns; the first entry stands for that.
    fn new() -> Self {
        let nodes = (1..=4).map(|id| {
            let storage = MemStorage::new();
            let state =
                ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
            storage.wl().apply_snapshot(snapshot(1, 1, state)).expect("a fresh log");
            storage.wl().set_hardstate(HardState { term: 1, commit: 1, ..HardState::default() });
            (id, Node::over(id, storage, 1))
        });
        Self { nodes: nodes.collect(), under_way: Vec::new(), delivered: 0, stale: 0 }
    }

    fn gather(&mut self) {
        for node in self.nodes.values_mut() {
            node.pump();
            self.under_way.append(&mut node.outbox);
        }
    }

    fn deliver(&mut self, message: Message) {
        let peer = message.from;
        self.report(&message, SnapshotStatus::Finish);
        let Some(node) = self.nodes.get_mut(&message.to) else { return };
        self.delivered += 1;
        if let Err(refusal) = node.receive(peer, message) {
            assert_eq!(refusal.severity, Severity::Stale, "{refusal}");
            self.stale += 1;
        }
        self.gather();
    }

    /// Who sends a snapshot is told what became of it, or it would wait for ever if the answer is lost.
    fn report(&mut self, message: &Message, status: SnapshotStatus) {
        if message.msg_type == MessageType::MsgSnapshot
            && let Some(node) = self.nodes.get_mut(&message.from)
        {
            node.raw.report_snapshot(message.to, status);
        }
    }

    fn leader(&mut self) -> Option<&mut Node> {
        let leads = |node: &&mut Node| node.raw.raft.state == StateRole::Leader;
        self.nodes.values_mut().filter(leads).max_by_key(|node| node.raw.raft.term)
    }

    fn act(&mut self, act: Act) {
        let len = self.under_way.len();
        match act {
            Act::Tick(who) => {
                for (id, node) in &mut self.nodes {
                    for _ in 0..=(who >> (2 * (id - 1))) & 3 {
                        node.tick();
                    }
                }
            }
            Act::Deliver(_) | Act::Lose(_) | Act::Double(_) if len == 0 => {}
            Act::Deliver(at) => {
                let message = self.under_way.swap_remove(at.index(len));
                self.deliver(message);
            }
            Act::Lose(at) => {
                let message = self.under_way.swap_remove(at.index(len));
                self.report(&message, SnapshotStatus::Failure);
            }
            Act::Double(at) => self.deliver(self.under_way[at.index(len)].clone()),
            Act::DeliverAll => self.deliver_all(),
            Act::Persist(id) => self.node(id).settle(),
            Act::Propose => {
                if let Some(leader) = self.leader() {
                    // Refused while leadership is being handed over.
                    drop(leader.raw.propose(Vec::new(), vec![7; 40]));
                }
            }
            Act::Read => {
                if let Some(leader) = self.leader() {
                    let id = leader.raw.raft.id;
                    leader.raw.read_index(vec![id.to_le_bytes()[0]]);
                }
            }
            Act::Transfer(to) => {
                if let Some(leader) = self.leader() {
                    leader.raw.transfer_leader(to);
                }
            }
            Act::Members(node_id, voter) => self.change(node_id, voter),
            Act::Restart(id) => self.restart(id),
            Act::Compact(id) => self.compact(id),
        }
        self.gather();
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("one of four")
    }

    fn change(&mut self, node_id: u64, voter: bool) {
        let Some(leader) = self.leader() else { return };
        let change_type =
            if voter { ConfChangeType::AddNode } else { ConfChangeType::AddLearnerNode };
        if leader.raw.raft.id == node_id {
            return;
        }
        let single = ConfChangeSingle { change_type, node_id, ..ConfChangeSingle::default() };
        let change = ConfChangeV2 { changes: vec![single].into(), ..ConfChangeV2::default() };
        drop(leader.raw.propose_conf_change(Vec::new(), change));
    }

    /// Comes back with what its disk has: everything that it was given.
    fn restart(&mut self, id: u64) {
        let node = self.node(id);
        node.settle();
        let (storage, applied) = (node.storage.clone(), node.raw.raft.raft_log.applied);
        *node = Node::over(id, storage, applied);
    }

    /// Whoever is behind gets a snapshot. The library's memory makes it of what is committed, so that has to be applied.
    fn compact(&mut self, id: u64) {
        let node = self.node(id);
        node.settle();
        let log = &node.raw.raft.raft_log;
        let (applied, commit) = (log.applied, log.committed);
        if applied == commit && applied > node.storage.first_index().expect("a log") {
            node.storage.wl().compact(applied).expect("compacted");
        }
    }

    fn deliver_all(&mut self) {
        for message in std::mem::take(&mut self.under_way) {
            self.deliver(message);
        }
    }

    /// Everything arrives and every disk writes, until all have the same.
    fn heal(&mut self) {
        for _ in 0..400 {
            for node in self.nodes.values_mut() {
                node.tick();
                node.pump();
                node.settle();
            }
            self.gather();
            self.deliver_all();
            self.act(Act::Propose);
        }
        for _ in 0..20 {
            for node in self.nodes.values_mut() {
                node.tick();
                node.pump();
                node.settle();
            }
            self.gather();
            self.deliver_all();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn honest_messages_are_taken_and_the_cluster_heals(acts in vec(act(), 1..250)) {
        let mut cluster = Cluster::new();
        for act in acts {
            cluster.act(act);
        }
        cluster.heal();
        let commits: Vec<_> = cluster.nodes.values().map(|node| node.raw.raft.raft_log.committed).collect();
        prop_assert!(commits[0] > 100, "{:?}", commits);
        prop_assert!(commits.iter().all(|commit| *commit == commits[0]), "{:?}", commits);
        // Few, and most of them answers to an election that is over.
        prop_assert!(cluster.stale * 20 <= cluster.delivered, "{} of {}", cluster.stale, cluster.delivered);
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}
