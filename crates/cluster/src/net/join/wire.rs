//! What the two say to each other.
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use straightway_wire::io::read_message_with;
use straightway_wire::{
    IoConfig, Limits, MessageType, RequestId, RpcRequest, RpcResponse, Segments, ZeroCopyMessage,
    write_message_zero_copy,
};

use super::{AGREEING, JoinAnswer, JoinRefusal, JoinRole, TicketId};
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId};
use crate::net::endpoint::exported;
use crate::net::members::{MemberAddress, WrittenMember};

const LABEL: &[u8] = b"straightway join 1";
/// Largest request and answer.
const MAX_BYTES: u32 = 64 << 10;
/// The one call that a joiner makes.
const SERVICE: &str = "join";
const METHOD: &str = "join";

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
    members: Vec<WrittenMember>,
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

/// Asks, under an id that the answer is to carry.
pub(super) async fn ask(
    stream: &mut SendStream,
    id: RequestId,
    asked: &Asked,
) -> Result<(), ClusterError> {
    let payload = serde_json::to_vec(asked).map_err(|error| invalid(&error))?;
    let request = RpcRequest { service: SERVICE.to_owned(), method: METHOD.to_owned(), payload };
    let mut body = Segments::default();
    request.encode(&mut body)?;
    write(stream, MessageType::Request, id, &body.finish().concat()).await
}

/// Answers the request of this id.
pub(super) async fn tell(
    stream: &mut SendStream,
    id: RequestId,
    answer: &Answer,
) -> Result<(), ClusterError> {
    let payload = serde_json::to_vec(answer).map_err(|error| invalid(&error))?;
    let error = match answer {
        Answer::Joined(_) => None,
        Answer::Refused(refusal) => Some(refusal.to_string()),
    };
    let response = RpcResponse { success: error.is_none(), payload: Some(payload), error };
    let mut body = Segments::default();
    response.encode(&mut body);
    write(stream, MessageType::Response, id, &body.finish().concat()).await
}

async fn write(
    stream: &mut SendStream,
    kind: MessageType,
    id: RequestId,
    payload: &[u8],
) -> Result<(), ClusterError> {
    let message = ZeroCopyMessage::new_borrowed(kind, Some(id), payload);
    write_message_zero_copy(stream, &message).await.map_err(|error| invalid(&error))
}

/// What a joiner asks, and under which id.
pub(super) async fn asked(
    stream: &mut RecvStream,
    step: Duration,
) -> Result<(RequestId, Asked), ClusterError> {
    let (id, payload) = read(stream, MessageType::Request, step, step).await?;
    let request = RpcRequest::decode(&payload).map_err(|error| invalid(&error))?;
    if (request.service.as_str(), request.method.as_str()) != (SERVICE, METHOD) {
        let RpcRequest { service, method, .. } = request;
        return Err(invalid(&format_args!("a call of `{service}.{method}`")));
    }
    Ok((id, from_json(&request.payload)?))
}

/// What the member answers to the request of this id, once the cluster has agreed.
pub(super) async fn answer(
    stream: &mut RecvStream,
    id: RequestId,
    step: Duration,
) -> Result<Answer, ClusterError> {
    let (found, payload) = read(stream, MessageType::Response, step, AGREEING + step).await?;
    if found != id {
        return Err(invalid(&"an answer to another request"));
    }
    let response = RpcResponse::decode(&payload).map_err(|error| invalid(&error))?;
    match (response.payload, response.error) {
        (Some(payload), _) => from_json(&payload),
        (None, Some(error)) => Err(invalid(&error)),
        (None, None) => Err(invalid(&"an answer without a result")),
    }
}

/// Reads the one message of a stream: `idle` is how long its beginning is waited for, `step` how long each step may take then.
async fn read(
    stream: &mut RecvStream,
    kind: MessageType,
    step: Duration,
    idle: Duration,
) -> Result<(RequestId, Bytes), ClusterError> {
    let limits = Limits::for_messages(MAX_BYTES);
    let config = IoConfig { limits, timeout: step, idle: Some(idle) };
    let (header, payload) =
        read_message_with(stream, &config).await.map_err(|error| invalid(&error))?;
    match header.request_id {
        Some(id) if header.msg_type == kind => Ok((id, payload)),
        Some(_) => Err(invalid(&format_args!("a {:?} instead of a {kind:?}", header.msg_type))),
        None => Err(invalid(&format_args!("a {:?} without an id", header.msg_type))),
    }
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClusterError> {
    serde_json::from_slice(bytes).map_err(|error| invalid(&error))
}

pub(super) fn answered(answer: &JoinAnswer) -> Answered {
    Answered {
        cluster: answer.cluster.to_string(),
        raft_id: answer.raft_id,
        members: answer.members.iter().map(WrittenMember::from).collect(),
    }
}

pub(super) fn understood(answered: Answered) -> Result<JoinAnswer, ClusterError> {
    let member = |member| MemberAddress::try_from(member).map_err(|error| invalid(&error));
    Ok(JoinAnswer {
        cluster: answered.cluster.parse().map_err(|error| invalid(&error))?,
        raft_id: answered.raft_id,
        members: answered.members.into_iter().map(member).collect::<Result<_, ClusterError>>()?,
    })
}
