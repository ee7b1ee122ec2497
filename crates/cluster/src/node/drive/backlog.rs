//! What is committed and not yet applied, and what happens when that becomes too much.
use std::collections::VecDeque;

use crossbeam_channel::TrySendError;
use raft::prelude::{Message, MessageType};

use super::{Driver, Task};
use crate::core::Committed;
use crate::error::ClusterError;
use crate::net::{Held, Lane};

/// Entries, and their bytes, that are handed to the applying thread at once.
const MAX_TASK: usize = 4096;
const MAX_TASK_BYTES: usize = 4 << 20;
/// Such tasks that wait for the applying thread. Its queue has more places (`TASKS` in `start.rs`): they are for what is no
/// batch (a mark, a catalogue to be frozen for a peer), which must not wait for a place that this thread fills again at once,
/// and for [`Driver::hand_over`], which gives it all that waits here.
const MAX_AHEAD: usize = 8;
/// Entries that may wait here, and their bytes, before nothing is taken that adds to them.
const MAX_WAITING: usize = 64 << 10;
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Messages that may wait meanwhile. A leader sends fewer without being answered.
const MAX_LATE: usize = 1024;

/// Committed entries that the applying thread has not been given yet, in order, by reference.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: VecDeque<Committed>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn extend(&mut self, committed: Vec<Committed>) {
        self.bytes += committed.iter().map(bytes_of).sum::<usize>();
        self.entries.extend(committed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether as much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_WAITING || self.bytes >= MAX_WAITING_BYTES
    }

    /// What is applied next: at least one entry, if there is one.
    fn take(&mut self) -> Vec<Committed> {
        let (mut count, mut bytes) = (0, 0);
        for entry in self.entries.iter().take(MAX_TASK) {
            bytes += bytes_of(entry);
            if count > 0 && bytes > MAX_TASK_BYTES {
                break;
            }
            count += 1;
        }
        let taken: Vec<_> = self.entries.drain(..count).collect();
        self.bytes -= taken.iter().map(bytes_of).sum::<usize>();
        taken
    }

    fn give_back(&mut self, taken: Vec<Committed>) {
        self.bytes += taken.iter().map(bytes_of).sum::<usize>();
        for entry in taken.into_iter().rev() {
            self.entries.push_front(entry);
        }
    }
}

fn bytes_of(entry: &Committed) -> usize {
    match entry {
        Committed::Command { data, .. } => data.len(),
        Committed::Members { .. } => 0,
    }
}

impl Driver {
    /// Gives the applying thread what it has room for.
    pub(super) fn feed_applier(&mut self) {
        let backlog = &mut self.state.committed;
        while !backlog.is_empty() && self.tasks.len() < MAX_AHEAD {
            if let Err(
                TrySendError::Full(Task::Apply(back))
                | TrySendError::Disconnected(Task::Apply(back)),
            ) = self.tasks.try_send(Task::Apply(backlog.take()))
            {
                return backlog.give_back(back);
            }
        }
    }

    /// Hands over a task that must come after all that is committed.
    pub(super) fn hand_over(&mut self, task: Task) -> Result<(), ClusterError> {
        let stopped = || ClusterError::Stopped { reason: "is being stopped".to_owned() };
        while !self.state.committed.is_empty() {
            let batch = self.state.committed.take();
            self.tasks.send(Task::Apply(batch)).map_err(|_| stopped())?;
        }
        self.tasks.send(task).map_err(|_| stopped())
    }

    /// Keeps a leader's entries back while too much waits to be applied. Its share of what may be under way stays taken, so that
    /// it waits too; votes and heartbeats go on. Gives the message back if it need not wait.
    pub(super) fn put_off(
        &mut self,
        lane: Lane,
        message: Box<Message>,
        held: Held,
    ) -> Option<(Box<Message>, Held)> {
        let adds = message.get_msg_type() == MessageType::MsgAppend;
        let waits = self.state.committed.is_full() || !self.state.late.is_empty();
        if !(adds && waits) {
            return Some((message, held));
        }
        // Raft sends again what gets lost.
        if self.state.late.len() < MAX_LATE {
            self.state.late.push_back((lane, message, held));
        }
        None
    }

    /// Takes what was put off, as soon as there is room for what it leads to.
    pub(super) fn take_late(&mut self) -> Result<(), ClusterError> {
        while !self.state.committed.is_full() {
            let Some((lane, message, held)) = self.state.late.pop_front() else { break };
            self.step(lane, *message)?;
            drop(held);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn commands(indices: std::ops::Range<u64>, len: usize) -> Vec<Committed> {
        let data = Bytes::from(vec![1; len]);
        indices.map(|index| Committed::Command { index, term: 1, data: data.clone() }).collect()
    }

    fn index(entry: &Committed) -> u64 {
        match entry {
            Committed::Command { index, .. } | Committed::Members { index, .. } => *index,
        }
    }

    #[test]
    fn what_waits_is_handed_out_in_order_in_bounded_parts() {
        let mut backlog = Backlog::default();
        backlog.extend(commands(1..10_001, 10));
        let mut next = 1;
        while !backlog.is_empty() {
            let part = backlog.take();
            assert!(part.len() <= MAX_TASK);
            for entry in &part {
                assert_eq!(index(entry), next);
                next += 1;
            }
        }
        assert_eq!((next, backlog.bytes), (10_001, 0));
        // One entry of any size goes.
        backlog.extend(commands(1..4, MAX_TASK_BYTES));
        let first = backlog.take();
        assert_eq!(first.len(), 1);
        backlog.give_back(first);
        assert_eq!((index(&backlog.take()[0]), backlog.bytes), (1, 2 * MAX_TASK_BYTES));
    }

    #[test]
    fn it_is_full_by_entries_or_by_bytes() {
        let mut backlog = Backlog::default();
        backlog.extend(commands(0..MAX_WAITING as u64 - 1, 0));
        assert!(!backlog.is_full());
        backlog.extend(commands(0..1, 0));
        assert!(backlog.is_full());
        let mut backlog = Backlog::default();
        backlog.extend(commands(0..16, MAX_WAITING_BYTES / 16));
        assert!(backlog.is_full());
        backlog.take();
        assert!(!backlog.is_full());
    }
}
