//! The thread that owns Raft. It never waits for the network or for a peer; only for the disk's queue when that is full, and
//! for the applying thread's when a snapshot is to be installed.
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, select};
use raft::prelude::{ConfChangeType, ConfChangeV2, ConfState, Message, MessageType};
use straightway_wire::raft::{Lane as JudgedLane, Severity, decode_conf_state};
use tokio::sync::oneshot;

mod backlog;
mod reads;

use self::backlog::Backlog;
use super::apply::{Marks, Task};
use super::disk::{Job, Jobs, Outbox};
use super::inbox::{Arrived, Inbox};
use super::progress::{Detail, Progress};
use crate::catalogue::{self, Verified};
use crate::core::{Core, NotProposed, Output, ReadToken};
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::lease::{Ask, Grant, LeaseTable, Wait, boot_clock};
use crate::log::{LogMark, RaftStorage};
use crate::net::{Held, Lane};

/// How long a tick is.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Inputs taken before looking at what they lead to.
const MAX_INPUTS: usize = 1024;
/// Of the entries at which the log is cut, one in so many is kept, for followers that are a little late.
const KEEP_ONE_IN: u64 = 10;
/// The log is also cut when so much lies behind.
const CUT_BYTES: u64 = 64 << 20;

/// An answer that comes later.
pub(super) type Answer<T> = oneshot::Sender<Result<T, NotProposed>>;

/// What Raft's thread is asked for.
pub(super) enum Input {
    /// Put a command into the log; the answer says that the leader has it, not that it is committed.
    Propose(Bytes, Answer<()>),
    /// The index that a linearizable read must wait for.
    Read(Answer<u64>),
    /// A member asks for a serve lease.
    Ask(RaftId, Ask, Answer<Grant>),
    /// A member has applied this much.
    Applied(RaftId, u64),
    /// Tell when no member can serve what the command at this index took away.
    Release(u64, Answer<()>),
    /// Change the members.
    Members(Box<ConfChangeV2>, Answer<()>),
    /// Hand over leadership.
    Transfer(RaftId, Answer<()>),
    /// A snapshot that a leader announced has arrived and is whole; `None`: it could not be had.
    Snapshot(Box<(Message, Option<Verified>)>),
    /// A follower could not get the snapshot that it was offered.
    SnapshotFailed(RaftId),
    /// Make a snapshot's description for a follower.
    SnapshotMade(catalogue::CatalogueMark),
    /// End.
    Stop,
}

/// Begins to fetch the snapshot that a message announces; ends with [`Input::Snapshot`].
pub(super) type FetchSnapshot = Box<dyn Fn(Message) + Send>;

/// The driving thread's belongings.
pub(super) struct Driver {
    pub(super) core: Core,
    pub(super) storage: RaftStorage,
    pub(super) inbox: Inbox,
    pub(super) wake: Receiver<()>,
    pub(super) jobs: Jobs,
    pub(super) tasks: Sender<Task>,
    pub(super) outbox: Box<dyn Outbox>,
    pub(super) persisted: Arc<AtomicU64>,
    pub(super) marks: Arc<Marks>,
    pub(super) fetch: FetchSnapshot,
    pub(super) progress: Arc<Progress>,
    /// The log is cut when so many entries lie behind.
    pub(super) cut_entries: u64,
    pub(super) state: State,
}

/// What the driver keeps track of between two rounds.
pub(super) struct State {
    lease: LeaseTable,
    /// Who waits for a majority's word.
    reads: HashMap<ReadToken, Reader>,
    last_token: ReadToken,
    /// Who waits for a serve lease; the last one of each member.
    asks: HashMap<RaftId, Answer<Grant>>,
    /// Who waits for all members to have let go.
    releases: Vec<(u64, Answer<()>)>,
    /// Committed and not yet taken by the applying thread, and what would add to it when that is too much.
    committed: Backlog,
    late: VecDeque<(Lane, Box<Message>, Held)>,
    /// A snapshot that is being fetched.
    fetching: bool,
    /// A snapshot that is whole, until Raft says whether it wants it.
    arrived: Option<Verified>,
    persisted: u64,
    applied: u64,
}

