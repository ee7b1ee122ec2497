//! The joiner's side.
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use iroh::{Endpoint, SecretKey};
use straightway_wire::RequestIds;
use tokio::time::{Instant, sleep, timeout};

use super::wire::{self, Answer, Answered, Asked, invalid, proof, understood};
use super::{AGREEING, JoinAnswer, JoinRefusal, JoinRole, Joiner};
use crate::error::ClusterError;
use crate::ids::NodeKey;
use crate::net::close::CloseCode;
use crate::net::endpoint::{self, JOIN_ALPN, NotDialled, node_key};
use crate::net::limits::NetLimits;
use crate::net::network::GOODBYE;
use crate::net::ticket::Ticket;

/// How long it is asked again where nobody can be reached, or nobody leads: members that were started together with this
/// node, or elect a leader, are there in a moment. A round that has begun is finished.
const INSIST: Duration = Duration::from_secs(10);
/// Not more often than a member lets one address ask ([`NetLimits::joins_each`]).
const PAUSE: Duration = Duration::from_millis(500);

/// Joins: asks each member that the ticket names, until one lets this node in. While one cannot be reached, or the cluster has
/// no leader, they are asked again for ten seconds. `bind` is where to dial from; its port is best 0.
///
/// # Errors
/// [`ClusterError::Invalid`] for a ticket that is not to be used any more, [`ClusterError::Refused`] with what the cluster
/// said, [`ClusterError::Unreachable`], [`ClusterError::Timeout`].
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
    let deadline = Instant::now() + INSIST;
    let mut last = ClusterError::Unreachable { peer: 0, reason: "there is nobody to ask".into() };
    loop {
        let NotJoined { again, error } =
            match ask_all(&endpoint, secret, ticket, me, &limits, last).await {
                Ok(answered) => {
                    // The goodbye is on its way; nobody waits until it has been heard.
                    tokio::spawn(async move { goodbye(&endpoint).await });
                    return understood(answered);
                }
                Err(not_joined) => not_joined,
            };
        if !again || Instant::now() >= deadline {
            goodbye(&endpoint).await;
            return Err(error);
        }
        tracing::debug!(%error, "no member of the ticket lets this node in yet; they are asked again");
        last = error;
        sleep(PAUSE).await;
    }
}

/// Why no member of a ticket let this node in.
struct NotJoined {
    /// Whether one of them may, a moment later.
    again: bool,
    error: ClusterError,
}

impl From<ClusterError> for NotJoined {
    fn from(error: ClusterError) -> Self {
        Self { again: false, error }
    }
}

impl From<NotDialled> for NotJoined {
    fn from(NotDialled { silent, reason, .. }: NotDialled) -> Self {
        // Who says no means it.
        Self { again: silent, error: ClusterError::Unreachable { peer: 0, reason } }
    }
}

/// One round. `last` is why the one before came to nothing.
async fn ask_all(
    endpoint: &Endpoint,
    secret: &SecretKey,
    ticket: &Ticket,
    me: &Joiner,
    limits: &NetLimits,
    mut last: ClusterError,
) -> Result<Answered, NotJoined> {
    let key = node_key(secret.public());
    let mut again = false;
    for member in &ticket.members {
        let asked = ask(endpoint, member.key, &member.addresses, ticket, me, key, limits);
        let waited = AGREEING + limits.hello * 2;
        let not_joined = match timeout(waited, asked).await {
            Ok(Ok(Answer::Joined(answered))) => return Ok(answered),
            Ok(Ok(Answer::Refused(refusal))) => {
                let again = matches!(refusal, JoinRefusal::NotNow(_));
                let error = ClusterError::Refused { reason: refusal.to_string() };
                // Another member may know more, or be better placed.
                if !again && refusal != JoinRefusal::Unknown {
                    return Err(NotJoined { again, error });
                }
                NotJoined { again, error }
            }
            Ok(Err(not_joined)) => not_joined,
            Err(_) => {
                NotJoined { again: true, error: ClusterError::Timeout { what: "joining", waited } }
            }
        };
        again |= not_joined.again;
        // What a member says tells more than that another one does not answer.
        let says = |error: &ClusterError| matches!(error, ClusterError::Refused { .. });
        if says(&not_joined.error) || !says(&last) {
            last = not_joined.error;
        }
    }
    Err(NotJoined { again, error: last })
}

async fn goodbye(endpoint: &Endpoint) {
    let _ = timeout(GOODBYE, endpoint.close()).await;
}

async fn ask(
    endpoint: &Endpoint,
    member: NodeKey,
    addresses: &[SocketAddr],
    ticket: &Ticket,
    me: &Joiner,
    key: NodeKey,
    limits: &NetLimits,
) -> Result<Answer, NotJoined> {
    let dialled = endpoint::dial(endpoint, member, addresses, JOIN_ALPN, limits).await;
    let connection = dialled.map_err(|error| {
        let NotDialled { silent, reason, .. } = &error;
        let asked = format!("{reason} from {addresses:?} (UDP); is it running there?");
        if *silent { NotDialled { reason: asked, ..error } } else { error }
    })?;
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
        let closed = connection.close_reason().map(|error| NotDialled::lost(&error));
        closed.unwrap_or_else(|| NotDialled::other(error.to_string()))
    };
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
    let id = RequestIds::new().map_err(ClusterError::from)?.next_id();
    wire::ask(&mut send, id, &asked).await.map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;
    let answer = wire::answer(&mut receive, id, limits.hello).await;
    let answer = answer.map_err(|error| lost(&error))?;
    connection.close(CloseCode::Done.var_int(), b"");
    Ok(answer)
}
