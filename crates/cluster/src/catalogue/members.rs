//! Who is a member, who may become one, and how.
use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize};

use super::archive::{ArchivedNodeKey, ArchivedStorageId, NodeKeyDef, StorageIdDef};
use super::changes::{Changes, Effects, Rest};
use super::op::{
    ArchivedJoin, ArchivedMemberChanged, ArchivedTicketIssued, Command, MemberChanged, Op,
    RequestId, Role,
};
use super::outcome::{Event, Outcome, Refusal};
use super::state::{Mark, State};
use super::{Bootstrap, limits};
use crate::error::ClusterError;
use crate::ids::{NodeKey, RaftId, StorageId};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Member {
    /// Its number, never given to another one.
    pub id: RaftId,
    /// Its key.
    #[rkyv(with = NodeKeyDef)]
    pub key: NodeKey,
    /// Its log.
    #[rkyv(with = StorageIdDef)]
    pub storage: StorageId,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Where its mesh listens.
    pub mesh: Vec<String>,
    /// Where it serves.
    pub http: String,
    /// What it may become.
    pub role: Role,
    /// Hash of the ticket that it joined with; zeros for the first member.
    pub ticket: [u8; 32],
    /// Index of the command by which it joined.
    pub joined: u64,
}

/// A ticket that was issued and has not expired, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Ticket {
    /// Hash of its secret.
    pub hash: [u8; 32],
    /// When it stops being good, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// What its bearer may become.
    pub role: Role,
    /// How many nodes may still join with it.
    pub left: u8,
    /// Who joined with it last.
    pub used_by: Option<RaftId>,
}

fn strings(archived: &rkyv::vec::ArchivedVec<rkyv::string::ArchivedString>) -> Vec<String> {
    archived.iter().map(|text| text.as_str().into()).collect()
}

impl State {
    /// What a cluster begins with, and the rows of it.
    pub(super) fn first(first: &Bootstrap) -> Result<(Self, Changes), ClusterError> {
        let Bootstrap { cluster, conf_state, key, storage, name, addresses, mesh, http } =
            first.clone();
        // Its texts have the limits that they would have if it changed them.
        let changed = MemberChanged { id: 1, name, addresses, mesh, http };
        let request = RequestId::default();
        Command { request, op: Op::MemberChanged(changed.clone()) }.encode()?;
        let MemberChanged { id, name, addresses, mesh, http } = changed;
        let (role, ticket, joined) = (Role::Voter, [0; 32], 1);
        let member = Arc::new(Member {
            id,
            key,
            storage,
            name,
            addresses,
            mesh,
            http,
            role,
            ticket,
            joined,
        });
        let mut state = Self::default();
        state.meta.cluster = Some(cluster);
        state.meta.applied = Mark { index: 1, term: 1 };
        state.meta.next_id = 2;
        state.set_conf_state(&conf_state)?;
        let mut changes = Changes::default();
        state.set_member(&member, &mut Effects::new(&mut changes));
        Ok((state, changes))
    }

    pub(super) fn issue(
        &mut self,
        issued: &ArchivedTicketIssued,
        effects: &mut Effects<'_>,
    ) -> Outcome {
        let now_ms = issued.now_ms.to_native();
        let stale: Vec<[u8; 32]> = self
            .tickets
            .values()
            .filter(|ticket| ticket.expires_ms <= now_ms)
            .map(|ticket| ticket.hash)
            .collect();
        for hash in stale {
            self.tickets.remove(&hash);
            effects.changes.ticket(hash, None);
        }
        if self.tickets.contains_key(&issued.hash) {
            return Outcome::Refused(Refusal::TicketUsed);
        }
        if self.tickets.len() >= limits::TICKETS {
            return Outcome::Refused(Refusal::TooManyTickets);
        }
        self.set_ticket(
            Ticket {
                hash: issued.hash,
                expires_ms: issued.expires_ms.to_native(),
                role: Role::from(&issued.role),
                left: issued.uses,
                used_by: None,
            },
            effects,
        );
        Outcome::Done
    }

    fn set_ticket(&mut self, ticket: Ticket, effects: &mut Effects<'_>) {
        self.tickets.insert(ticket.hash, ticket);
        effects.changes.ticket(ticket.hash, Some(ticket));
    }