enum Reader {
    /// Somebody who reads.
    Barrier(Answer<u64>),
    /// A round of serve leases, by its number.
    Leases(u64),
}

impl State {
    pub(super) fn new(lease: LeaseTable) -> Self {
        Self {
            lease,
            reads: HashMap::new(),
            asks: HashMap::new(),
            last_token: 0,
            releases: Vec::new(),
            committed: Backlog::default(),
            late: VecDeque::new(),
            fetching: false,
            arrived: None,
            persisted: 0,
            applied: 0,
        }
    }
}

impl Driver {
    /// Runs until it is stopped, or the node cannot go on: then `Err`.
    pub(super) fn run(mut self) -> Result<(), ClusterError> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let mut wait = next_tick.saturating_duration_since(Instant::now());
            if !self.inbox.peers.may_sleep() {
                wait = Duration::ZERO;
            }
            let mut proposals = Vec::new();
            select! {
                recv(self.inbox.inputs) -> input => match input {
                    Ok(Input::Stop) | Err(_) => return Ok(()),
                    Ok(input) => self.take(input, &mut proposals),
                },
                recv(self.wake) -> _ => {}
                default(wait) => {}
            }
            for _ in 0..MAX_INPUTS {
                match self.inbox.inputs.try_recv() {
                    Ok(Input::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                    Ok(input) => self.take(input, &mut proposals),
                    Err(TryRecvError::Empty) => break,
                }
            }
            self.propose(proposals);
            self.take_arrived()?;
            let now = Instant::now();
            if now >= next_tick {
                self.core.tick();
                // A thread that was held up does not make up for the ticks that it missed: elections would follow.
                next_tick = (next_tick + TICK).max(now);
                self.housekeeping()?;
            }
            self.marks();
            self.begin_leases();
            let output = self.core.poll()?;
            self.carry_out(output)?;
            self.releases();
        }
    }

    fn take(&mut self, input: Input, proposals: &mut Vec<(Bytes, Answer<()>)>) {
        match input {
            Input::Propose(command, answer) => proposals.push((command, answer)),
            Input::Read(answer) => self.read(answer),
            Input::Ask(member, ask, answer) => {
                if self.state.lease.asked(member, &ask) {
                    // Who asks again has given up on the ask before.
                    self.state.asks.insert(member, answer);
                } else {
                    let leader = self.core.leadership().leader;
                    reply(answer, Err(NotProposed::NotLeader(leader)));
                }
            }
            Input::Applied(member, index) => self.state.lease.applied(member, index),
            Input::Release(index, answer) => self.state.releases.push((index, answer)),
            Input::Members(change, answer) => {
                // Who asked may know less than the leader: what would take a vote away again has been overtaken.
                let overtaken = demotes(&change, &self.core.conf_state());
                let begun =
                    if overtaken { self.leading() } else { self.core.propose_members(&change) };
                reply(answer, begun);
            }
            Input::Transfer(to, answer) => {
                let led = self.core.is_leader();
                if led {
                    self.core.transfer(to);
                }
                reply(answer, self.leading());
            }
            Input::Snapshot(arrived) => self.snapshot_arrived(*arrived),
            Input::SnapshotFailed(peer) => self.core.snapshot_failed(peer),
            Input::SnapshotMade(mark) => {
                if let Ok(mark) = mark.decode() {
                    self.storage.set_snapshot(mark.to_snapshot());
                }
            }
            // The loop has taken it.
            Input::Stop => {}
        }
    }

    fn leading(&self) -> Result<(), NotProposed> {
        if self.core.is_leader() {
            Ok(())
        } else {
            Err(NotProposed::NotLeader(self.core.leadership().leader))
        }
    }

    /// All that came together goes into the log together: one append message to each follower.
    fn propose(&mut self, proposals: Vec<(Bytes, Answer<()>)>) {
        if proposals.is_empty() {
            return;
        }
        let (commands, answers): (Vec<_>, Vec<_>) = proposals.into_iter().unzip();
        let proposed = if self.state.committed.is_full() {
            Err(NotProposed::Busy)
        } else {
            self.core.propose(commands)
        };
        for answer in answers {
            reply(answer, proposed);
        }
    }

    fn take_arrived(&mut self) -> Result<(), ClusterError> {
        self.take_late()?;
        for _ in 0..MAX_INPUTS {
            match self.inbox.peers.pop() {
                Some(Arrived::Raft { lane, message, held }) => {
                    if let Some((message, held)) = self.put_off(lane, message, held) {
                        self.step(lane, *message)?;
                        drop(held);
                    }
                }
                Some(Arrived::Unreachable(peer)) => self.core.unreachable(peer),
                None => break,
            }
        }
        Ok(())
    }

    fn step(&mut self, lane: Lane, message: Message) -> Result<(), ClusterError> {
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        let judged = match lane {
            // What announces a snapshot is small; its bytes go their own way.
            Lane::Append if is_snapshot => JudgedLane::Bulk,
            Lane::Append => JudgedLane::Append,
            Lane::Control => JudgedLane::Control,
            Lane::Bulk => JudgedLane::Bulk,
        };
        if let Err(refusal) = self.core.judge(&message, message.from, judged) {
            return match refusal.severity {
                Severity::Amnesia => Err(ClusterError::Stopped {
                    reason: format!(
                        "has lost part of its log, of which the leader knows ({refusal}); remove it from the cluster, empty its data folder, and let it join again"
                    ),
                }),
                Severity::Hostile => {
                    self.outbox.refused(message.from, lane, &refusal);
                    Ok(())
                }
                Severity::Stale => Ok(()),
            };
        }
        if is_snapshot {
            self.snapshot_offered(message);
        } else {
            self.core.step(message);
        }
        Ok(())
    }

    fn snapshot_offered(&mut self, message: Message) {
        let index = message.get_snapshot().get_metadata().index;
        if self.state.fetching || index <= self.core.commit_index() {
            // Old ones only tell the leader where this member is, which is what stepping them does.
            if !self.state.fetching {
                self.core.step(message);
            }
            return;
        }
        self.state.fetching = true;
        (self.fetch)(message);
    }

    fn snapshot_arrived(&mut self, (mut message, verified): (Message, Option<Verified>)) {
        self.state.fetching = false;
        let Some(verified) = verified else { return };
        // What came may be newer than what was offered.
        let mark = &verified.manifest().mark;
        let Ok(snapshot) = mark.decode().map(|mark| mark.to_snapshot()) else { return };
        let index = mark.index;
        let members = members_of(snapshot.get_metadata().get_conf_state());
        *message.mut_snapshot() = snapshot;
        // What was judged was the offer, a while ago.
        if let Err(refusal) = self.core.judge(&message, message.from, JudgedLane::Bulk) {
            tracing::warn!(peer = message.from, index, %refusal, "a snapshot is of no use any more");
            return;
        }
        self.state.lease.restored(&members, index, boot_clock());
        self.state.arrived = Some(verified);
        self.core.step(message);
    }

    /// What the other threads have got done.
    fn marks(&mut self) {
        let persisted = self.persisted.load(Ordering::Acquire);
        if persisted > self.state.persisted {
            self.state.persisted = persisted;
            self.core.persisted(persisted);
        }
        let applied = self.marks.applied.load(Ordering::Acquire);
        self.core.applied(applied);
        if applied > self.state.applied {
            self.state.applied = applied;
            self.state.lease.applied(self.core.id(), applied);
        }
    }

    fn carry_out(&mut self, output: Output) -> Result<(), ClusterError> {
        let Output { messages, persist, committed, reads, leadership } = output;
        for message in messages {
            self.outbox.send(message);
        }
        for persist in persist {
            let job = match (&persist.snapshot, self.state.arrived.take()) {
                (None, kept) => {
                    self.state.arrived = kept;
                    Job::Persist(persist)
                }
                (Some(_), Some(verified)) => {
                    let (done, installed) = crossbeam_channel::bounded(1);
                    self.hand_over(Task::Install(Box::new(verified), done))?;
                    Job::Install(persist, installed)
                }
                (Some(_), None) => {
                    return Err(ClusterError::Raft("a snapshot without its bytes".to_owned()));
                }
            };
            self.jobs.give(job)?;
        }
        // Raft had no use for it: it was ahead already.
        self.state.arrived = None;
        self.note_members(&committed);
        self.state.committed.extend(committed);
        self.feed_applier();
        let now = boot_clock();
        if let Some(leadership) = leadership {
            if self.core.is_leader() {
                self.state.lease.became_leader(leadership.term, now);
            } else {
                self.state.lease.stepped_down();
                self.state.asks.clear();
            }
            self.publish();
            self.progress.set_leadership(leadership);
        }
        for (token, index) in reads {
            self.answer_read(token, index, now);
        }
        Ok(())
    }

    /// Once a tick.
    fn housekeeping(&mut self) -> Result<(), ClusterError> {
        self.feed_applier();
        self.publish();
        if self.storage.take_snapshot_request() && !self.tasks.is_full() {
            // The answer comes as an input.
            let _ = self.tasks.try_send(Task::Mark);
        }
        self.cut_log()
    }

    fn cut_log(&mut self) -> Result<(), ClusterError> {
        let durable = self.marks.durable.load(Ordering::Acquire);
        let first = self.storage.first();
        let behind = durable.saturating_sub(first);
        if behind < self.cut_entries && self.storage.bytes() < CUT_BYTES {
            return Ok(());
        }
        let through = durable.saturating_sub((self.cut_entries / KEEP_ONE_IN).min(behind / 2));
        if through <= first {
            return Ok(());
        }
        let Some(mark) = self.storage.cut(through) else { return Ok(()) };
        self.jobs.give(Job::Compact(mark))
    }

    /// Lets the others see where it is.
    fn publish(&self) {
        self.progress.set_detail(Detail {
            commit_index: self.core.commit_index(),
            log_first: self.storage.first(),
            members: self.core.progress(),
            conf_state: self.core.conf_state(),
        });
    }
}

