//! What a message is judged by, and what comes of it.
use std::fmt;

use raft::prelude::{MessageType, RawNode, Storage};

use crate::error::WireError;

/// One of the connections to a peer. A message on another one than its own is refused: what is urgent has a lane to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, reads.
    Control,
    /// Entries and their acknowledgements.
    Append,
    /// Snapshots.
    Bulk,
}

/// The lane of a message; `None`: it never travels. Proposals and handing over leadership are asked for by RPC, which has
/// an answer; what raft tells itself stays at home.
pub fn lane_of(msg_type: MessageType) -> Option<Lane> {
    match msg_type {
        MessageType::MsgAppend | MessageType::MsgAppendResponse => Some(Lane::Append),
        MessageType::MsgSnapshot => Some(Lane::Bulk),
        MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => Some(Lane::Control),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => None,
    }
}

/// What is known here at the moment when a message is judged. Anything that `step`, `tick` or `ready` did since makes it
/// void: judge and step in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// This member.
    pub self_id: u64,
    /// The member to whose key the connection is bound.
    pub peer: u64,
    /// The connection.
    pub lane: Lane,
    /// The term.
    pub term: u64,
    /// Who leads in it, as far as is known; 0: nobody.
    pub leader: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// Its term.
    pub last_term: u64,
    /// Last committed index.
    pub commit: u64,
    /// Its term.
    pub commit_term: u64,
    /// Whether everything in the log has reached the disk.
    pub settled: bool,
    /// Whether this member may be elected.
    pub promotable: bool,
    /// Reads that wait for a majority.
    pub pending_reads: usize,
}

impl Facts {
    /// What `node` knows. Asks its storage for two terms.
    pub fn of<S: Storage>(node: &RawNode<S>, peer: u64, lane: Lane) -> Self {
        let raft = &node.raft;
        let log = &raft.raft_log;
        let last_index = log.last_index();
        let term_of = |index| log.term(index).unwrap_or(0);
        Self {
            self_id: raft.id,
            peer,
            lane,
            term: raft.term,
            leader: raft.leader_id,
            last_index,
            last_term: term_of(last_index),
            commit: log.committed,
            commit_term: term_of(log.committed),
            settled: log.persisted == last_index
                && log.unstable_entries().is_empty()
                && log.unstable_snapshot().is_none(),
            promotable: raft.promotable(),
            pending_reads: raft.pending_read_count(),
        }
    }
}

/// What a refused message says about who sent it, or about us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// An honest peer sends this too, when messages cross or much is going on. Drop it; it is sent again, or not needed.
    Stale,
    /// No honest peer of this version sends this. Drop it, count it, close the connection.
    Hostile,
    /// The leader counts on entries that this member acknowledged and does not have: its log was lost or rolled back.
    /// It must not take part any longer; remove it and join it as a new member.
    Amnesia,
}

/// Why a message must not be stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The rule.
    pub rule: &'static str,
    /// What that means.
    pub severity: Severity,
    /// The type of the message.
    pub msg_type: MessageType,
    /// What it says.
    pub found: u64,
    /// What that should be, or not exceed.
    pub expected: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, msg_type, found, expected, .. } = self;
        write!(f, "{msg_type:?}: {rule} (found {found}, expected {expected})")
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for WireError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { rule, msg_type, found, expected, .. } = refusal;
        let detail = format!("{msg_type:?}, found {found}, expected {expected}");
        Self::RaftMessage { rule, detail }
    }
}
