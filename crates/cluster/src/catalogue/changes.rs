//! What commands changed that was not written yet: the rows that the disk has to be told, and what there is to tell others.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::entry::Entry;
use super::index::Index;
use super::members::{Member, Ticket};
use super::outcome::{Event, Outcome};
use super::requests::Window;
use crate::ids::{ObjectId, RaftId};

/// Rows as they are now, `None` where there is none any more. Whatever is changed twice is written once.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// All entries that were there before were removed.
    pub(super) cleared: bool,
    pub(super) entries: BTreeMap<Arc<str>, Option<Arc<Entry>>>,
    pub(super) members: BTreeMap<RaftId, Option<Arc<Member>>>,
    pub(super) tickets: BTreeMap<[u8; 32], Option<Ticket>>,
    pub(super) windows: BTreeMap<RaftId, Option<Window>>,
    pub(super) answers: BTreeMap<(RaftId, u64), Option<Outcome>>,
}

impl Changes {
    /// How much there is to write.
    pub(super) fn rows(&self) -> usize {
        self.entries.len()
            + self.members.len()
            + self.tickets.len()
            + self.windows.len()
            + self.answers.len()
    }

    pub(super) fn stored(&mut self, entry: &Arc<Entry>) {
        self.entries.insert(Arc::clone(&entry.key), Some(Arc::clone(entry)));
    }

    pub(super) fn removed(&mut self, key: &Arc<str>) {
        self.entries.insert(Arc::clone(key), None);
    }

    pub(super) fn clear_entries(&mut self) {
        self.cleared = true;
        self.entries.clear();
    }

    pub(super) fn member(&mut self, id: RaftId, member: Option<Arc<Member>>) {
        self.members.insert(id, member);
    }

    pub(super) fn ticket(&mut self, hash: [u8; 32], ticket: Option<Ticket>) {
        self.tickets.insert(hash, ticket);
    }

    pub(super) fn window(&mut self, node: RaftId, window: Option<Window>) {
        self.windows.insert(node, window);
    }

    pub(super) fn answer(&mut self, request: (RaftId, u64), outcome: Option<Outcome>) {
        self.answers.insert(request, outcome);
    }
}

/// What is left of a command that touches many entries.
#[derive(Debug)]
pub(super) enum Rest {
    /// To take away what begins so.
    Prefix(Arc<str>),
    /// To take away what bears the tag.
    Tag(Arc<str>),
    /// To take a member out of all entries behind the key.
    Holder(RaftId, Option<Arc<str>>),
}

/// Where one command leaves what it does besides changing the state.
#[derive(Debug)]
pub(super) struct Effects<'a> {
    pub(super) changes: &'a mut Changes,
    pub(super) events: Vec<Event>,
    pub(super) forget: Vec<ObjectId>,
    /// What of the command is left to do; see [`State::go_on`](super::state::State::go_on).
    pub(super) rest: Option<Rest>,
    /// Entries that going on with a purge has taken away.
    pub(super) purged: u64,
    /// All entries that there were, if everything was purged: walked and freed when nobody waits for the state.
    pub(super) retired: Option<Index>,
}

impl<'a> Effects<'a> {
    pub(super) fn new(changes: &'a mut Changes) -> Self {
        Self {
            changes,
            events: Vec::new(),
            forget: Vec::new(),
            rest: None,
            purged: 0,
            retired: None,
        }
    }
}
