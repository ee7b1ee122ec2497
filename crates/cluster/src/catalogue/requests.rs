//! Which requests were answered, and how: a request that is proposed twice takes effect once.
//!
//! Of each member the answers of its present start are kept, the newest [`limits::WINDOW`] of them. What is older than
//! those is refused, because nobody knows whether it took effect.
use std::collections::BTreeMap;

use rkyv::{Archive, Deserialize, Serialize};

use super::changes::Changes;
use super::limits;
use super::op::RequestId;
use super::outcome::{Outcome, Refusal};
use crate::ids::RaftId;

/// Where a member's answers begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct Window {
    /// Which of its starts they are of.
    pub(super) boot: u64,
    /// Serials below this one are not remembered.
    pub(super) floor: u64,
}

#[derive(Debug)]
struct Answers {
    window: Window,
    by_serial: BTreeMap<u64, Outcome>,
}

/// The answers of all members.
#[derive(Debug, Default)]
pub(super) struct Requests {
    nodes: BTreeMap<RaftId, Answers>,
}

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it may take effect.
    New,
    /// Its answer.
    Answered(Outcome),
    /// It is too old.
    Refused(Refusal),
}

impl Requests {
    pub(super) fn look_up(&self, request: RequestId) -> Known {
        let Some(answers) = self.nodes.get(&request.node) else {
            return Known::New;
        };
        let Window { boot, floor } = answers.window;
        if request.boot != boot {
            let newer = request.boot > boot;
            return if newer { Known::New } else { Known::Refused(Refusal::OldBoot) };
        }
        match answers.by_serial.get(&request.serial) {
            Some(outcome) => Known::Answered(*outcome),
            None if request.serial < floor => Known::Refused(Refusal::Forgotten),
            None => Known::New,
        }
    }

    /// Remembers the answer of a request that [`Self::look_up`] found new.
    pub(super) fn record(&mut self, request: RequestId, outcome: Outcome, changes: &mut Changes) {
        let RequestId { node, boot, serial } = request;
        let stale = self.nodes.get(&node).is_some_and(|answers| answers.window.boot != boot);
        if stale {
            self.drop_node(node, changes);
        }
        let answers = self.nodes.entry(node).or_insert_with(|| {
            let window = Window { boot, floor: 0 };
            changes.window(node, Some(window));
            Answers { window, by_serial: BTreeMap::new() }
        });
        answers.by_serial.insert(serial, outcome);
        changes.answer((node, serial), Some(outcome));
        while answers.by_serial.len() > limits::WINDOW
            && let Some((oldest, _)) = answers.by_serial.pop_first()
        {
            answers.window.floor = oldest.saturating_add(1);
            changes.answer((node, oldest), None);
            changes.window(node, Some(answers.window));
        }
    }

    /// Forgets a member's answers.
    pub(super) fn drop_node(&mut self, node: RaftId, changes: &mut Changes) {
        if let Some(answers) = self.nodes.remove(&node) {
            changes.window(node, None);
            for serial in answers.by_serial.into_keys() {
                changes.answer((node, serial), None);
            }
        }
    }

    /// What was on the disk.
    pub(super) fn restore_window(&mut self, node: RaftId, window: Window) {
        self.nodes.insert(node, Answers { window, by_serial: BTreeMap::new() });
    }

    /// What was on the disk; says whether its member has a window.
    pub(super) fn restore_answer(&mut self, node: RaftId, serial: u64, outcome: Outcome) -> bool {
        let Some(answers) = self.nodes.get_mut(&node) else {
            return false;
        };
        answers.by_serial.insert(serial, outcome);
        true
    }

    /// How many windows and answers there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let answers = self.nodes.values().map(|answers| answers.by_serial.len()).sum();
        (self.nodes.len(), answers)
    }

    /// All windows, in the order of the members' numbers.
    #[cfg(test)]
    pub(super) fn windows(&self) -> impl Iterator<Item = (RaftId, Window)> {
        self.nodes.iter().map(|(node, answers)| (*node, answers.window))
    }

    /// All answers, in the order of members and serials.
    #[cfg(test)]
    pub(super) fn answers(&self) -> impl Iterator<Item = ((RaftId, u64), Outcome)> {
        self.nodes.iter().flat_map(|(node, answers)| {
            answers.by_serial.iter().map(|(serial, outcome)| ((*node, *serial), *outcome))
        })
    }
}
