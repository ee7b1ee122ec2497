//! Raft without I/O: events in, things to do out.
//!
//! [`Core`] wraps `raft::RawNode`. It reads no clock, no file and no socket: whoever drives it ticks it, steps what came from
//! peers (validated by then), carries out each [`Output`] in order, and reports what has been persisted and applied.
mod logger;
mod reads;

use std::collections::BTreeMap;
use std::fmt;
use std::mem;

use bytes::Bytes;
use raft::prelude::{
    ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot,
};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use straightway_wire::raft::{Facts, Lane, Refusal, validate};

use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::log::RaftStorage;

pub use reads::ReadToken;
use reads::Reads;

/// Ticks without word from a leader before a follower stands for election; the library draws from this to twice this.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between two heartbeats.
pub const HEARTBEAT_TICKS: usize = 1;
/// Ticks after which a snapshot is offered again. Who is fetching it does not mind.
const OFFER_TICKS: usize = 100;
/// Most bytes of entries that are read for one append message, or one entry of any length.
pub(crate) const MAX_APPEND_BYTES: u64 = 256 << 10;
/// Append messages under way to one follower.
const MAX_INFLIGHT: usize = 32;
/// Bytes of entries proposed and not yet committed; further proposals are refused as busy.
const MAX_UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Bytes of committed entries handed out at a time.
const MAX_COMMITTED_BYTES: u64 = 4 << 20;

/// What a member is to the others at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// What is known of the term and its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// Its leader, 0 while there is none.
    pub leader: RaftId,
    /// What this member is in it.
    pub role: Role,
}

/// What must reach the disk, in the order given. When it has, [`Core::persisted`] is told `number`, and `messages` leave.
#[derive(Debug, Default)]
pub struct Persist {
    /// Counts up.
    pub number: u64,
    /// A snapshot to be installed first, replacing the log.
    pub snapshot: Option<Snapshot>,
    /// Entries to append; the first may replace a tail.
    pub entries: Vec<Entry>,
    /// Term, vote and commit: whenever anything is written.
    pub hard_state: Option<HardState>,
    /// What may be sent only afterwards.
    pub messages: Vec<Message>,
}

impl Persist {
    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.entries.is_empty() && self.hard_state.is_none()
    }
}

/// What is to be done, in this order: persist, send, apply.
#[derive(Debug, Default)]
pub struct Output {
    /// Messages that may leave at once.
    pub messages: Vec<Message>,
    /// What must be persisted.
    pub persist: Vec<Persist>,
    /// What is committed, to be applied in order, with the configuration that holds from each change on.
    pub committed: Vec<Committed>,
    /// Reads that have been confirmed (the index to wait for) or have failed.
    pub reads: Vec<(ReadToken, Option<u64>)>,
    /// Term, leader or role have changed.
    pub leadership: Option<Leadership>,
}

/// A committed entry.
#[derive(Debug)]
pub enum Committed {
    /// A command, or nothing if `data` is empty.
    Command {
        /// Its place.
        index: u64,
        /// Its term.
        term: u64,
        /// The command.
        data: Bytes,
    },
    /// A change of members, and what holds from it on.
    Members {
        /// Its place.
        index: u64,
        /// Its term.
        term: u64,
        /// The configuration.
        conf_state: ConfState,
    },
}

/// Why a proposal was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotProposed {
    /// Another member leads; 0: nobody that is known.
    NotLeader(RaftId),
    /// Too much is under way, or leadership is being handed over: try again.
    Busy,
}

