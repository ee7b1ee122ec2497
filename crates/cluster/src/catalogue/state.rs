//! The state machine: what the catalogue is after each command. It knows no clock, no randomness, no file; whatever it
//! walks over has an order of its own. Two nodes that applied the same commands are equal to the last byte.
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::archive::ArchivedObjectId;
use super::changes::{Effects, Rest};
use super::entry::Entry;
use super::index::Index;
use super::limits;
use super::members::{Member, Ticket};
use super::op::{
    ArchivedCommand, ArchivedCondition, ArchivedHolders, ArchivedOp, ArchivedPurge, ArchivedPut,
    ArchivedRemove, RequestId, Scope,
};
use super::outcome::{Event, Outcome, Refusal};
use super::requests::{Known, Requests};
use crate::error::ClusterError;
use crate::ids::{ClusterId, ObjectId, RaftId};

/// Entries that are changed before others may read.
const AT_ONCE: usize = 256;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// Index of the entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What there is once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) cluster: Option<ClusterId>,
    pub(super) applied: Mark,
    /// Encoded Raft configuration.
    pub(super) conf_state: Bytes,
    /// The number that the next member gets.
    pub(super) next_id: RaftId,
}

impl Default for Meta {
    fn default() -> Self {
        Self { cluster: None, applied: Mark::default(), conf_state: Bytes::new(), next_id: 1 }
    }
}

/// A command that has been begun.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) request: RequestId,
    /// It had been answered before, and nothing was done.
    pub(super) duplicate: bool,
    /// Whether its answer is to be remembered.
    record: bool,
    outcome: Outcome,
}

/// The whole state.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) meta: Meta,
    pub(super) index: Index,
    pub(super) members: BTreeMap<RaftId, Arc<Member>>,
    pub(super) tickets: BTreeMap<[u8; 32], Ticket>,
    pub(super) requests: Requests,
}

impl State {
    /// Does what a command says, as far as that can be done at once: [`Self::go_on`] while there is a rest, then
    /// [`Self::settle`].
    pub(super) fn execute(
        &mut self,
        index: u64,
        command: &ArchivedCommand,
        effects: &mut Effects<'_>,
    ) -> Executed {
        let request = command.request.get();
        let known = if self.members.contains_key(&request.node) {
            self.requests.look_up(request)
        } else {
            Known::Refused(Refusal::NotAMember)
        };
        let (known, outcome) = match known {
            Known::Answered(outcome) => {
                return Executed { request, duplicate: true, record: false, outcome };
            }
            Known::Refused(refusal) => (true, Outcome::Refused(refusal)),
            Known::New if limits::check(command).is_err() => {
                (false, Outcome::Refused(Refusal::Limit))
            }
            Known::New => (false, self.perform(index, &command.op, effects)),
        };
        if matches!(outcome, Outcome::Failed | Outcome::Refused(_))
            && let ArchivedOp::Put(put) = &command.op
        {
            // Its bytes were stored for nothing.
            self.forget_unless_known(ArchivedObjectId::get(&put.object), effects);
        }
        Executed { request, duplicate: false, record: !known, outcome }
    }

    /// When nothing is left of a command: what came of it, remembered.
    pub(super) fn settle(&mut self, executed: &Executed, effects: &mut Effects<'_>) -> Outcome {
        let Executed { request, record, mut outcome, .. } = *executed;
        if let Outcome::Purged(count) = &mut outcome {
            *count += effects.purged;
            for event in &mut effects.events {
                if let Event::Purged { count: told, .. } = event {
                    *told = *count;
                }
            }
        }
        // A member that removed itself has no window any more.
        if record && self.members.contains_key(&request.node) {
            self.requests.record(request, outcome, effects.changes);
        }
        outcome
    }

    /// Keeps the Raft configuration.
    pub(super) fn set_conf_state(&mut self, encoded: &[u8]) -> Result<(), ClusterError> {
        if encoded.len() > limits::CONF_STATE {
            return Err(ClusterError::Invalid {
                what: "a Raft configuration",
                reason: format!(
                    "it has {} bytes, {} are allowed",
                    encoded.len(),
                    limits::CONF_STATE
                ),
            });
        }
        self.meta.conf_state = Bytes::copy_from_slice(encoded);
        Ok(())
    }

