//! Nothing that a peer can say makes a node panic, in any role.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod nodes;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use nodes::{Node, ROLES, Role, entry, message, snapshot};
use raft::StateRole;
use raft::prelude::*;
use straightway_wire::raft::{
    Facts, Lane, Refusal, Severity, encode_conf_change_v2, lane_of, validate,
};

fn append(index: u64, log_term: u64, term: u64, entries: Vec<Entry>) -> Message {
    let entries = entries.into();
    Message { index, log_term, entries, ..message(MessageType::MsgAppend, 2, term) }
}

fn installs(term: u64, snapshot: Snapshot) -> Message {
    let mut message = message(MessageType::MsgSnapshot, 2, term);
    message.set_snapshot(snapshot);
    message
}

fn members(voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64]) -> ConfState {
    ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        voters_outgoing: outgoing.to_vec(),
        learners_next: next.to_vec(),
        ..ConfState::default()
    }
}

fn read(count: usize, context: &'static [u8], term: u64) -> Message {
    let data = Entry { data: Bytes::from_static(context), ..Entry::default() };
    let entries = vec![data; count].into();
    Message { entries, ..message(MessageType::MsgReadIndex, 2, term) }
}

/// What a follower of 2 in term 2 must not step, and the rule that stands against it.
fn hostile() -> Vec<(&'static str, Message)> {
    use MessageType::*;
    let of = |msg_type| message(msg_type, 2, 2);
    let mut auto = members(&[1, 2, 3], &[], &[], &[]);
    auto.auto_leave = true;
    let unreadable = Entry {
        entry_type: EntryType::EntryConfChangeV2,
        data: Bytes::from_static(&[0xff]),
        ..entry(7, 2)
    };
    let many = ConfChangeV2 {
        changes: vec![ConfChangeSingle::default(); 17].into(),
        ..ConfChangeV2::default()
    };
    let many = Entry { data: encode_conf_change_v2(&many), ..unreadable.clone() };
    let long = vec![0; 257];
    let conf = |state| installs(2, snapshot(9, 2, state));
    vec![
        ("this type does not travel", of(MsgHup)),
        ("this type does not travel", of(MsgBeat)),
        ("this type does not travel", of(MsgUnreachable)),
        ("this type does not travel", of(MsgSnapStatus)),
        ("this type does not travel", of(MsgCheckQuorum)),
        ("this type does not travel", of(MsgPropose)),
        ("this type does not travel", of(MsgTransferLeader)),
        ("for the member that gets it", Message { to: 42, ..of(MsgHeartbeat) }),
        ("that the connection is bound to", Message { from: 1, ..of(MsgHeartbeat) }),
        ("that the connection is bound to", Message { from: 3, ..of(MsgRequestVote) }),
        ("that the connection is bound to", Message { from: 0, ..of(MsgHeartbeat) }),
        ("a message has a term", message(MsgHeartbeat, 2, 0)),
        ("a message has a term", message(MsgAppend, 2, 0)),
        ("a message has a term", message(MsgReadIndexResp, 2, 0)),
        ("below 2^62", message(MsgTimeoutNow, 2, u64::MAX)),
        ("below 2^62", Message { commit: u64::MAX, ..of(MsgHeartbeat) }),
        ("below 2^62", Message { reject_hint: u64::MAX, ..of(MsgAppendResponse) }),
        ("below 2^62", append(u64::MAX, 2, 2, vec![entry(0, 2)])),
        ("grow by elections", message(MsgRequestVote, 2, (1 << 62) - 1)),
        ("grow by elections", message(MsgHeartbeat, 2, 3 + (1 << 32))),
        ("later term than its message", Message { log_term: 3, index: 9, ..of(MsgRequestVote) }),
        ("later term than its message", append(6, 2, 2, vec![entry(7, 3)])),
        ("later term than its message", installs(2, snapshot(9, 3, members(&[1], &[], &[], &[])))),
        ("what was acknowledged is in the log", Message { commit: 1000, ..of(MsgHeartbeat) }),
        (
            "what was acknowledged is in the log",
            Message { commit: 7, ..message(MsgHeartbeat, 2, 3) },
        ),
        ("an index has a term", append(7, 0, 2, vec![entry(8, 2)])),
        ("an index has a term", append(1000, 0, 2, Vec::new())),
        ("an index has a term", append(0, 1, 2, Vec::new())),
        ("entries follow one another", append(6, 2, 2, vec![entry(8, 2)])),
        ("entries follow one another", append(6, 2, 2, vec![entry(7, 2), entry(9, 2)])),
        ("entries follow one another", append(6, 2, 2, vec![entry(8, 2), entry(7, 2)])),
        ("entries follow one another", append(6, 2, 2, vec![entry(7, 2), entry(7, 2)])),
        ("do not decrease", append(6, 2, 2, vec![entry(7, 1)])),
        ("do not decrease", append(6, 2, 3, vec![entry(7, 3), entry(8, 2)])),
        ("do not decrease", append(6, 2, 2, vec![entry(7, 0)])),
        ("can be read", append(6, 2, 2, vec![unreadable])),
        ("can be read", append(6, 2, 2, vec![many])),
        ("one member leads in a term", Message { from: 3, ..append(6, 2, 2, Vec::new()) }),
        ("one member leads in a term", message(MsgHeartbeat, 3, 2)),
        ("one member leads in a term", message(MsgTimeoutNow, 3, 2)),
        ("has an index and a term", installs(2, Snapshot::default())),
        ("has an index and a term", of(MsgSnapshot)),
        ("has an index and a term", installs(2, snapshot(9, 0, members(&[1], &[], &[], &[])))),
        ("committed is of one term", installs(2, snapshot(4, 1, members(&[1], &[], &[], &[])))),
        ("has voters", conf(members(&[], &[1], &[], &[]))),
        ("has voters", conf(members(&[], &[], &[1, 2], &[]))),
        ("in a list once", conf(members(&[1, 1, 2], &[1], &[], &[]))),
        ("nobody learns and votes", conf(members(&[1, 2], &[1], &[], &[]))),
        ("nobody learns and votes", conf(members(&[2], &[1], &[1, 2], &[]))),
        ("is voting until then", conf(members(&[1, 2], &[], &[], &[3]))),
        ("is voting until then", conf(members(&[1, 2, 3], &[], &[1, 3], &[3]))),
        ("have a number", conf(members(&[0, 1], &[], &[], &[]))),
        ("what is joint is left", conf(auto)),
        (
            "at most 64 members",
            conf(members(&(1..=40).collect::<Vec<_>>(), &(41..=65).collect::<Vec<_>>(), &[], &[])),
        ),
        ("priorities are not used", Message { priority: -1, ..of(MsgRequestPreVote) }),
        ("priorities are not used", Message { deprecated_priority: 1, ..of(MsgRequestVote) }),
        ("not requested", Message { request_snapshot: 9, reject: true, ..of(MsgAppendResponse) }),
        ("where it belongs", Message { context: long.into(), ..of(MsgHeartbeat) }),
        ("where it belongs", Message { context: Bytes::from_static(b"x"), ..of(MsgRequestVote) }),
        ("where they belong", Message { entries: vec![entry(7, 2)].into(), ..of(MsgHeartbeat) }),
        (
            "where it belongs",
            Message { msg_type: MsgHeartbeat, ..conf(members(&[1], &[], &[], &[])) },
        ),
        ("has no term", read(1, b"context", 2)),
        ("are asked of the leader", read(1, b"context", 0)),
        ("one context", Message { msg_type: MsgReadIndexResp, ..read(0, b"", 2) }),
        ("one context", Message { msg_type: MsgReadIndexResp, ..read(1, b"", 2) }),
        ("where they belong", Message { msg_type: MsgReadIndexResp, ..read(2, b"x", 2) }),
    ]
}

