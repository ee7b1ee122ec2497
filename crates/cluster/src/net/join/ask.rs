//! The joiner's side.
use std::fmt;
use std::net::SocketAddr;

use data_encoding::HEXLOWER;
use iroh::{Endpoint, SecretKey};
use straightway_wire::RequestIds;

use super::wire::{self, Answer, Asked, invalid, proof, understood};
use super::{AGREEING, JoinAnswer, JoinRefusal, JoinRole, Joiner};
use crate::error::ClusterError;
use crate::ids::NodeKey;
use crate::net::close::CloseCode;
use crate::net::endpoint::{self, JOIN_ALPN, node_key};
use crate::net::limits::NetLimits;
use crate::net::network::GOODBYE;
use crate::net::ticket::Ticket;

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
                // The goodbye is on its way; nobody waits until it has been heard.
                tokio::spawn(async move { goodbye(&endpoint).await });
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
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
    let id = RequestIds::new()?.next_id();
    wire::ask(&mut send, id, &asked).await.map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;
    let answer = wire::answer(&mut receive, id, limits.hello).await;
    let answer = answer.map_err(|error| lost(&error))?;
    connection.close(CloseCode::Done.var_int(), b"");
    Ok(answer)
}