    fn perform(&mut self, index: u64, op: &ArchivedOp, effects: &mut Effects<'_>) -> Outcome {
        match op {
            ArchivedOp::Noop => Outcome::Done,
            ArchivedOp::Put(put) => self.put(index, put, effects),
            ArchivedOp::Remove(remove) => self.remove(remove, effects),
            ArchivedOp::Purge(purge) => self.purge(purge, effects),
            ArchivedOp::Holders(holders) => self.change_holders(holders, effects),
            ArchivedOp::Expire(expire) => {
                let objects = expire.objects.iter().map(ArchivedObjectId::get);
                self.expire(expire.now_ms.to_native(), objects, effects)
            }
            ArchivedOp::TicketIssued(issued) => self.issue(issued, effects),
            ArchivedOp::Join(join) => self.join(index, join, effects),
            ArchivedOp::MemberChanged(changed) => self.change_member(changed, effects),
            ArchivedOp::Forget(forget) => self.forget_member(forget.id.to_native(), effects),
        }
    }

    /// What is under the key and could be served, and whether the condition holds for it.
    fn meets(&self, key: &str, condition: &ArchivedCondition, now_ms: u64) -> (bool, bool) {
        let live = self.index.get(key).filter(|entry| entry.live(now_ms));
        let met = match condition {
            ArchivedCondition::Any => true,
            ArchivedCondition::Absent => live.is_none(),
            ArchivedCondition::Present => live.is_some(),
            ArchivedCondition::Digest(digest) => live.is_some_and(|entry| entry.digest == *digest),
            ArchivedCondition::Version(index) => {
                live.is_some_and(|entry| entry.index == index.to_native())
            }
        };
        (live.is_some(), met)
    }

    fn put(&mut self, index: u64, put: &ArchivedPut, effects: &mut Effects<'_>) -> Outcome {
        let object = ArchivedObjectId::get(&put.object);
        if self.index.by_object(object).is_some_and(|entry| *entry.key != *put.key) {
            return Outcome::Refused(Refusal::ObjectInUse);
        }
        let mut holders: Vec<RaftId> = put
            .holders
            .iter()
            .map(|id| id.to_native())
            .filter(|id| self.members.contains_key(id))
            .collect();
        holders.sort_unstable();
        holders.dedup();
        if holders.is_empty() {
            return Outcome::Refused(Refusal::UnknownMember);
        }
        let (replaced, met) = self.meets(&put.key, &put.condition, put.now_ms.to_native());
        if !met {
            return Outcome::Failed;
        }
        let before = self.index.unlink(&put.key);
        let entry = Arc::new(Entry {
            key: before
                .as_ref()
                .map_or_else(|| put.key.as_str().into(), |old| Arc::clone(&old.key)),
            object,
            len: put.len.to_native(),
            digest: put.digest,
            content_type: self.index.share(&put.content_type),
            content_encoding: self.index.share(&put.content_encoding),
            tags: put.tags.iter().map(|tag| self.index.share(tag)).collect(),
            expires_ms: put.expires_ms.to_native(),
            last_modified_ms: put.last_modified_ms.to_native(),
            holders: holders.into(),
            copies: put.copies,
            evicted: 0,
            index,
        });
        self.index.link(Arc::clone(&entry));
        effects.changes.stored(&entry);
        if let Some(before) = before.filter(|before| before.object != object) {
            effects.forget.push(before.object);
        }
        effects.events.push(Event::Stored(entry));
        Outcome::Put { replaced }
    }

    fn remove(&mut self, remove: &ArchivedRemove, effects: &mut Effects<'_>) -> Outcome {
        let (live, met) = self.meets(&remove.key, &remove.condition, remove.now_ms.to_native());
        if !met {
            return Outcome::Failed;
        }
        if let Some(entry) = self.take(&remove.key, effects) {
            effects.events.push(Event::Removed(entry));
        }
        Outcome::Removed(live)
    }

    /// Takes the entry under a key away, for good.
    fn take(&mut self, key: &str, effects: &mut Effects<'_>) -> Option<Arc<Entry>> {
        let entry = self.index.unlink(key)?;
        effects.changes.removed(&entry.key);
        effects.forget.push(entry.object);
        Some(entry)
    }

    fn purge(&mut self, purge: &ArchivedPurge, effects: &mut Effects<'_>) -> Outcome {
        let (scope, value) = (Scope::from(&purge.scope), purge.value.as_str());
        let count = match scope {
            Scope::Key => usize::from(self.take(value, effects).is_some()),
            // They are counted when they are taken.
            Scope::Tag => {
                effects.rest = Some(Rest::Tag(value.into()));
                0
            }
            Scope::Prefix if !value.is_empty() => {
                effects.rest = Some(Rest::Prefix(value.into()));
                0
            }
            Scope::Prefix | Scope::All => {
                let all = std::mem::take(&mut self.index);
                let count = all.len();
                effects.changes.clear_entries();
                effects.retired = Some(all);
                count
            }
        } as u64;
        effects.events.push(Event::Purged { scope, value: value.into(), count });
        Outcome::Purged(count)
    }