/// The connection that a message of [`hostile`] comes by: 2's, but for those that another sends in its own name.
fn peer(rule: &str, message: &Message) -> u64 {
    if rule.contains("bound to") { 2 } else { message.from }
}

fn judge(node: &Node, peer: u64, message: &Message) -> Result<(), Refusal> {
    let lane = lane_of(message.msg_type).unwrap_or(Lane::Control);
    validate(message, &Facts::of(&node.raw, peer, lane))
}

#[test]
fn hostile_messages_are_refused_by_a_rule_that_names_them() {
    let node = Node::new(Role::Follower);
    for (rule, message) in hostile() {
        let refusal = judge(&node, peer(rule, &message), &message).expect_err(rule);
        assert!(refusal.rule.contains(rule), "{refusal} instead of {rule}");
        let severity = match rule {
            rule if rule.contains("acknowledged") => Severity::Amnesia,
            rule if rule.contains("asked of the leader") => Severity::Stale,
            _ => Severity::Hostile,
        };
        assert_eq!(refusal.severity, severity, "{refusal}");
    }
}

#[test]
fn hostile_messages_harm_no_role() {
    for role in ROLES {
        for (rule, message) in hostile() {
            let mut node = Node::new(role);
            let peer = peer(rule, &message);
            // What is hostile to a follower may be stale, or an answer to nothing, elsewhere.
            let _ = node.receive(peer, message.clone());
            let _ = node.receive(peer, message);
            node.live_on();
        }
    }
}

