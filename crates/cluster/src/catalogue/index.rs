//! The entries, and the ways to find them.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::entry::Entry;
use crate::ids::{ObjectId, RaftId};

/// Content types and tags that are kept once for all entries; the same few come again and again.
const SHARED_TEXTS: usize = 4096;

/// All entries by key, and by what else they are asked for.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_key: BTreeMap<Arc<str>, Arc<Entry>>,
    /// The same, for those who know the key: a third of the time. Never iterated over.
    by_name: HashMap<Arc<str>, Arc<Entry>>,
    by_tag: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Never iterated over: its order is nobody's.
    by_object: HashMap<ObjectId, Arc<str>>,
    by_expiry: BTreeSet<(u64, ObjectId)>,
    /// Those of which copies are missing, by the index of the command that put them.
    short: BTreeMap<u64, ObjectId>,
    /// How often more copies of an entry were missing than before.
    fell_short: u64,
    bytes: u64,
    texts: BTreeSet<Arc<str>>,
}

impl Index {
    pub(super) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.by_name.get(key)
    }

    pub(super) fn by_object(&self, object: ObjectId) -> Option<&Arc<Entry>> {
        self.by_object.get(&object).and_then(|key| self.by_name.get(key))
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Body bytes of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_key.values()
    }

    /// Entries whose keys begin with `prefix`, in order, from the one after `after`.
    pub(super) fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.by_key
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry)
    }

    /// Keys of the objects that bear a tag.
    pub(super) fn tagged(&self, tag: &str) -> impl ExactSizeIterator<Item = &Arc<str>> {
        static NONE: BTreeSet<Arc<str>> = BTreeSet::new();
        self.by_tag.get(tag).unwrap_or(&NONE).iter()
    }

    /// Objects whose lifetime has ended, those first that ended first.
    pub(super) fn expired(&self, now_ms: u64) -> impl Iterator<Item = ObjectId> {
        self.by_expiry
            .iter()
            .take_while(move |(expires_ms, _)| *expires_ms <= now_ms)
            .map(|(_, object)| *object)
    }

    /// Entries of which copies are missing and that were put within `indexes`, in their order.
    pub(super) fn short(
        &self,
        indexes: impl RangeBounds<u64>,
    ) -> impl Iterator<Item = &Arc<Entry>> {
        self.short.range(indexes).filter_map(|(_, object)| self.by_object(*object))
    }

    /// How often more copies of an entry were missing than before, since this node has it in memory.
    pub(super) fn fell_short(&self) -> u64 {
        self.fell_short
    }

    /// Number of entries of which copies are missing.
    pub(super) fn short_len(&self) -> usize {
        self.short.len()
    }

    /// The text, once for all who have it, as far as there is room to remember it.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        if self.texts.len() < SHARED_TEXTS {
            self.texts.insert(Arc::clone(&text));
        }
        text
    }

    /// Puts an entry under its key, where there must be none.
    pub(super) fn link(&mut self, entry: Arc<Entry>) {
        let key = &entry.key;
        self.by_object.insert(entry.object, Arc::clone(key));
        for tag in entry.tags.iter() {
            self.by_tag.entry(Arc::clone(tag)).or_default().insert(Arc::clone(key));
        }
        if entry.expires_ms != 0 {
            self.by_expiry.insert((entry.expires_ms, entry.object));
        }
        if entry.missing() > 0 {
            self.short.insert(entry.index, entry.object);
        }
        self.bytes = self.bytes.wrapping_add(entry.len);
        self.by_name.insert(Arc::clone(key), Arc::clone(&entry));
        self.by_key.insert(Arc::clone(key), entry);
    }

    /// Takes the entry under a key away.
    pub(super) fn unlink(&mut self, key: &str) -> Option<Arc<Entry>> {
        let entry = self.by_key.remove(key)?;
        self.by_name.remove(key);
        self.by_object.remove(&entry.object);
        for tag in entry.tags.iter() {
            if let Some(keys) = self.by_tag.get_mut(tag) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_tag.remove(tag);
                }
            }
        }
        if entry.expires_ms != 0 {
            self.by_expiry.remove(&(entry.expires_ms, entry.object));
        }
        self.short.remove(&entry.index);
        self.bytes = self.bytes.wrapping_sub(entry.len);
        Some(entry)
    }

    /// Gives an entry other holders, of which so many need not be there.
    pub(super) fn hold(
        &mut self,
        entry: &Arc<Entry>,
        holders: Arc<[RaftId]>,
        evicted: u8,
    ) -> Arc<Entry> {
        let after = Arc::new(Entry { holders, evicted, ..Entry::clone(entry) });
        self.fell_short += u64::from(after.missing() > entry.missing());
        if after.missing() > 0 {
            self.short.insert(after.index, after.object);
        } else {
            self.short.remove(&after.index);
        }
        self.by_key.insert(Arc::clone(&after.key), Arc::clone(&after));
        self.by_name.insert(Arc::clone(&after.key), Arc::clone(&after));
        after
    }
}
