//! What a log holds, without its bytes: where it begins and ends, and the term of each entry.
use std::collections::VecDeque;

use raft::prelude::{Entry, HardState};

use super::{Batch, LogMark};
use crate::error::ClusterError;

/// A log's outline.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    /// The entry before the first one that is kept.
    base: u64,
    base_term: u64,
    last: u64,
    /// Where each term begins, in order.
    runs: VecDeque<(u64, u64)>,
    pub(super) hard_state: Option<HardState>,
    pub(super) mark: Option<LogMark>,
}

impl Shape {
    /// A log of which the entries through `base` are gone.
    pub(super) fn starting(base: u64, base_term: u64) -> Self {
        Self { base, base_term, last: base, ..Self::default() }
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn last_term(&self) -> u64 {
        self.runs.back().map_or(self.base_term, |(_, term)| *term)
    }

    /// The term of an entry, if it is known.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base {
            return Some(self.base_term);
        }
        if index < self.base || index > self.last {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        self.runs.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Whether `mark` is about another history than this log's, and so stands for all of it.
    pub(super) fn is_replaced_by(&self, mark: &LogMark) -> bool {
        self.term(mark.index) != Some(mark.term)
    }

    /// Adds the entry behind the last one.
    pub(super) fn push(&mut self, term: u64) {
        self.last += 1;
        if self.runs.back().is_none_or(|(_, last)| *last != term) {
            self.runs.push_back((self.last, term));
        }
    }

    /// Forgets entries from `from` on.
    pub(super) fn truncate(&mut self, from: u64) {
        let keep = from.saturating_sub(1);
        while self.runs.back().is_some_and(|(first, _)| *first > keep) {
            self.runs.pop_back();
        }
        self.last = self.last.min(keep);
        if self.base > keep {
            // The term of what is left is not known; nobody asks, since the mark must reach beyond it.
            (self.base, self.base_term) = (keep, 0);
        }
    }

    /// Takes a mark in.
    pub(super) fn set_mark(&mut self, mark: &LogMark, replaces: bool) {
        if replaces {
            self.runs.clear();
            (self.base, self.base_term, self.last) = (mark.index, mark.term, mark.index);
        } else if mark.index > self.base && mark.index <= self.last {
            while self.runs.get(1).is_some_and(|(first, _)| *first <= mark.index) {
                self.runs.pop_front();
            }
            (self.base, self.base_term) = (mark.index, mark.term);
        }
        self.mark = Some(mark.clone());
    }

    /// Takes a batch in that was written.
    pub(super) fn accept(&mut self, batch: &Batch<'_>) {
        if let Some(mark) = batch.snapshot {
            let replaces = self.is_replaced_by(mark);
            self.set_mark(mark, replaces);
        }
        for entry in batch.entries {
            if entry.index <= self.last {
                self.truncate(entry.index);
            }
            self.push(entry.term);
        }
        if let Some(state) = batch.hard_state {
            self.hard_state = Some(state.clone());
        }
    }

    /// Whether the batch can follow on what is there.
    pub(super) fn check(&self, batch: &Batch<'_>) -> Result<(), ClusterError> {
        let invalid =
            |reason: String| ClusterError::Invalid { what: "a batch for the log", reason };
        let (mut base, mut last) = (self.base, self.last);
        if let Some(mark) = batch.snapshot {
            let newest = self.mark.as_ref().map_or(0, |mark| mark.index);
            if mark.index == 0 || mark.index < newest {
                let reason =
                    format!("its mark at {} is older than the one at {newest}", mark.index);
                return Err(invalid(reason));
            }
            base = mark.index;
            if self.is_replaced_by(mark) {
                last = mark.index;
            }
        }
        for Entry { index, .. } in batch.entries {
            if *index <= base || *index > last.saturating_add(1) {
                let reason =
                    format!("entry {index} does not follow on {last}, with {base} being settled");
                return Err(invalid(reason));
            }
            last = *index;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_entries_are_found_after_cuts_from_both_ends() {
        let mut shape = Shape::starting(10, 2);
        for term in [2, 2, 3, 5, 5] {
            shape.push(term);
        }
        let terms: Vec<_> = (9..=16).map(|index| shape.term(index)).collect();
        assert_eq!(terms, [None, Some(2), Some(2), Some(2), Some(3), Some(5), Some(5), None]);
        shape.truncate(15);
        assert_eq!((shape.last(), shape.last_term()), (14, 5));
        let mark = LogMark { index: 13, term: 3, ..LogMark::default() };
        assert!(!shape.is_replaced_by(&mark));
        shape.set_mark(&mark, false);
        assert_eq!((shape.term(12), shape.term(13), shape.term(14)), (None, Some(3), Some(5)));
        let foreign = LogMark { index: 14, term: 4, ..LogMark::default() };
        assert!(shape.is_replaced_by(&foreign));
        shape.set_mark(&foreign, true);
        assert_eq!((shape.base(), shape.last(), shape.last_term()), (14, 14, 4));
    }
}
