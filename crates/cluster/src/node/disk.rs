//! The thread that owns the log: what is ready is gathered, written in one go and flushed once.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};
use raft::prelude::{HardState, Message};

use super::progress::Progress;
use super::wake::Wake;
use crate::core::Persist;
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::log::{Batch, LogMark, LogStore};
use crate::net::Lane;

/// Entries written and flushed together, and their bytes, after which no more is gathered.
const MAX_BATCH: usize = 4096;
const MAX_BATCH_BYTES: usize = 8 << 20;

/// What the log's thread is asked to do, in order.
pub(super) enum Job {
    /// Write, flush, tell, send.
    Persist(Persist),
    /// Install a snapshot: wait for the state machine to have it, then replace the log.
    Install(Persist, Receiver<Result<(), ClusterError>>),
    /// Drop what lies behind.
    Compact(LogMark),
    /// End.
    Stop,
}

/// Sends what may leave once it is on the disk.
pub(super) trait Outbox: Send {
    /// Sends, or drops: Raft repeats.
    fn send(&self, message: Message);
    /// A peer has sent what no correct member sends.
    fn refused(&self, peer: RaftId, lane: Lane, why: &dyn std::fmt::Display);
}

/// The log thread's belongings.
pub(super) struct Disk {
    pub(super) log: Box<dyn LogStore>,
    pub(super) outbox: Box<dyn Outbox>,
    /// The last number that is on the disk.
    pub(super) persisted: Arc<AtomicU64>,
    pub(super) wake: Wake,
    /// Told what the log has done.
    pub(super) progress: Arc<Progress>,
}

impl Disk {
    /// Runs until it is stopped, or the disk fails: then `Err`, and the node must stop.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) -> Result<(), ClusterError> {
        let mut next = None;
        loop {
            let Some(job) = next.take().or_else(|| jobs.recv().ok()) else { return Ok(()) };
            match job {
                Job::Persist(first) => next = self.persist(first, jobs)?,
                Job::Install(persist, installed) => {
                    installed.recv().map_err(|_| stopped())??;
                    self.write(persist)?;
                }
                Job::Compact(mark) => self.log.compact(&mark)?,
                Job::Stop => return Ok(()),
            }
            self.progress.set_log(self.log.stats());
        }
    }

    /// Writes `first` and whatever follows it at once; answers with the job that could not go with them.
    fn persist(
        &mut self,
        first: Persist,
        jobs: &Receiver<Job>,
    ) -> Result<Option<Job>, ClusterError> {
        let mut all = first;
        let mut other = None;
        let mut bytes = bytes_of(&all);
        while all.entries.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            match jobs.try_recv() {
                // Entries that replace others written in this very batch must not stand beside them.
                Ok(Job::Persist(persist)) if follows(&all, &persist) => {
                    bytes += bytes_of(&persist);
                    join(&mut all, persist);
                }
                Ok(job) => {
                    other = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        self.write(all)?;
        Ok(other)
    }

    fn write(&mut self, persist: Persist) -> Result<(), ClusterError> {
        if !persist.is_empty() {
            let snapshot = persist.snapshot.as_ref().map(LogMark::of);
            let batch = Batch {
                entries: &persist.entries,
                hard_state: persist.hard_state.as_ref(),
                snapshot: snapshot.as_ref(),
            };
            let _synced = self.log.append(batch)?;
        }
        self.persisted.store(persist.number, Ordering::Release);
        for message in persist.messages {
            self.outbox.send(message);
        }
        self.wake.wake();
        Ok(())
    }
}

fn bytes_of(persist: &Persist) -> usize {
    persist.entries.iter().map(|entry| entry.data.len() + entry.context.len()).sum()
}

fn follows(all: &Persist, next: &Persist) -> bool {
    match (all.entries.last(), next.entries.first()) {
        (Some(last), Some(first)) => first.index == last.index + 1,
        _ => true,
    }
}

fn join(all: &mut Persist, next: Persist) {
    let Persist { number, mut entries, hard_state, mut messages, snapshot: _ } = next;
    all.number = number;
    all.entries.append(&mut entries);
    all.hard_state = hard_state.or_else(|| all.hard_state.take());
    all.messages.append(&mut messages);
}

fn stopped() -> ClusterError {
    ClusterError::Stopped { reason: "is being stopped".to_owned() }
}

/// Hands jobs to the log's thread.
#[derive(Debug, Clone)]
pub(super) struct Jobs(pub(super) Sender<Job>);

impl Jobs {
    /// Waits while too much is to be written: a node whose disk stands still must not go on as if it did not.
    pub(super) fn give(&self, job: Job) -> Result<(), ClusterError> {
        self.0.send(job).map_err(|_| stopped())
    }
}

/// The hard state of a member that has just been made: term 1, nobody voted for, the bootstrap committed.
pub(super) fn first_hard_state() -> HardState {
    HardState { term: 1, commit: 1, ..HardState::default() }
}

#[cfg(test)]
mod tests;
