//! Numbers to enumerations; a number that stands for nothing is refused.
use raft::prelude::{ConfChangeTransition, ConfChangeType, EntryType, MessageType};

use super::proto::Fault;

#[inline]
pub(super) fn message_type(number: u64) -> Result<MessageType, Fault> {
    use MessageType::{
        MsgAppend, MsgAppendResponse, MsgBeat, MsgCheckQuorum, MsgHeartbeat, MsgHeartbeatResponse,
        MsgHup, MsgPropose, MsgReadIndex, MsgReadIndexResp, MsgRequestPreVote,
        MsgRequestPreVoteResponse, MsgRequestVote, MsgRequestVoteResponse, MsgSnapStatus,
        MsgSnapshot, MsgTimeoutNow, MsgTransferLeader, MsgUnreachable,
    };
    const TYPES: [MessageType; 19] = [
        MsgHup,
        MsgBeat,
        MsgPropose,
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    one_of(&TYPES, number)
}

#[inline]
pub(super) fn entry_type(number: u64) -> Result<EntryType, Fault> {
    use EntryType::{EntryConfChange, EntryConfChangeV2, EntryNormal};
    one_of(&[EntryNormal, EntryConfChange, EntryConfChangeV2], number)
}

pub(super) fn change_type(number: u64) -> Result<ConfChangeType, Fault> {
    use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    one_of(&[AddNode, RemoveNode, AddLearnerNode], number)
}

pub(super) fn transition(number: u64) -> Result<ConfChangeTransition, Fault> {
    use ConfChangeTransition::{Auto, Explicit, Implicit};
    one_of(&[Auto, Implicit, Explicit], number)
}

#[inline]
fn one_of<T: Copy>(values: &[T], number: u64) -> Result<T, Fault> {
    usize::try_from(number).ok().and_then(|at| values.get(at)).copied().ok_or(Fault::Enum)
}
