//! The hub's own view of the ring and of the filters: looked at for every subscriber, without a lock.
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use straightway_codec::event::Kind;

use super::filter::Filter;
use super::publish::URGENT_PRIORITY;
use super::ring::{Ring, Slot};

/// The events that the ring held when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct View {
    slots: VecDeque<Arc<Slot>>,
    next: u64,
    urgent: VecDeque<Arc<Slot>>,
}

impl View {
    /// Looks at the ring; whether anything changed.
    pub(super) fn catch_up(&mut self, ring: &Ring) -> bool {
        let (oldest, next) = (ring.oldest(), ring.next());
        let changed = next != self.next || oldest != self.oldest();
        if changed {
            for slot in ring.from(self.next) {
                self.slots.push_back(slot.clone());
                if slot.priority >= URGENT_PRIORITY {
                    self.urgent.push_back(slot.clone());
                }
            }
            self.next = next;
            while self.slots.front().is_some_and(|slot| slot.offset < oldest) {
                self.slots.pop_front();
            }
            while self.urgent.front().is_some_and(|slot| slot.offset < oldest) {
                self.urgent.pop_front();
            }
        }
        changed
    }

    /// The offset behind the newest event.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The offset of the oldest event.
    pub(super) fn oldest(&self) -> u64 {
        self.next - self.slots.len() as u64
    }

    pub(super) fn from(&self, offset: u64) -> impl Iterator<Item = &Arc<Slot>> {
        let skip = offset.saturating_sub(self.oldest());
        self.slots.range(usize::try_from(skip).unwrap_or(usize::MAX).min(self.slots.len())..)
    }

    /// The first urgent event behind an offset.
    pub(super) fn urgent_after(&self, offset: u64) -> Option<&Arc<Slot>> {
        let at = self.urgent.partition_point(|slot| slot.offset <= offset);
        self.urgent.get(at)
    }
}

/// All filters in use. Equal ones are one, and an event is judged once by each that several share.
#[derive(Debug, Default)]
pub(super) struct Filters {
    by_value: HashMap<Filter, u32>,
    entries: HashMap<u32, Entry>,
    /// Never given out twice: what was made for a filter that is gone must not be taken for another's.
    next: u32,
}

#[derive(Debug)]
struct Entry {
    filter: Filter,
    users: usize,
    /// The first event that was judged.
    from: u64,
    verdicts: VecDeque<bool>,
}

impl Filters {
    pub(super) fn enter(&mut self, filter: Filter) -> u32 {
        if let Some(id) = self.by_value.get(&filter) {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.users += 1;
            }
            return *id;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let entry = Entry { filter: filter.clone(), users: 1, from: 0, verdicts: VecDeque::new() };
        self.entries.insert(id, entry);
        self.by_value.insert(filter, id);
        id
    }

    pub(super) fn leave(&mut self, id: u32) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            self.by_value.remove(&entry.filter);
            self.entries.remove(&id);
        }
    }

    pub(super) fn wants_kind(&self, id: u32, kind: Kind) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.filter.wants(kind))
    }

    /// Whether a filter lets an event through.
    pub(super) fn wants(&mut self, id: u32, slot: &Slot) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        if entry.users == 1 {
            return entry.filter.matches(slot);
        }
        let end = entry.from + entry.verdicts.len() as u64;
        if slot.offset > end || entry.verdicts.is_empty() {
            entry.verdicts.clear();
            entry.from = slot.offset;
        }
        let end = entry.from + entry.verdicts.len() as u64;
        if slot.offset == end {
            let verdict = entry.filter.matches(slot);
            entry.verdicts.push_back(verdict);
            return verdict;
        }
        let index = slot.offset.checked_sub(entry.from).and_then(|at| usize::try_from(at).ok());
        match index.and_then(|index| entry.verdicts.get(index)) {
            Some(verdict) => *verdict,
            // Somebody went back.
            None => entry.filter.matches(slot),
        }
    }

    /// Forgets verdicts on events that are gone.
    pub(super) fn forget_before(&mut self, oldest: u64) {
        for entry in self.entries.values_mut().filter(|entry| !entry.verdicts.is_empty()) {
            while entry.from < oldest && entry.verdicts.pop_front().is_some() {
                entry.from += 1;
            }
        }
    }
}
