//! How a node without a number gets one: it shows a member that it holds a ticket.
//!
//! The joiner dials with an ALPN of its own, opens one stream and sends one request; the answer is its number and the members.
//! The ticket's secret stays where it is: what is sent is a MAC over key material of this very TLS connection, which is of no
//! use on another.
mod ask;
mod serve;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::members::MemberAddress;
use super::ticket::{JoinRole, TicketId};
use crate::ids::{ClusterId, NodeKey, RaftId, StorageId};
use crate::store::BoxFuture;

pub use ask::join;
pub(crate) use serve::serve;

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
    /// The cluster does not take this node.
    #[error("{0}")]
    Denied(String),
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
