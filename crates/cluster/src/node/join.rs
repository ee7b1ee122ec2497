//! How a node becomes a member: by a ticket that some member issued and the log knows.
use std::time::Duration;

use super::change::refused;
use super::start::{Later, member_addresses};
use super::{Cluster, Shared, addresses_of, now_ms};
use crate::catalogue::{Join, MemberChanged, Op, Outcome, Refusal, Role, TicketIssued};
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId, StorageId};
use crate::net::{
    JoinAnswer, JoinRefusal, JoinRequest, JoinRole, JoinService, Ticket, TicketGrant, TicketId,
    TicketMember, TicketSecret,
};
use crate::store::BoxFuture;

/// How long a leader is waited for: whoever joins hears after ten seconds that it took too long, and may ask again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Members that a cluster should have at least.
const FORMING: usize = 3;
/// Members named in a ticket.
const NAMED: usize = 3;

/// What the log is told of a node that joins.
struct Forwarded {
    ticket: [u8; 32],
    key: NodeKey,
    storage: StorageId,
    name: String,
    addresses: Vec<String>,
    mesh: Vec<String>,
    http: String,
}

impl Cluster {
    /// Issues a ticket, good for `lifetime`: for one node, or, while the cluster has fewer than three members, for as many
    /// as it lacks to three, so that one ticket makes a cluster. A node that joins as a voter is a learner until it has
    /// caught up and the number of voters would be odd.
    pub async fn ticket(&self, lifetime: Duration, role: JoinRole) -> Result<Ticket, ClusterError> {
        let shared = &self.0;
        let now = now_ms();
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let members = shared.catalogue.members();
        let mut named: Vec<_> = members
            .iter()
            .map(|member| TicketMember { key: member.key, addresses: addresses_of(member) })
            .filter(|member| !member.addresses.is_empty())
            .collect();
        // This node first: it is the one that was asked, so it runs.
        named.sort_by_key(|member| member.key != shared.key);
        named.truncate(NAMED);
        let ticket = Ticket {
            cluster: shared.cluster,
            members: named,
            secret: TicketSecret::random()?,
            expires_ms: now.saturating_add(lifetime_ms),
            role,
        };
        let op = Op::TicketIssued(TicketIssued {
            hash: ticket.secret.verifier(),
            now_ms: now,
            expires_ms: ticket.expires_ms,
            uses: u8::try_from(FORMING.saturating_sub(members.len())).unwrap_or(0).max(1),
            role: match role {
                JoinRole::Voter => Role::Voter,
                JoinRole::Learner => Role::Learner,
            },
        });
        match shared.change(op).await?.outcome {
            Outcome::Done => Ok(ticket),
            other => Err(refused(&other)),
        }
    }
}

/// Answers nodes that want to join. Holds the node weakly: the network must not keep it alive.
#[derive(Debug)]
pub(super) struct Gatekeeper(pub(super) Later);

impl JoinService for Gatekeeper {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn ticket(&self, id: TicketId) -> BoxFuture<'_, Result<TicketGrant, JoinRefusal>> {
        Box::pin(async move {
            let shared = self.0.upgrade().ok_or_else(stopping)?;
            // A ticket that was issued a moment ago elsewhere is known after a barrier at the latest.
            if let Some(found) = shared.find_ticket(id) {
                return Ok(found);
            }
            shared.barrier(PATIENCE).await.map_err(|error| not_now(&error))?;
            shared.find_ticket(id).ok_or(JoinRefusal::Unknown)
        })
    }

    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinAnswer, JoinRefusal>> {
        Box::pin(async move {
            let shared = self.0.upgrade().ok_or_else(stopping)?;
            let grant = shared.find_ticket(request.ticket).ok_or(JoinRefusal::Unknown)?;
            let node = request.node;
            let text = |addresses: Vec<std::net::SocketAddr>| {
                addresses.into_iter().map(|address| address.to_string()).collect()
            };
            let forwarded = Forwarded {
                ticket: grant.verifier,
                key: request.key,
                storage: node.storage,
                name: node.name,
                addresses: text(node.addresses),
                mesh: text(node.mesh.into_iter().collect()),
                http: node.http,
            };
            let id = shared.join(forwarded).await?;
            Ok(JoinAnswer {
                cluster: shared.cluster,
                raft_id: id,
                members: member_addresses(&shared.catalogue),
            })
        })
    }
}

fn stopping() -> JoinRefusal {
    JoinRefusal::NotNow("that member is being stopped".to_owned())
}

fn not_now(error: &ClusterError) -> JoinRefusal {
    JoinRefusal::NotNow(error.to_string())
}

impl Shared {
    fn find_ticket(&self, id: TicketId) -> Option<TicketGrant> {
        let tickets = self.catalogue.tickets();
        let ticket = tickets.into_iter().find(|ticket| TicketId::of(&ticket.hash) == id)?;
        let role = match ticket.role {
            Role::Voter => JoinRole::Voter,
            Role::Learner => JoinRole::Learner,
        };
        Some(TicketGrant { verifier: ticket.hash, role, expires_ms: ticket.expires_ms })
    }

    /// Puts the join into the log, then has the leader make the node a learner.
    async fn join(&self, node: Forwarded) -> Result<RaftId, JoinRefusal> {
        let Forwarded { ticket, key, storage, name, addresses, mesh, http } = node;
        let now_ms = now_ms();
        let is_at = MemberChanged {
            id: 0,
            name: name.clone(),
            addresses: addresses.clone(),
            mesh: mesh.clone(),
            http: http.clone(),
        };
        let op = Op::Join(Join { ticket, key, storage, name, addresses, mesh, http, now_ms });
        match self.change(op).await.map_err(|error| not_now(&error))?.outcome {
            Outcome::Joined { id } => {
                // One that asks again, because it did not hear the answer, may have moved meanwhile.
                let moved = self
                    .catalogue
                    .member(id)
                    .is_some_and(|known| known.addresses != is_at.addresses);
                if moved {
                    let op = Op::MemberChanged(MemberChanged { id, ..is_at });
                    self.change(op).await.map_err(|error| not_now(&error))?;
                }
                self.make_learner(id).await.map_err(|error| not_now(&error))?;
                Ok(id)
            }
            Outcome::Refused(Refusal::TicketUsed) => Err(JoinRefusal::Used),
            Outcome::Refused(Refusal::TicketExpired) => Err(JoinRefusal::Expired),
            Outcome::Refused(Refusal::TicketUnknown) => Err(JoinRefusal::Unknown),
            Outcome::Refused(refusal) => Err(JoinRefusal::Denied(refusal.to_string())),
            other => Err(not_now(&refused(&other))),
        }
    }

    async fn make_learner(&self, id: RaftId) -> Result<(), ClusterError> {
        let change = super::members::Change::AddLearner(id);
        self.change_members(change, PATIENCE).await
    }
}