/// Raft, without I/O.
pub struct Core {
    raw: RawNode<RaftStorage>,
    storage: RaftStorage,
    leadership: Leadership,
    reads: Reads,
    /// Followers that were offered a snapshot, and for how many ticks they have said nothing.
    offered: BTreeMap<RaftId, usize>,
    /// The last number that was reported back.
    persisted: u64,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.id())
            .field("leadership", &self.leadership)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A member of number `id` over what its log holds, of which the state machine has everything through `applied`.
    /// `election_ticks`: what its election timeout is drawn from; simulations give each member its own.
    pub fn new(
        id: RaftId,
        storage: RaftStorage,
        applied: u64,
        election_ticks: Option<(usize, usize)>,
    ) -> Result<Self, ClusterError> {
        let (min_election_tick, max_election_tick) = election_ticks.unwrap_or((0, 0));
        let config = Config {
            id,
            applied,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick,
            max_election_tick,
            max_size_per_msg: MAX_APPEND_BYTES,
            max_inflight_msgs: MAX_INFLIGHT,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: MAX_COMMITTED_BYTES,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let raw = RawNode::new(&config, storage.clone(), &logger::tracing())
            .map_err(|error| ClusterError::Raft(error.to_string()))?;
        Ok(Self {
            raw,
            storage,
            leadership: Leadership::default(),
            reads: Reads::default(),
            offered: BTreeMap::new(),
            persisted: 0,
        })
    }

    /// This member's number.
    pub fn id(&self) -> RaftId {
        self.raw.raft.id
    }

    /// Term, leader and role, as last told.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The last committed index that is known here.
    pub fn commit_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The last index of the log.
    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// How far each member's log agrees with the leader's, and whether it has been heard lately; empty where this member
    /// does not lead.
    pub fn progress(&self) -> Vec<(RaftId, u64, bool)> {
        if !self.is_leader() {
            return Vec::new();
        }
        let own = self.id();
        let prs = self.raw.raft.prs();
        prs.iter().map(|(id, pr)| (*id, pr.matched, *id == own || pr.recent_active)).collect()
    }

    /// The present configuration.
    pub fn conf_state(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
    }

    /// Lets one tick pass.
    pub fn tick(&mut self) {
        // The only voter wins its election at once; the library asserts that its log is on the disk by then.
        let log = &self.raw.raft.raft_log;
        let alone = self.raw.raft.prs().is_singleton();
        if !(alone && !self.is_leader() && log.persisted != log.last_index()) {
            self.raw.tick();
        }
        self.offer_snapshots_again();
    }

    /// A follower that was offered a snapshot and says nothing may never have heard of it. The library would wait for ever.
    fn offer_snapshots_again(&mut self) {
        if !self.is_leader() {
            return self.offered.clear();
        }
        let prs = self.raw.raft.prs();
        let waiting: Vec<_> = prs
            .iter()
            .filter(|(_, pr)| pr.state == ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        self.offered.retain(|id, _| waiting.contains(id));
        for id in waiting {
            let ticks = self.offered.entry(id).or_insert(0);
            *ticks += 1;
            if *ticks >= OFFER_TICKS {
                *ticks = 0;
                self.snapshot_failed(id);
            }
        }
    }

    /// Judges a message that came from `peer` on one of its lanes: what passes cannot make [`Core::step`] panic.
    pub fn judge(&self, message: &Message, peer: RaftId, lane: Lane) -> Result<(), Refusal> {
        validate(message, &Facts::of(&self.raw, peer, lane))
    }

    /// Takes a peer's message, which has just been judged.
    pub fn step(&mut self, message: Message) {
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "a message was of no use");
        }
    }

    /// Stands for election at once: the only voter need not wait.
    pub fn campaign(&mut self) {
        if let Err(error) = self.raw.campaign() {
            tracing::debug!(%error, "no election");
        }
    }

    /// Proposes commands, all or none of them, by reference.
    pub fn propose(&mut self, commands: Vec<Bytes>) -> Result<(), NotProposed> {
        let entries = commands.into_iter().map(|data| Entry { data, ..Entry::default() }).collect();
        self.propose_entries(entries)
    }

    /// Proposes a change of members. One at a time: while another is under way it turns into nothing.
    pub fn propose_members(&mut self, change: &ConfChangeV2) -> Result<(), NotProposed> {
        let data = straightway_wire::raft::encode_conf_change_v2(change);
        let mut entry = Entry { data, ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.propose_entries(vec![entry])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), NotProposed> {
        if !self.is_leader() {
            return Err(NotProposed::NotLeader(self.raw.raft.leader_id));
        }
        let mut message = Message { from: self.id(), ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        self.raw.raft.step(message).map_err(|_| NotProposed::Busy)
    }

    /// Asks a majority whether this member still leads. The answer comes as [`Output::reads`]; `Err`: it does not lead, or
    /// has nothing committed in its term yet.
    pub fn read(&mut self, token: ReadToken) -> Result<(), NotProposed> {
        if !self.is_leader() {
            return Err(NotProposed::NotLeader(self.raw.raft.leader_id));
        }
        // The library drops such requests without a word.
        if !self.raw.raft.commit_to_current_term() {
            return Err(NotProposed::Busy);
        }
        self.reads.ask(token);
        Ok(())
    }

    /// Hands leadership to a voter, as soon as it has the whole log.
    pub fn transfer(&mut self, to: RaftId) {
        self.raw.transfer_leader(to);
    }

    /// A peer could not be sent to.
    pub fn unreachable(&mut self, peer: RaftId) {
        self.raw.report_unreachable(peer);
    }

    /// A peer could not take a snapshot.
    pub fn snapshot_failed(&mut self, peer: RaftId) {
        self.raw.report_snapshot(peer, SnapshotStatus::Failure);
    }

    /// Everything through `number` has reached the disk.
    pub fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number);
        self.raw.on_persist_ready(number);
    }

    /// The state machine has everything through `index`. To be told again and again: what is ahead of what has been
    /// persisted here (a snapshot that was installed before the log knew) counts later.
    pub fn applied(&mut self, index: u64) {
        let log = &self.raw.raft.raft_log;
        let index = index.min(log.committed).min(log.persisted);
        if index > log.applied {
            self.raw.advance_apply_to(index);
        }
    }

    /// What is to be done now.
    pub fn poll(&mut self) -> Result<Output, ClusterError> {
        let mut output = Output::default();
        // Asked for by a leader that is none any more, they fail below; the library would ask the new one.
        if self.is_leader()
            && let Some(context) = self.reads.begin()
        {
            self.raw.read_index(context);
        }
        while self.raw.has_ready() {
            self.one_ready(&mut output)?;
        }
        self.note_leadership(&mut output);
        Ok(output)
    }

    fn one_ready(&mut self, output: &mut Output) -> Result<(), ClusterError> {
        let mut ready = self.raw.ready();
        output.messages.append(&mut ready.take_messages());
        for read in ready.take_read_states() {
            self.reads.confirmed(&read.request_ctx, read.index, &mut output.reads);
        }
        let mut persist = Persist {
            number: ready.number(),
            messages: ready.take_persisted_messages(),
            ..Persist::default()
        };
        if !ready.snapshot().is_empty() {
            self.storage.apply_snapshot(ready.snapshot())?;
            persist.snapshot = Some(ready.snapshot().clone());
        }
        if !ready.entries().is_empty() {
            self.storage.append(ready.entries())?;
            persist.entries = ready.take_entries();
        }
        if let Some(hard_state) = ready.hs() {
            self.storage.set_hard_state(hard_state.clone());
        }
        // A commit index alone is not worth a write. But it goes along with every write, changed or not: what follows on a
        // change of members may be counted by the new members, and so may not be on this disk without word that the change is
        // committed. A voter that started again without it would stand for election among the old ones.
        if ready.must_sync() {
            persist.hard_state = Some(self.storage.hard_state());
        }
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        if persist.is_empty() && self.persisted + 1 == persist.number {
            // Nothing to write and nothing being written: a heartbeat's answer does not wait for the disk's thread.
            output.messages.append(&mut persist.messages);
            self.persisted(persist.number);
        } else {
            output.persist.push(persist);
        }
        for entry in committed {
            let committed = self.commit(entry)?;
            output.committed.push(committed);
        }
        Ok(())
    }

    fn commit(&mut self, entry: Entry) -> Result<Committed, ClusterError> {
        let Entry { index, term, data, .. } = entry;
        if entry.entry_type == EntryType::EntryNormal {
            return Ok(Committed::Command { index, term, data });
        }
        let change = straightway_wire::raft::decode_conf_change(entry.entry_type, &data)?;
        // What cannot be applied is nothing on all members alike: it depends on the configuration alone.
        let conf_state = self.raw.apply_conf_change(&change).unwrap_or_else(|error| {
            tracing::warn!(%error, index, "a change of members came to nothing");
            self.raw.raft.prs().conf().to_conf_state()
        });
        self.storage.set_conf_state(conf_state.clone());
        if self.is_leader() && self.raw.raft.prs().get(self.id()).is_none() {
            // The library goes on leading, and panics when it next looks for its own progress.
            let current = self.raw.raft.term;
            self.raw.raft.become_follower(current, 0);
        }
        Ok(Committed::Members { index, term, conf_state })
    }

    fn note_leadership(&mut self, output: &mut Output) {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        let now = Leadership { term: raft.term, leader: raft.leader_id, role };
        let before = mem::replace(&mut self.leadership, now);
        if before == now {
            return;
        }
        if role != Role::Leader || before.term != now.term {
            self.reads.fail_all(&mut output.reads);
        }
        output.leadership = Some(now);
    }
}
