//! Raft messages: to bytes and back without copying an entry, and the judge in front of `step`.
//!
//! The bytes are those of protobuf schema `eraftpb`, which every tool around raft-rs reads. Encoder and decoder are written
//! by hand for these few messages: the library's parser recurses, keeps what it does not know, and copies; it is used in
//! tests, which hold both against each other.
mod decode;
mod encode;
mod facts;
mod kinds;
mod proto;
pub mod utils;
mod validate;

use bytes::Bytes;
use raft::prelude::{
    ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, EntryType, HardState, Snapshot,
};

pub use decode::{IntoWireBytes, deserialize_raft_message_fast, memory_of};
pub use encode::{
    Sink, WireBuffer, encode_raft_message, encoded_len, serialize_raft_message_fast,
    serialize_raft_message_into, serialize_raft_message_vectored,
};
pub use facts::{Facts, Lane, Refusal, Severity, lane_of};
pub use validate::validate;

use crate::error::WireError;

/// Most entries in a message.
pub const MAX_ENTRIES: usize = 64 << 10;
/// Most members in each list of a configuration.
pub const MAX_MEMBERS: usize = 64;
/// Most members that change in one step.
pub const MAX_CHANGES: usize = 16;

macro_rules! record {
    ($type:ty, $what:literal, $encode:ident, $decode:ident) => {
        #[doc = concat!("The bytes of ", $what, ".")]
        pub fn $encode(value: &$type) -> Bytes {
            encode::to_bytes(value)
        }

        #[doc = concat!("Reads ", $what, "; byte strings in it are slices of `data`.")]
        pub fn $decode(data: impl IntoWireBytes) -> Result<$type, WireError> {
            decode::from_bytes(&data, $what)
        }
    };
}

record!(Entry, "a Raft entry", encode_entry, decode_entry);
record!(Snapshot, "a Raft snapshot", encode_snapshot, decode_snapshot);
record!(HardState, "a Raft hard state", encode_hard_state, decode_hard_state);
record!(ConfState, "a Raft configuration", encode_conf_state, decode_conf_state);
record!(ConfChangeV2, "a change of members", encode_conf_change_v2, decode_conf_change_v2);
record!(ConfChange, "a change of one member", encode_conf_change_v1, decode_conf_change_v1);

/// The change of members in an entry of this type, in the newer form; none in [`EntryType::EntryNormal`].
pub fn decode_conf_change(entry_type: EntryType, data: &Bytes) -> Result<ConfChangeV2, WireError> {
    match entry_type {
        EntryType::EntryConfChangeV2 => decode_conf_change_v2(data),
        EntryType::EntryConfChange => {
            let ConfChange { change_type, node_id, context, .. } = decode_conf_change_v1(data)?;
            let single = ConfChangeSingle { change_type, node_id, ..ConfChangeSingle::default() };
            let changes = vec![single].into();
            Ok(ConfChangeV2 { changes, context, ..ConfChangeV2::default() })
        }
        EntryType::EntryNormal => Err(WireError::Invalid {
            what: "a change of members",
            reason: "it is in an ordinary entry".to_owned(),
        }),
    }
}