/// Otherwise this file would test nothing.
#[test]
fn without_the_judge_they_would() {
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut panics = Vec::new();
    for role in ROLES {
        for (at, (rule, message)) in hostile().into_iter().enumerate() {
            let done = catch_unwind(AssertUnwindSafe(|| {
                let mut node = Node::new(role);
                drop(node.raw.step(message));
                node.live_on();
            }));
            if done.is_err() {
                panics.push((at, rule));
            }
        }
    }
    std::panic::set_hook(silent);
    panics.sort_unstable();
    panics.dedup();
    // Not all: some are lies that do harm later, or only to others.
    for rule in [
        "does not travel",
        "has a term",
        "below 2^62",
        "acknowledged",
        "an index has a term",
        "follow one another",
        "can be read",
        "has voters",
        "in a list once",
        "learns and votes",
        "voting until then",
        "have a number",
        "what is joint is left",
        "has no term",
        "not used",
    ] {
        assert!(panics.iter().any(|(_, panics)| panics.contains(rule)), "{rule}");
    }
}

#[test]
fn nobody_has_more_than_the_leader() {
    let mut node = Node::new(Role::Leader);
    let last = node.raw.raft.raft_log.last_index();
    let of = |msg_type| message(msg_type, 3, 3);
    for beyond in [
        Message { index: last + 1, ..of(MessageType::MsgAppendResponse) },
        Message {
            reject: true,
            index: last,
            reject_hint: last + 1,
            ..of(MessageType::MsgAppendResponse)
        },
        Message { commit: last + 1, ..of(MessageType::MsgAppendResponse) },
        Message { commit: last + 1, ..of(MessageType::MsgHeartbeatResponse) },
    ] {
        let refusal = judge(&node, 3, &beyond).expect_err("beyond");
        assert_eq!(
            (refusal.severity, refusal.found, refusal.expected),
            (Severity::Hostile, last + 1, last)
        );
    }
    node.receive(3, Message { index: last, ..of(MessageType::MsgAppendResponse) }).expect("honest");
    // Another leader in the same term.
    for msg_type in [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgTimeoutNow]
    {
        assert_eq!(
            judge(&node, 3, &of(msg_type)).expect_err("refused").rule,
            "one member leads in a term"
        );
    }
}

#[test]
fn a_leader_takes_reads_one_by_one_and_not_without_end() {
    let mut node = Node::new(Role::Leader);
    for (hostile, rule) in [
        (read(0, b"", 0), "a read has one context"),
        (read(1, b"", 0), "a read has one context"),
        (read(2, b"x", 0), "entries are where they belong"),
    ] {
        assert_eq!(judge(&node, 2, &hostile).expect_err("refused").rule, rule);
    }
    let mut taken = 0_u32;
    let refusal = loop {
        let mut read = read(1, b"", 0);
        read.mut_entries()[0].data = Bytes::from(format!("context {taken}"));
        match node.receive(2, read) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refusal.rule, refusal.severity), ("reads that wait are limited", Severity::Stale));
    assert_eq!(taken, 4096);
}

#[test]
fn who_has_no_term_refuses_no_vote() {
    let mut node = Node::new(Role::Bootstrapped);
    let ask = message(MessageType::MsgRequestPreVote, 2, 1);
    assert_eq!(node.receive(2, ask.clone()).expect_err("behind").severity, Severity::Stale);
    node.receive(2, Message { index: 1, log_term: 1, ..ask }).expect("as far as we");
    node.live_on();
}

/// Elected before its log is on the disk, the library panics.
#[test]
fn nobody_is_elected_while_the_log_is_on_its_way_to_the_disk() {
    let mut alone = Node::new(Role::Alone);
    let behind = append(6, 2, 2, vec![entry(7, 2)]);
    alone.receive(4, Message { from: 4, ..behind.clone() }).expect("a leader, as far as we know");
    let now = message(MessageType::MsgTimeoutNow, 4, 2);
    let refusal = alone.receive(4, now.clone()).expect_err("not yet");
    assert_eq!(refusal.severity, Severity::Stale);
    alone.pump();
    assert_eq!(alone.receive(4, now.clone()).expect_err("still not"), refusal);
    alone.settle();
    alone.receive(4, now).expect("now");
    assert_eq!(alone.raw.raft.state, StateRole::Leader);
    alone.live_on();

    let mut node = Node::new(Role::Follower);
    node.receive(2, behind).expect("honest");
    while node.raw.raft.state == StateRole::Follower {
        node.raw.tick();
    }
    let vote = message(MessageType::MsgRequestPreVoteResponse, 2, 3);
    assert_eq!(node.receive(2, vote.clone()).expect_err("not yet").severity, Severity::Stale);
    node.pump();
    node.settle();
    node.receive(2, vote).expect("now");
    assert_eq!(node.raw.raft.state, StateRole::Candidate);
}
