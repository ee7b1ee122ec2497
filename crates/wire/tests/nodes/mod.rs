//! Real Raft nodes in memory, driven as the cluster drives them: what is to be persisted may be under way while more comes.
#![allow(dead_code, reason = "each test takes what it needs")]
use raft::prelude::*;
use raft::storage::MemStorage;
use raft::{ReadOnlyOption, StateRole};
use slog::{Discard, Logger, o};
use straightway_wire::raft::{Facts, Lane, Refusal, decode_conf_change, lane_of, validate};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Never heard of anybody: no configuration, no log, no term.
    Joiner,
    /// Has a snapshot of the first configuration, and no term.
    Bootstrapped,
    /// Follows 2.
    Follower,
    PreCandidate,
    Candidate,
    Leader,
    /// The only voter, beside a learner, before and after it leads.
    Alone,
    AloneLeader,
    /// Leads while a member changes.
    JointLeader,
}

pub(crate) const ROLES: [Role; 9] = [
    Role::Joiner,
    Role::Bootstrapped,
    Role::Follower,
    Role::PreCandidate,
    Role::Candidate,
    Role::Leader,
    Role::Alone,
    Role::AloneLeader,
    Role::JointLeader,
];

pub(crate) struct Node {
    pub(crate) raw: RawNode<MemStorage>,
    pub(crate) storage: MemStorage,
    /// Handed out by `ready`, and not yet told to be on the disk; with the messages that wait for it.
    pending: Vec<(u64, Vec<Message>)>,
    /// Left, or ready to.
    pub(crate) outbox: Vec<Message>,
    committed: Vec<Entry>,
    pub(crate) applied: Vec<Entry>,
    pub(crate) reads: usize,
}

pub(crate) fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: bytes::Bytes::from_static(b"data"), ..Entry::default() }
}

pub(crate) fn message(msg_type: MessageType, from: u64, term: u64) -> Message {
    Message { msg_type, from, to: 1, term, ..Message::default() }
}

pub(crate) fn snapshot(index: u64, term: u64, state: ConfState) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state(state);
    snapshot
}

