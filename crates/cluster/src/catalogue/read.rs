//! Reading the catalogue: from memory, on any thread.
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Catalogue;
use super::entry::Entry;
use super::members::{Member, Ticket};
use super::state::Mark;
use crate::ids::{ClusterId, NodeKey, ObjectId, RaftId};

impl Catalogue {
    /// The last entry that has been applied.
    pub fn applied(&self) -> Mark {
        self.shared.state.read().meta.applied
    }

    /// Tells when more has been applied: `wait_for(|index| *index >= wanted)`.
    pub fn applied_watch(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// The Raft configuration as it was last given, encoded; empty if it never was.
    pub fn conf_state(&self) -> Bytes {
        self.shared.state.read().meta.conf_state.clone()
    }

    /// The cluster; `None`: the catalogue is empty, and waits for [`Self::bootstrap`] or a snapshot.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.shared.state.read().meta.cluster
    }

    /// What is under the key, expired or not: see [`Entry::live`].
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.shared.state.read().index.get(key).cloned()
    }

    /// The entry of an object.
    pub fn by_object(&self, object: ObjectId) -> Option<Arc<Entry>> {
        self.shared.state.read().index.by_object(object).cloned()
    }

    /// At most `limit` entries whose keys begin with `prefix`, in order, from the one after `after`.
    /// Nothing is applied meanwhile: ask for a page at a time.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Arc<Entry>> {
        self.shared.state.read().index.range(prefix, after).take(limit).cloned().collect()
    }

    /// At most `limit` entries of which copies are missing ([`Entry::missing`]) and that were put within `indexes` of the log,
    /// in their order.
    pub fn short(&self, indexes: impl RangeBounds<u64>, limit: usize) -> Vec<Arc<Entry>> {
        self.shared.state.read().index.short(indexes).take(limit).cloned().collect()
    }

    /// How often more copies of an entry were missing than before, as far as this process has seen: otherwise than it was, some
    /// are to be made of entries that had enough.
    pub fn fell_short(&self) -> u64 {
        self.shared.state.read().index.fell_short()
    }

    /// Number of entries of which copies are missing.
    pub fn short_len(&self) -> usize {
        self.shared.state.read().index.short_len()
    }

    /// At most `limit` objects whose lifetime has ended, for [`Expire`](super::Expire).
    pub fn expired(&self, now_ms: u64, limit: usize) -> Vec<ObjectId> {
        self.shared.state.read().index.expired(now_ms).take(limit).collect()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shared.state.read().index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Body bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.shared.state.read().index.bytes()
    }

    /// All members, in the order of their numbers.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.shared.state.read().members.values().cloned().collect()
    }

    /// The member of that number.
    pub fn member(&self, id: RaftId) -> Option<Arc<Member>> {
        self.shared.state.read().members.get(&id).cloned()
    }

    /// The member with that key.
    pub fn member_by_key(&self, key: &NodeKey) -> Option<Arc<Member>> {
        self.shared.state.read().members.values().find(|member| member.key == *key).cloned()
    }

    /// All tickets that are remembered.
    pub fn tickets(&self) -> Vec<Ticket> {
        self.shared.state.read().tickets.values().copied().collect()
    }

    /// The ticket of that hash.
    pub fn ticket(&self, hash: &[u8; 32]) -> Option<Ticket> {
        self.shared.state.read().tickets.get(hash).copied()
    }

    /// BLAKE3 of all rows: equal on all nodes that have applied the same entries. Walks over everything.
    #[cfg(test)]
    pub(super) fn state_digest(&self) -> [u8; 32] {
        let _still = self.shared.disk.lock();
        let mut hasher = blake3::Hasher::new();
        self.shared.state.read().each_row(|table, key, value| {
            hasher.update(&[table as u8]);
            hasher.update(&(key.len() as u64).to_le_bytes());
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(key);
            hasher.update(value);
        });
        *hasher.finalize().as_bytes()
    }
}
