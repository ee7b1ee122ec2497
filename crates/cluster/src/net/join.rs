//! How a node without a number gets one: it shows a member that it holds a ticket.
//!
//! The joiner dials with an ALPN of its own, opens one stream and sends one request; the answer is its number and the members.
//! The ticket's secret stays where it is: what is sent is a MAC over key material of this very TLS connection, which is of no
//! use on another.
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use iroh::{Endpoint, SecretKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use straightway_wire::{
    Frame, Limits, MessageHeader, MessageParser, MessageType, QUIC_CUT, Segments, encode_frame,
};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::close::CloseCode;
use super::endpoint::{self, JOIN_ALPN, exported, node_key};
use super::limits::NetLimits;
use super::members::MemberAddress;
use super::network::GOODBYE;
use super::refusals::Refusal;
use super::shared::Shared;
use super::ticket::{JoinRole, Ticket, TicketId};
use crate::error::ClusterError;
use crate::ids::{ClusterId, NodeKey, RaftId, StorageId};
use crate::store::BoxFuture;

const LABEL: &[u8] = b"straightway join 1";
/// Largest request and answer.
const MAX_BYTES: u32 = 64 << 10;
/// Longest texts that a joiner may give of itself, and most addresses.
const MAX_TEXT: usize = 256;
const MAX_ADDRESSES: usize = 16;
/// How long the cluster may take to agree.
const AGREEING: Duration = Duration::from_secs(10);

/// What a joiner says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// Its log.
    pub storage: StorageId,
    /// What people call it.
    pub name: String,
    /// Where it will listen for members.
    pub addresses: Vec<SocketAddr>,
    /// Where it will listen for the mesh.
    pub mesh: Option<SocketAddr>,
    /// Where clients reach it.
    pub http: String,
}

/// Somebody who has shown a ticket, and may be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Which ticket; it is to be used up.
    pub ticket: TicketId,
    /// As what.
    pub role: JoinRole,
    /// Its key, which its connection has proven.
    pub key: NodeKey,
    /// What it says of itself.
    pub node: Joiner,
}

/// What the cluster answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Which cluster it is.
    pub cluster: ClusterId,
    /// The joiner's number.
    pub raft_id: RaftId,
    /// All members.
    pub members: Vec<MemberAddress>,
}

/// What the cluster knows of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketGrant {
    /// [`super::TicketSecret::verifier`] of its secret.
    pub verifier: [u8; 32],
    /// As what it lets somebody in.
    pub role: JoinRole,
    /// Until when, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

/// Why nobody is let in.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JoinRefusal {
    /// Too late.
    #[error("the ticket has expired; make a new one with `straightway cluster ticket`")]
    Expired,
    /// Somebody has joined with it.
    #[error("the ticket has been used; make a new one with `straightway cluster ticket`")]
    Used,
    /// The cluster has not given it.
    #[error(
        "the cluster knows no such ticket, or the member that was asked has not heard of it yet"
    )]
    Unknown,
    /// It is for another one.
    #[error("the ticket is for another cluster")]
    WrongCluster,
    /// The joiner does not hold the ticket.
    #[error("the proof that the ticket is held does not match")]
    BadProof,
    /// What the joiner says of itself cannot be.
    #[error("what the node says of itself is not valid: {0}")]
    Invalid(String),
    /// The cluster cannot take anybody in at the moment.
    #[error("not now: {0}")]
    NotNow(String),
}

/// What the node answers to those who want to join.
pub trait JoinService: fmt::Debug + Send + Sync + 'static {
    /// The ticket of this name, if the cluster has given it and nobody has used it.
    fn ticket(&self, id: TicketId) -> BoxFuture<'_, Result<TicketGrant, JoinRefusal>>;
    /// Lets in who has shown the ticket. Whether it is still unused is for the log to decide.
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinAnswer, JoinRefusal>>;
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

#[derive(Serialize, Deserialize)]
struct Asked {
    cluster: String,
    ticket: String,
    voter: bool,
    proof: String,
    storage: String,
    name: String,
    addresses: Vec<SocketAddr>,
    mesh: Option<SocketAddr>,
    http: String,
}

