//! The member's side.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use iroh::endpoint::{Connection, SendStream, VarInt};
use straightway_wire::RequestId;

use super::wire::{self, Answer, Asked, answered, invalid, proof};
use super::{
    AGREEING, JoinAnswer, JoinRefusal, JoinRequest, JoinRole, Joiner, MAX_ADDRESSES, MAX_TEXT,
    TicketId,
};
use crate::error::ClusterError;
use crate::net::close::CloseCode;
use crate::net::endpoint::node_key;
use crate::net::half_open::Shaking;
use crate::net::refusals::Refusal;
use crate::net::shared::Shared;

/// Serves somebody who wants to join.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: Connection,
    address: SocketAddr,
    shaking: Shaking,
) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
    let step = shared.limits.hello;
    let asked = tokio::time::timeout(step, asked(&connection, step)).await;
    let close = |code: CloseCode| connection.close(code.var_int(), code.to_string().as_bytes());
    let (mut send, id, asked) = match asked {
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
    // To agree takes time; how often somebody may ask is bounded elsewhere.
    drop(shaking);
    let answer = match tokio::time::timeout(AGREEING, judge(&shared, &connection, asked)).await {
        Ok(answer) => answer,
        Err(_) => Err(JoinRefusal::NotNow("the cluster took too long to agree".to_owned())),
    };
    let answer = match answer {
        Ok(answer) => Answer::Joined(answered(&answer)),
        Err(refusal) => {
            shared.refusals.count(Refusal::Ticket, format_args!("{address}: {refusal}"));
            Answer::Refused(refusal)
        }
    };
    let told = async {
        wire::tell(&mut send, id, &answer).await?;
        send.finish().map_err(|error| invalid(&error))?;
        // The joiner closes once it has read it: closing from here could overtake the answer.
        connection.closed().await;
        Ok::<_, ClusterError>(())
    };
    if tokio::time::timeout(shared.limits.hello, told).await.is_err() {
        close(CloseCode::TooSlow);
    }
}

async fn asked(
    connection: &Connection,
    step: Duration,
) -> Result<(SendStream, RequestId, Asked), ClusterError> {
    let (send, mut receive) = connection.accept_bi().await.map_err(|error| invalid(&error))?;
    let (id, asked) = wire::asked(&mut receive, step).await?;
    Ok((send, id, asked))
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