impl catalogue::CatalogueMark {
    /// As Raft's log has it: what Raft calls a snapshot is this alone, and its bytes go their own way.
    pub(super) fn decode(&self) -> Result<LogMark, ClusterError> {
        let conf_state = decode_conf_state(&self.conf_state)?;
        Ok(LogMark { index: self.index, term: self.term, conf_state })
    }
}

/// Whether a change makes a learner of a voter. That is how nodes begin that join, and nothing else is.
fn demotes(change: &ConfChangeV2, state: &ConfState) -> bool {
    change.get_changes().iter().any(|single| {
        single.get_change_type() == ConfChangeType::AddLearnerNode
            && (state.voters.contains(&single.node_id)
                || state.voters_outgoing.contains(&single.node_id))
    })
}

/// Everybody who may hold a lease.
pub(super) fn members_of(conf_state: &ConfState) -> Vec<RaftId> {
    let mut members = [
        &conf_state.voters,
        &conf_state.voters_outgoing,
        &conf_state.learners,
        &conf_state.learners_next,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect::<Vec<_>>();
    members.sort_unstable();
    members.dedup();
    members
}

/// Whoever asked may have gone.
fn reply<T>(answer: Answer<T>, with: Result<T, NotProposed>) {
    let _ = answer.send(with);
}

#[cfg(test)]
mod tests;
