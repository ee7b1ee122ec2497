//! Runs of any messages at all, in any role: decoded, judged, stepped, and nothing panics.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod messages;
mod nodes;

use bytes::Bytes;
use nodes::{Node, ROLES, Role, entry, message, snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use raft::prelude::*;
use straightway_wire::raft::{
    deserialize_raft_message_fast, encode_conf_change_v2, serialize_raft_message_fast,
};

/// A message that is wrong in few places at a time, about a log of six entries.
fn plausible() -> impl Strategy<Value = Message> {
    let small = || prop_oneof![8 => 0..10_u64, 1 => Just(u64::MAX), 1 => Just((1 << 62) - 1), 1 => messages::number()];
    let term = || prop_oneof![12 => 1..6_u64, 1 => Just(0), 1 => messages::number()];
    let ids = || vec(0..5_u64, 0..4);
    let state = (
        ids(),
        ids(),
        prop_oneof![3 => Just(Vec::new()), 1 => ids()],
        prop_oneof![3 => Just(Vec::new()), 1 => ids()],
        prop::bool::weighted(0.1),
    );
    let changes = (0..3_usize, vec((0..3_usize, 0..6_u64), 0..3));
    let run = (
        0..5_usize,
        prop::bool::weighted(0.9),
        vec((0..2_u64, prop::bool::weighted(0.15)), 5),
        changes,
    );
    let numbers =
        (term(), prop_oneof![3 => 0..4_u64, 1 => small()], small(), small(), small(), small());
    (0..messages::TYPES.len(), 2..5_u64, numbers, any::<(bool, u8)>(), run, state).prop_map(
        |(kind, from, numbers, (reject, dice), run, state)| {
            let (term, log_term, index, commit, commit_term, reject_hint) = numbers;
            let msg_type = messages::TYPES[kind];
            let mut message = Message {
                index,
                log_term,
                commit,
                reject,
                reject_hint,
                ..message(msg_type, from, term)
            };
            match msg_type {
                MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
                    message
                        .mut_entries()
                        .push(Entry { data: Bytes::copy_from_slice(&[dice]), ..Entry::default() });
                    if msg_type == MessageType::MsgReadIndex && dice < 250 {
                        message.term = 0;
                        message.log_term = 0;
                    }
                }
                MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                    message.commit_term = commit_term.min(term);
                    if dice < 100 && msg_type == MessageType::MsgRequestVote {
                        message.context = Bytes::from_static(b"CampaignTransfer");
                    }
                }
                MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
                    message.commit_term = commit_term.min(term);
                }
                MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse if dice < 60 => {
                    message.context = Bytes::copy_from_slice(&[dice]);
                }
                MessageType::MsgAppend => fill(&mut message, run),
                MessageType::MsgSnapshot => {
                    let (voters, learners, voters_outgoing, learners_next, auto_leave) = state;
                    let state = ConfState {
                        voters,
                        learners,
                        voters_outgoing,
                        learners_next,
                        auto_leave,
                        ..ConfState::default()
                    };
                    message.set_snapshot(snapshot(index, log_term, state));
                }
                _ => {}
            }
            message
        },
    )
}

type Run = (usize, bool, Vec<(u64, bool)>, (usize, Vec<(usize, u64)>));

/// Entries behind `message.index`, mostly in order; some change members.
fn fill(message: &mut Message, (count, in_order, steps, (transition, changes)): Run) {
    const TYPES: [ConfChangeType; 3] =
        [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode];
    const TRANSITIONS: [ConfChangeTransition; 3] = [
        ConfChangeTransition::Auto,
        ConfChangeTransition::Implicit,
        ConfChangeTransition::Explicit,
    ];
    let mut term = message.log_term.max(1);
    for (at, (step, members)) in steps.into_iter().take(count).enumerate() {
        term = term.saturating_add(step);
        let index = message.index.saturating_add(1 + at as u64);
        let mut entry = entry(if in_order { index } else { index ^ 1 }, term);
        if members {
            let changes: Vec<_> = changes
                .iter()
                .map(|(kind, node_id)| ConfChangeSingle {
                    change_type: TYPES[*kind],
                    node_id: *node_id,
                    ..ConfChangeSingle::default()
                })
                .collect();
            entry.entry_type = EntryType::EntryConfChangeV2;
            entry.data = encode_conf_change_v2(&ConfChangeV2 {
                transition: TRANSITIONS[transition],
                changes: changes.into(),
                ..ConfChangeV2::default()
            });
        }
        message.mut_entries().push(entry);
    }
    if in_order {
        message.term = message.term.max(term);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Message(Message),
    Bytes(u64, Vec<u8>),
    Ready,
    Persisted,
    Ticks(usize),
    Propose,
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => plausible().prop_map(Step::Message),
        1 => messages::message().prop_map(Step::Message),
        1 => (2..5_u64, vec(any::<u8>(), 0..40)).prop_map(|(from, bytes)| Step::Bytes(from, bytes)),
        3 => Just(Step::Ready),
        2 => Just(Step::Persisted),
        1 => (1..25_usize).prop_map(Step::Ticks),
        1 => Just(Step::Propose),
        1 => Just(Step::Read),
    ]
}

/// Bytes as they come from `peer`: decoded, judged, stepped.
fn arrive(node: &mut Node, peer: u64, bytes: &[u8]) -> bool {
    match deserialize_raft_message_fast(bytes) {
        Ok(message) => node.receive(peer, message).is_ok(),
        Err(_) => false,
    }
}

fn play(role: Role, steps: Vec<Step>) -> (usize, usize) {
    let mut node = Node::new(role);
    let (mut taken, mut refused) = (0, 0);
    for step in steps {
        let count = match step {
            Step::Message(message) => Some(arrive(
                &mut node,
                message.from,
                &serialize_raft_message_fast(&message).expect("encoded"),
            )),
            Step::Bytes(peer, bytes) => Some(arrive(&mut node, peer, &bytes)),
            Step::Ready => {
                node.pump();
                None
            }
            Step::Persisted => {
                node.pump();
                node.settle();
                None
            }
            Step::Ticks(count) => {
                (0..count).for_each(|_| node.tick());
                None
            }
            // Neither is answered by everybody.
            Step::Propose => {
                drop(node.raw.propose(Vec::new(), b"mine".to_vec()));
                None
            }
            Step::Read => {
                node.raw.read_index(b"mine".to_vec());
                None
            }
        };
        match count {
            Some(true) => taken += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    node.live_on();
    (taken, refused)
}

#[test]
fn no_run_of_messages_makes_a_node_panic() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let sums = std::cell::Cell::new((0, 0));
    let runs = (0..ROLES.len(), vec(step(), 1..30));
    runner
        .run(&runs, |(role, steps)| {
            let (taken, refused) = play(ROLES[role], steps);
            let before = sums.get();
            sums.set((before.0 + taken, before.1 + refused));
            Ok(())
        })
        .expect("no panic");
    let (taken, refused) = sums.get();
    println!("{taken} taken, {refused} refused");
    assert!(taken * 10 > refused, "{taken} of {refused} messages were plausible");
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}