    pub(super) fn join(
        &mut self,
        index: u64,
        join: &ArchivedJoin,
        effects: &mut Effects<'_>,
    ) -> Outcome {
        let key = NodeKey(ArchivedNodeKey::get(&join.key));
        let storage = StorageId(ArchivedStorageId::get(&join.storage));
        let known = match self.known(key, storage) {
            Ok(known) => known,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        // Asked again, because the answer was lost: also when the ticket has expired meanwhile.
        if let Some(member) = &known
            && member.ticket == join.ticket
        {
            return Outcome::Joined { id: member.id };
        }
        let ticket = match self.tickets.get(&join.ticket) {
            None => return Outcome::Refused(Refusal::TicketUnknown),
            Some(ticket) if ticket.left == 0 => {
                return Outcome::Refused(Refusal::TicketUsed);
            }
            Some(ticket) if ticket.expires_ms <= join.now_ms.to_native() => {
                return Outcome::Refused(Refusal::TicketExpired);
            }
            Some(ticket) => *ticket,
        };
        let id = match known {
            // A member that was given another ticket: it is what it is, and the ticket is used up.
            Some(member) => member.id,
            None => match self.admit(index, join, ticket, effects) {
                Ok(id) => id,
                Err(refusal) => return Outcome::Refused(refusal),
            },
        };
        let left = ticket.left.saturating_sub(1);
        self.set_ticket(Ticket { used_by: Some(id), left, ..ticket }, effects);
        Outcome::Joined { id }
    }

    /// The member with this key and log.
    fn known(&self, key: NodeKey, storage: StorageId) -> Result<Option<Arc<Member>>, Refusal> {
        for member in self.members.values() {
            match (member.key == key, member.storage == storage) {
                (true, true) => return Ok(Some(Arc::clone(member))),
                (true, false) => return Err(Refusal::KeyInUse),
                (false, true) => return Err(Refusal::StorageInUse),
                (false, false) => {}
            }
        }
        Ok(None)
    }

    fn admit(
        &mut self,
        index: u64,
        join: &ArchivedJoin,
        ticket: Ticket,
        effects: &mut Effects<'_>,
    ) -> Result<RaftId, Refusal> {
        let id = self.meta.next_id;
        if self.members.len() >= limits::MEMBERS || id == RaftId::MAX {
            return Err(Refusal::TooManyMembers);
        }
        self.meta.next_id = id + 1;
        let member = Arc::new(Member {
            id,
            key: NodeKey(ArchivedNodeKey::get(&join.key)),
            storage: StorageId(ArchivedStorageId::get(&join.storage)),
            name: join.name.as_str().into(),
            addresses: strings(&join.addresses),
            mesh: strings(&join.mesh),
            http: join.http.as_str().into(),
            role: ticket.role,
            ticket: ticket.hash,
            joined: index,
        });
        self.set_member(&member, effects);
        effects.events.push(Event::Joined(member));
        Ok(id)
    }

    fn set_member(&mut self, member: &Arc<Member>, effects: &mut Effects<'_>) {
        self.members.insert(member.id, Arc::clone(member));
        effects.changes.member(member.id, Some(Arc::clone(member)));
    }

    pub(super) fn change_member(
        &mut self,
        changed: &ArchivedMemberChanged,
        effects: &mut Effects<'_>,
    ) -> Outcome {
        let Some(member) = self.members.get(&changed.id.to_native()) else {
            return Outcome::Refused(Refusal::UnknownMember);
        };
        let after = Arc::new(Member {
            name: changed.name.as_str().into(),
            addresses: strings(&changed.addresses),
            mesh: strings(&changed.mesh),
            http: changed.http.as_str().into(),
            ..Member::clone(member)
        });
        if after != *member {
            self.set_member(&after, effects);
            effects.events.push(Event::Changed(after));
        }
        Outcome::Done
    }

    pub(super) fn forget_member(&mut self, id: RaftId, effects: &mut Effects<'_>) -> Outcome {
        if !self.members.contains_key(&id) {
            return Outcome::Refused(Refusal::UnknownMember);
        }
        if self.members.len() == 1 {
            return Outcome::Refused(Refusal::LastMember);
        }
        if let Some(member) = self.members.remove(&id) {
            effects.changes.member(id, None);
            effects.events.push(Event::Left(member));
        }
        self.requests.drop_node(id, effects.changes);
        effects.rest = Some(Rest::Holder(id, None));
        Outcome::Done
    }
}

impl Member {
    /// A member in which every field differs from its default: its archive shows the whole layout.
    pub(super) fn example() -> Self {
        let text = |what: &str| format!("{what} that is longer than what is kept in place");
        Self {
            id: 1,
            key: NodeKey([2; 32]),
            storage: StorageId([3; 16]),
            name: text("a name"),
            addresses: vec![text("an address")],
            mesh: vec![text("a mesh address"), "m".into()],
            http: text("an HTTP address"),
            role: Role::Learner,
            ticket: [4; 32],
            joined: 5,
        }
    }
}
