//! Who may connect: the members, by key. Read at every handshake, replaced as a whole when membership changes.
use std::collections::HashMap;
use std::net::SocketAddr;

use parking_lot::RwLock;

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