    /// Does a part of what is left of a command, so that whoever holds the state can let others read in between.
    pub(super) fn go_on(&mut self, effects: &mut Effects<'_>) {
        match effects.rest.take() {
            None => {}
            Some(Rest::Prefix(prefix)) => {
                let some = self.index.range(&prefix, None).take(AT_ONCE);
                let some: Vec<_> = some.map(|entry| Arc::clone(&entry.key)).collect();
                effects.rest = (some.len() == AT_ONCE).then_some(Rest::Prefix(prefix));
                effects.purged += some.len() as u64;
                for key in some {
                    self.take(&key, effects);
                }
            }
            Some(Rest::Tag(tag)) => {
                let some: Vec<_> = self.index.tagged(&tag).take(AT_ONCE).cloned().collect();
                effects.rest = (some.len() == AT_ONCE).then_some(Rest::Tag(tag));
                effects.purged += some.len() as u64;
                for key in some {
                    self.take(&key, effects);
                }
            }
            Some(Rest::Holder(node, after)) => {
                let some: Vec<_> =
                    self.index.range("", after.as_deref()).take(AT_ONCE).cloned().collect();
                if some.len() == AT_ONCE {
                    let last = some.last().map(|entry| Arc::clone(&entry.key));
                    effects.rest = Some(Rest::Holder(node, last));
                }
                for entry in some {
                    self.release(&entry, node, false, effects);
                }
            }
        }
    }

    fn change_holders(&mut self, change: &ArchivedHolders, effects: &mut Effects<'_>) -> Outcome {
        let node = change.node.to_native();
        if !self.members.contains_key(&node) {
            return Outcome::Refused(Refusal::UnknownMember);
        }
        for object in change.gained.iter().map(ArchivedObjectId::get) {
            let Some(entry) = self.index.by_object(object).cloned() else {
                effects.forget.push(object);
                continue;
            };
            // Not more than there are members, which is not more than an object may have holders.
            if let Err(place) = entry.holders.binary_search(&node) {
                let mut holders = entry.holders.to_vec();
                holders.insert(place, node);
                // Who has it again had room for it.
                let left = usize::from(entry.copies).saturating_sub(holders.len());
                let evicted = entry.evicted.min(u8::try_from(left).unwrap_or(u8::MAX));
                effects.changes.stored(&self.index.hold(&entry, holders.into(), evicted));
            }
        }
        for object in change.lost.iter().map(ArchivedObjectId::get) {
            if let Some(entry) = self.index.by_object(object).cloned() {
                self.release(&entry, node, true, effects);
            }
        }
        for object in change.damaged.iter().map(ArchivedObjectId::get) {
            if let Some(entry) = self.index.by_object(object).cloned() {
                self.release(&entry, node, false, effects);
            }
        }
        Outcome::Done
    }

    /// One holder less: it had no room for it any more, or there should be another one for it. Without any, the entry goes.
    fn release(
        &mut self,
        entry: &Arc<Entry>,
        node: RaftId,
        no_room: bool,
        effects: &mut Effects<'_>,
    ) {
        if entry.holders.binary_search(&node).is_err() {
            return;
        }
        let left: Vec<RaftId> = entry.holders.iter().copied().filter(|id| *id != node).collect();
        if !left.is_empty() {
            // As many are missing as before, unless there were more than there should be.
            let evicted = entry.evicted + u8::from(no_room && entry.holders.len() <= entry.due());
            effects.changes.stored(&self.index.hold(entry, left.into(), evicted));
        } else if let Some(entry) = self.take(&entry.key, effects) {
            effects.events.push(Event::Evicted(entry));
        }
    }

    fn expire(
        &mut self,
        now_ms: u64,
        objects: impl Iterator<Item = ObjectId>,
        effects: &mut Effects<'_>,
    ) -> Outcome {
        let mut count = 0;
        for object in objects {
            let over = self.index.by_object(object).filter(|entry| !entry.live(now_ms)).cloned();
            if let Some(entry) = over.and_then(|entry| self.take(&entry.key, effects)) {
                count += 1;
                effects.events.push(Event::Expired(entry));
            }
        }
        Outcome::Expired(count)
    }

    fn forget_unless_known(&self, object: ObjectId, effects: &mut Effects<'_>) {
        if self.index.by_object(object).is_none() {
            effects.forget.push(object);
        }
    }
}