#[derive(Serialize, Deserialize)]
struct Answered {
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
enum Answer {
    Joined(Answered),
    Refused(JoinRefusal),
}

/// What shows on this connection that the ticket is held.
fn proof(
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

/// Serves somebody who wants to join.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: Connection,
    address: SocketAddr,
    half_open: OwnedSemaphorePermit,
) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
    let asked = tokio::time::timeout(shared.limits.hello, asked(&connection)).await;
    let close = |code: CloseCode| connection.close(code.var_int(), code.to_string().as_bytes());
    let (mut send, asked) = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => {
            shared.refusals.count(Refusal::Ticket, format_args!("{address}: {error}"));
            return close(CloseCode::Protocol);
        }
        Err(_) => {
            shared.refusals.count(Refusal::Ticket, format_args!("{address} said nothing"));
            return close(CloseCode::TooSlow);
        }
    };
    let answer = match tokio::time::timeout(AGREEING, judge(&shared, &connection, asked)).await {
        Ok(answer) => answer,
        Err(_) => Err(JoinRefusal::NotNow("the cluster took too long to agree".to_owned())),
    };
    drop(half_open);
    let answer = match answer {
        Ok(answer) => Answer::Joined(answered(&answer)),
        Err(refusal) => {
            shared.refusals.count(Refusal::Ticket, format_args!("{address}: {refusal}"));
            Answer::Refused(refusal)
        }
    };
    let told = async {
        write(&mut send, MessageType::Response, &answer).await?;
        send.finish().map_err(|error| invalid(&error))?;
        // The joiner closes once it has read it: closing from here could overtake the answer.
        connection.closed().await;
        Ok::<_, ClusterError>(())
    };
    if tokio::time::timeout(shared.limits.hello, told).await.is_err() {
        close(CloseCode::TooSlow);
    }
}

async fn asked(connection: &Connection) -> Result<(SendStream, Asked), ClusterError> {
    let (send, receive) = connection.accept_bi().await.map_err(|error| invalid(&error))?;
    let asked = read(receive, MessageType::Request).await?;
    Ok((send, asked))
}

/// Checks what was asked, and lets the node decide.
async fn judge(
    shared: &Shared,
    connection: &Connection,
    asked: Asked,
) -> Result<JoinAnswer, JoinRefusal> {
    if asked.cluster.parse() != Ok(shared.node.cluster) {
        return Err(JoinRefusal::WrongCluster);
    }
    let unhex = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
    let ticket = unhex(&asked.ticket).and_then(|id| id.try_into().ok()).map(TicketId);
    let ticket = ticket.ok_or(JoinRefusal::Unknown)?;
    let shown: Option<[u8; 32]> = unhex(&asked.proof).and_then(|proof| proof.try_into().ok());
    let role = if asked.voter { JoinRole::Voter } else { JoinRole::Learner };
    let key = node_key(connection.remote_id());
    let service = &shared.handlers.join;
    let grant = service.ticket(ticket).await?;
    let expected = proof(connection, &grant.verifier, ticket, role, key);
    // Compared in constant time, by the type's own comparison.
    let (Some(expected), Some(shown)) = (expected, shown) else {
        return Err(JoinRefusal::BadProof);
    };
    if expected != blake3::Hash::from_bytes(shown) || role != grant.role {
        return Err(JoinRefusal::BadProof);
    }
    if service.now_ms() >= grant.expires_ms {
        return Err(JoinRefusal::Expired);
    }
    let node = joiner(asked)?;
    service.join(JoinRequest { ticket, role, key, node }).await
}

fn joiner(asked: Asked) -> Result<Joiner, JoinRefusal> {
    let Asked { storage, name, addresses, mesh, http, .. } = asked;
    let bad = |what: &str| JoinRefusal::Invalid(what.to_owned());
    let plain = |text: &str| text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    if !plain(&name) || !plain(&http) {
        return Err(bad("its name or URL is too long, or holds control characters"));
    }
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        return Err(bad("it has no address, or too many"));
    }
    if addresses.iter().any(|address| address.port() == 0 || address.ip().is_unspecified()) {
        return Err(bad("an address that nobody can dial"));
    }
    let storage = storage.parse().map_err(|_| bad("its storage id"))?;
    Ok(Joiner { storage, name, addresses, mesh, http })
}

