//! Who may connect: the members, by key. Read at every handshake, replaced as a whole when membership changes.
use std::collections::HashMap;
use std::net::SocketAddr;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::ids::{NodeKey, RaftId, StorageId};

/// A member, as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// Its number.
    pub id: RaftId,
    /// Its key.
    pub key: NodeKey,
    /// Where it listens; the first that answers is used.
    pub addresses: Vec<SocketAddr>,
    /// Its log, if known: a node that comes with another one is refused.
    pub storage: Option<StorageId>,
}

/// A member as JSON: in the answer to whoever joins, and in a node's record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WrittenMember {
    id: RaftId,
    key: String,
    addresses: Vec<SocketAddr>,
    storage: Option<String>,
}

impl From<&MemberAddress> for WrittenMember {
    fn from(member: &MemberAddress) -> Self {
        Self {
            id: member.id,
            key: member.key.to_string(),
            addresses: member.addresses.clone(),
            storage: member.storage.map(|id| id.to_string()),
        }
    }
}

impl TryFrom<WrittenMember> for MemberAddress {
    type Error = String;

    fn try_from(member: WrittenMember) -> Result<Self, String> {
        let bad = |what: &str| format!("the {what} of member {} is none", member.id);
        let storage = member.storage.as_ref().map(|id| id.parse().map_err(|_| bad("log")));
        Ok(Self {
            id: member.id,
            key: member.key.parse().map_err(|_| bad("key"))?,
            storage: storage.transpose()?,
            addresses: member.addresses,
        })
    }
}

/// The members at the moment.
#[derive(Debug, Default)]
pub(crate) struct Members {
    by_key: RwLock<HashMap<NodeKey, MemberAddress>>,
}

impl Members {
    pub(crate) fn replace(&self, members: &[MemberAddress]) {
        *self.by_key.write() = members.iter().map(|member| (member.key, member.clone())).collect();
    }

    pub(crate) fn by_key(&self, key: NodeKey) -> Option<MemberAddress> {
        self.by_key.read().get(&key).cloned()
    }

    pub(crate) fn contains(&self, key: NodeKey) -> bool {
        self.by_key.read().contains_key(&key)
    }
}
