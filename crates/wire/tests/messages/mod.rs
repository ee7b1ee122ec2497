//! Any Raft message.
#![allow(dead_code, reason = "each test takes what it needs")]
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raft::prelude::*;

pub(crate) const TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];
const ENTRY_TYPES: [EntryType; 3] =
    [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];

/// Small, large and in between, of every length that a varint can have.
pub(crate) fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..=64_u32).prop_map(|(number, shift)| number.checked_shr(shift).unwrap_or(0))
}

pub(crate) fn bytes(limit: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..limit).prop_map(Bytes::from)
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let parts = (0..3_usize, number(), number(), bytes(700), bytes(10), any::<bool>());
    parts.prop_map(|(entry_type, term, index, data, context, sync_log)| Entry {
        entry_type: ENTRY_TYPES[entry_type],
        term,
        // One that says nothing is refused.
        index: index.max(1),
        data,
        context,
        sync_log,
        ..Entry::default()
    })
}

pub(crate) fn conf_state() -> impl Strategy<Value = ConfState> {
    let ids = || vec(number(), 0..5);
    (ids(), ids(), ids(), ids(), any::<bool>()).prop_map(
        |(voters, learners, voters_outgoing, learners_next, auto_leave)| ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
            ..ConfState::default()
        },
    )
}

pub(crate) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let metadata = prop::option::of((prop::option::of(conf_state()), number(), number()));
    (bytes(600), metadata).prop_map(|(data, metadata)| {
        let mut snapshot = Snapshot { data, ..Snapshot::default() };
        if let Some((conf_state, index, term)) = metadata {
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (index, term);
            if let Some(conf_state) = conf_state {
                metadata.set_conf_state(conf_state);
            }
        }
        snapshot
    })
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let numbers = prop::array::uniform10(number());
    let rest = (any::<i64>(), 0..64_u32, any::<bool>(), bytes(40));
    (0..TYPES.len(), numbers, rest, vec(entry(), 0..6), prop::option::of(snapshot())).prop_map(
        |(msg_type, numbers, (priority, shift, reject, context), mut entries, snapshot)| {
            if TYPES[msg_type] != MessageType::MsgAppend {
                entries.truncate(1);
            }
            let [to, from, term, log_term, index, commit, commit_term, hint, old, request] =
                numbers;
            let mut message = Message {
                msg_type: TYPES[msg_type],
                to,
                from,
                term,
                log_term,
                index,
                entries: entries.into(),
                commit,
                commit_term,
                reject,
                reject_hint: hint,
                context,
                deprecated_priority: old,
                priority: priority >> shift,
                request_snapshot: request,
                ..Message::default()
            };
            if let Some(snapshot) = snapshot {
                message.set_snapshot(snapshot);
            }
            message
        },
    )
}

/// A message of this type from 2 to 1.
pub(crate) fn of(msg_type: MessageType, term: u64) -> Message {
    Message { msg_type, term, from: 2, to: 1, ..Message::default() }
}

pub(crate) fn an_entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: Bytes::from_static(b"data"), ..Entry::default() }
}

/// `count` entries of `len` bytes.
pub(crate) fn append(count: u64, len: usize) -> Message {
    let entries: Vec<_> = (1..=count)
        .map(|at| Entry {
            index: 1000 + at,
            term: 7,
            data: Bytes::from(vec![at.to_le_bytes()[0]; len]),
            ..Entry::default()
        })
        .collect();
    Message {
        log_term: 7,
        index: 1000,
        commit: 990,
        entries: entries.into(),
        ..of(MessageType::MsgAppend, 7)
    }
}

pub(crate) fn heartbeat() -> Message {
    Message { commit: 123_456, ..of(MessageType::MsgHeartbeat, 7) }
}