fn answered(answer: &JoinAnswer) -> Answered {
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

fn understood(answered: Answered) -> Result<JoinAnswer, ClusterError> {
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

/// Joins: asks each member that the ticket names, until one lets this node in. `bind` is where to dial from; its port is best 0.
///
/// # Errors
/// [`ClusterError::Invalid`] for a ticket that is not to be used any more, [`ClusterError::Refused`] with what the cluster
/// said, [`ClusterError::Unreachable`].
pub async fn join(
    bind: SocketAddr,
    secret: &SecretKey,
    ticket: &Ticket,
    me: &Joiner,
    now_ms: u64,
) -> Result<JoinAnswer, ClusterError> {
    ticket.check(now_ms).map_err(|error| ClusterError::Invalid {
        what: "the join ticket",
        reason: error.to_string(),
    })?;
    let limits = NetLimits::default();
    let endpoint = endpoint::bind_client(bind, secret, &limits).await?;
    let key = node_key(secret.public());
    let mut last = ClusterError::Unreachable { peer: 0, reason: "there is nobody to ask".into() };
    for member in &ticket.members {
        let asked = ask(&endpoint, member.key, &member.addresses, ticket, me, key, &limits);
        let waited = AGREEING + limits.hello * 2;
        let answer = match tokio::time::timeout(waited, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(ClusterError::Timeout { what: "joining", waited }),
        };
        match answer {
            Ok(Answer::Joined(answered)) => {
                goodbye(&endpoint).await;
                return understood(answered);
            }
            // Another member may know more, or be better placed.
            Ok(Answer::Refused(refusal)) => {
                last = ClusterError::Refused { reason: refusal.to_string() };
                if !matches!(refusal, JoinRefusal::Unknown | JoinRefusal::NotNow(_)) {
                    break;
                }
            }
            Err(error) => last = error,
        }
    }
    goodbye(&endpoint).await;
    Err(last)
}

async fn goodbye(endpoint: &Endpoint) {
    let _ = tokio::time::timeout(GOODBYE, endpoint.close()).await;
}

async fn ask(
    endpoint: &Endpoint,
    member: NodeKey,
    addresses: &[SocketAddr],
    ticket: &Ticket,
    me: &Joiner,
    key: NodeKey,
    limits: &NetLimits,
) -> Result<Answer, ClusterError> {
    let dialled = endpoint::dial(endpoint, member, addresses, JOIN_ALPN, limits).await;
    let connection =
        dialled.map_err(|error| ClusterError::Unreachable { peer: 0, reason: error.reason })?;
    let id = ticket.secret.id();
    let proof = proof(&connection, &ticket.secret.verifier(), id, ticket.role, key);
    let proof = proof.ok_or_else(|| invalid(&"TLS exports no key material"))?;
    let asked = Asked {
        cluster: ticket.cluster.to_string(),
        ticket: HEXLOWER.encode(&id.0),
        voter: ticket.role == JoinRole::Voter,
        proof: proof.to_hex().to_string(),
        storage: me.storage.to_string(),
        name: me.name.clone(),
        addresses: me.addresses.clone(),
        mesh: me.mesh,
        http: me.http.clone(),
    };
    let lost = |error: &dyn fmt::Display| {
        let closed = connection.close_reason().map(|error| endpoint::NotDialled::lost(&error));
        let reason = closed.map_or_else(|| error.to_string(), |closed| closed.reason);
        ClusterError::Unreachable { peer: 0, reason }
    };
    let (mut send, receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
    write(&mut send, MessageType::Request, &asked).await.map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;
    let answer = read(receive, MessageType::Response).await.map_err(|error| lost(&error))?;
    connection.close(CloseCode::Done.var_int(), b"");
    Ok(answer)
}

fn invalid(reason: &dyn fmt::Display) -> ClusterError {
    ClusterError::Invalid { what: "a request to join, or its answer", reason: reason.to_string() }
}

async fn write(
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
async fn read<T: DeserializeOwned>(
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