impl Node {
    pub(crate) fn over(id: u64, storage: MemStorage, applied: u64) -> Self {
        let config = Config {
            id,
            applied,
            election_tick: 10,
            heartbeat_tick: 1,
            pre_vote: true,
            check_quorum: true,
            batch_append: true,
            max_size_per_msg: 64,
            max_inflight_msgs: 4,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let logger = Logger::root(Discard, o!());
        let raw = RawNode::new(&config, storage.clone(), &logger).expect("a node");
        Self {
            raw,
            storage,
            pending: Vec::new(),
            outbox: Vec::new(),
            committed: Vec::new(),
            applied: Vec::new(),
            reads: 0,
        }
    }

    /// Node 1 in a role. Logs of those who have one: 1 is the first configuration, 2 and 3 are of term 1, 4 to 6 of term 2;
    /// committed through 4; members 1, 2 and 3 vote, 4 learns.
    pub(crate) fn new(role: Role) -> Self {
        let storage = MemStorage::new();
        if role == Role::Joiner {
            return Self::over(1, storage, 0);
        }
        let alone = matches!(role, Role::Alone | Role::AloneLeader);
        let voters = if alone { vec![1] } else { vec![1, 2, 3] };
        let state = ConfState { voters, learners: vec![4], ..ConfState::default() };
        storage.wl().apply_snapshot(snapshot(1, 1, state)).expect("a fresh log");
        // The library's storage gives it the snapshot's term.
        storage.wl().set_hardstate(HardState { commit: 1, ..HardState::default() });
        if role == Role::Bootstrapped {
            return Self::over(1, storage, 1);
        }
        let terms = [(2, 1), (3, 1), (4, 2), (5, 2), (6, 2)];
        let entries: Vec<_> = terms.into_iter().map(|(index, term)| entry(index, term)).collect();
        storage.wl().append(&entries).expect("appended");
        storage.wl().set_hardstate(HardState { term: 2, commit: 4, ..HardState::default() });
        let mut node = Self::over(1, storage, 1);
        node.pump();
        node.settle();
        node.enter(role);
        node.pump();
        node.settle();
        node.outbox.clear();
        node
    }

    fn enter(&mut self, role: Role) {
        if matches!(role, Role::Follower) {
            let heartbeat = Message { commit: 4, ..message(MessageType::MsgHeartbeat, 2, 2) };
            return self.raw.step(heartbeat).expect("stepped");
        }
        if matches!(role, Role::Alone) {
            return;
        }
        while self.raw.raft.state == StateRole::Follower {
            self.raw.tick();
        }
        if matches!(role, Role::PreCandidate | Role::AloneLeader) {
            return;
        }
        self.raw.step(message(MessageType::MsgRequestPreVoteResponse, 2, 3)).expect("stepped");
        self.pump();
        self.settle();
        if role == Role::Candidate {
            return;
        }
        self.raw.step(message(MessageType::MsgRequestVoteResponse, 2, 3)).expect("stepped");
        self.pump();
        self.settle();
        let acknowledged = Message { index: 7, ..message(MessageType::MsgAppendResponse, 2, 3) };
        self.raw.step(acknowledged).expect("stepped");
        self.pump();
        self.settle();
        if role == Role::JointLeader {
            let mut change = ConfChangeV2 {
                transition: ConfChangeTransition::Explicit,
                ..ConfChangeV2::default()
            };
            for (node_id, change_type) in
                [(4, ConfChangeType::AddNode), (3, ConfChangeType::AddLearnerNode)]
            {
                let single =
                    ConfChangeSingle { change_type, node_id, ..ConfChangeSingle::default() };
                change.mut_changes().push(single);
            }
            self.raw.propose_conf_change(Vec::new(), change).expect("proposed");
            self.pump();
            self.settle();
            let acknowledged =
                Message { index: 8, ..message(MessageType::MsgAppendResponse, 2, 3) };
            self.raw.step(acknowledged).expect("stepped");
        }
    }

    /// What the cluster does with a message from `peer`.
    pub(crate) fn receive(&mut self, peer: u64, message: Message) -> Result<(), Refusal> {
        let lane = lane_of(message.msg_type).unwrap_or(Lane::Control);
        validate(&message, &Facts::of(&self.raw, peer, lane))?;
        // Of no use: from somebody who is no member any more, for instance.
        drop(self.raw.step(message));
        Ok(())
    }

    /// A tick; not while a sole voter's log is on its way to the disk.
    pub(crate) fn tick(&mut self) {
        let facts = Facts::of(&self.raw, 0, Lane::Control);
        if facts.settled || self.raw.raft.state == StateRole::Leader {
            self.raw.tick();
        }
    }

    /// Everything that is ready, given to the storage, but not yet told to be there.
    pub(crate) fn pump(&mut self) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.outbox.append(&mut ready.take_messages());
            self.reads += ready.take_read_states().len();
            if !ready.snapshot().is_empty() {
                self.storage.wl().apply_snapshot(ready.snapshot().clone()).expect("installed");
            }
            self.storage.wl().append(ready.entries()).expect("appended");
            if let Some(hard_state) = ready.hs() {
                self.storage.wl().set_hardstate(hard_state.clone());
            }
            self.pending.push((ready.number(), ready.take_persisted_messages()));
            let committed = ready.take_committed_entries();
            self.raw.advance_append_async(ready);
            for entry in committed {
                self.commit(entry);
            }
        }
    }

    /// The disk has everything.
    pub(crate) fn settle(&mut self) {
        while !self.pending.is_empty() {
            for (number, messages) in std::mem::take(&mut self.pending) {
                self.raw.on_persist_ready(number);
                self.outbox.extend(messages);
            }
            let log = &self.raw.raft.raft_log;
            let snapshot = self.storage.first_index().expect("a log") - 1;
            let through = self.committed.last().map_or(0, |entry| entry.index).max(snapshot);
            if through > log.applied {
                self.raw.advance_apply_to(through);
            }
            self.applied.append(&mut self.committed);
            self.pump();
        }
    }

    /// Goes on: to the disk, through elections.
    pub(crate) fn live_on(&mut self) {
        self.pump();
        self.settle();
        for _ in 0..45 {
            self.tick();
            self.pump();
            self.settle();
        }
    }

    fn commit(&mut self, entry: Entry) {
        if entry.entry_type != EntryType::EntryNormal {
            let change = decode_conf_change(entry.entry_type, &entry.data).expect("was judged");
            // What the library refuses changes nothing, here as everywhere.
            if let Ok(state) = self.raw.apply_conf_change(&change) {
                self.storage.wl().set_conf_state(state);
            }
            let raft = &mut self.raw.raft;
            if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
                // A leader that is no member any more panics when its log has reached the disk.
                let term = raft.term;
                raft.become_follower(term, raft::INVALID_ID);
            }
        }
        self.committed.push(entry);
    }
}
