//! What the two say to each other.
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use straightway_wire::{
    Frame, Limits, MessageHeader, MessageParser, MessageType, QUIC_CUT, Segments, encode_frame,
};

use super::{JoinAnswer, JoinRefusal, JoinRole, TicketId};
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId};
use crate::net::endpoint::exported;
use crate::net::members::MemberAddress;

const LABEL: &[u8] = b"straightway join 1";
/// Largest request and answer.
const MAX_BYTES: u32 = 64 << 10;

#[derive(Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) cluster: String,
    pub(super) ticket: String,
    pub(super) voter: bool,
    pub(super) proof: String,
    pub(super) storage: String,
    pub(super) name: String,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) mesh: Option<SocketAddr>,
    pub(super) http: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Answered {
    cluster: String,
    raft_id: RaftId,
    members: Vec<Member>,
}

#[derive(Serialize, Deserialize)]
struct Member {
    id: RaftId,
    key: String,
    addresses: Vec<SocketAddr>,
    storage: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Joined(Answered),
    Refused(JoinRefusal),
}

/// What shows on this connection that the ticket is held.
pub(super) fn proof(
    connection: &Connection,
    verifier: &[u8; 32],
    ticket: TicketId,
    role: JoinRole,
    key: NodeKey,
) -> Option<blake3::Hash> {
    let material = exported(connection, LABEL, &ticket.0)?;
    let mut mac = blake3::Hasher::new_keyed(verifier);
    mac.update(&material).update(&[u8::from(role == JoinRole::Voter)]).update(&key.0);
    Some(mac.finalize())
}

pub(super) fn invalid(reason: &dyn fmt::Display) -> ClusterError {
    ClusterError::Invalid { what: "a request to join, or its answer", reason: reason.to_string() }
}

pub(super) async fn write(
    stream: &mut SendStream,
    kind: MessageType,
    value: &impl Serialize,
) -> Result<(), ClusterError> {
    let body = serde_json::to_vec(value).map_err(|error| invalid(&error))?;
    let mut frame = Segments::new(QUIC_CUT);
    encode_frame(&mut frame, &MessageHeader::new(kind), Bytes::from(body))?;
    stream.write_all_chunks(frame.finish()).await.map_err(|error| invalid(&error))
}

/// Reads the one message of a stream.
pub(super) async fn read<T: DeserializeOwned>(
    mut stream: RecvStream,
    kind: MessageType,
) -> Result<T, ClusterError> {
    let mut parser = MessageParser::new(Limits::for_messages(MAX_BYTES));
    loop {
        if let Some(Frame { header, payload }) = parser.next_message()? {
            if header.msg_type != kind {
                return Err(invalid(&format_args!(
                    "a {:?} instead of a {kind:?}",
                    header.msg_type
                )));
            }
            return serde_json::from_slice(&payload).map_err(|error| invalid(&error));
        }
        match stream.read_chunk(usize::MAX).await.map_err(|error| invalid(&error))? {
            Some(piece) => parser.feed(piece),
            None => return Err(invalid(&"it ended too early")),
        }
    }
}

pub(super) fn answered(answer: &JoinAnswer) -> Answered {
    let member = |member: &MemberAddress| Member {
        id: member.id,
        key: member.key.to_string(),
        addresses: member.addresses.clone(),
        storage: member.storage.map(|id| id.to_string()),
    };
    Answered {
        cluster: answer.cluster.to_string(),
        raft_id: answer.raft_id,
        members: answer.members.iter().map(member).collect(),
    }
}

pub(super) fn understood(answered: Answered) -> Result<JoinAnswer, ClusterError> {
    let member = |member: Member| {
        let storage = member.storage.map(|id| id.parse()).transpose();
        Ok(MemberAddress {
            id: member.id,
            key: member.key.parse().map_err(|error| invalid(&error))?,
            addresses: member.addresses,
            storage: storage.map_err(|error| invalid(&error))?,
        })
    };
    Ok(JoinAnswer {
        cluster: answered.cluster.parse().map_err(|error| invalid(&error))?,
        raft_id: answered.raft_id,
        members: answered.members.into_iter().map(member).collect::<Result<_, ClusterError>>()?,
    })
}
