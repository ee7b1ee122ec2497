//! The thread that applies what is committed, and the only one that writes the catalogue.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::drive;
use super::inbox::Letterbox;
use super::installing;
use super::leases::Leases;
use super::pending::Pending;
use super::start::{Later, member_addresses};
use super::wake::Wake;
use crate::catalogue::{
    Applied, Catalogue, Event, Input, Installed, Outcome, SnapshotWriter, Verified, What,
};
use crate::core::Committed;
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};

/// The catalogue is made durable this often, and whenever this much has been written to it since.
const SYNC_EVERY: Duration = Duration::from_secs(5);
const SYNC_BYTES: u64 = 64 << 20;
/// Rows that are written to it together. Until then the log has them.
const WRITE_ROWS: usize = 1024;

/// Hears of what the cluster agreed on, on every node, in commit order. Called on the applying thread: must not block.
pub trait Observer: std::fmt::Debug + Send + Sync + 'static {
    /// An event, and its place in the log.
    fn event(&self, index: u64, event: &Event);
    /// A snapshot was installed: what happened before it and was not told will not be told.
    fn skipped(&self);
    /// This member follows another leader from now on, or the same one in another term. Not in order with the events: called
    /// on a thread of the runtime, and only for the last of several changes at once.
    fn leader(&self, term: u64, leader: RaftId);
    /// These objects are not served any more: their bytes may be forgotten.
    fn forget(&self, objects: Vec<ObjectId>);
}

/// What the applying thread is asked to do, in order.
pub(super) enum Task {
    /// Apply.
    Apply(Vec<Committed>),
    /// Replace everything by this snapshot; then tell.
    Install(Box<Verified>, Sender<Result<(), ClusterError>>),
    /// Say how far it is, for the description of a snapshot.
    Mark,
    /// Freeze what there is now for a peer.
    Freeze(Sender<Result<SnapshotWriter, ClusterError>>),
    /// End.
    Stop,
}

/// How far it is, for those who must not wait for it.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Applied.
    pub(super) applied: AtomicU64,
    /// Applied and on disk.
    pub(super) durable: AtomicU64,
}

impl Marks {
    pub(super) fn new(applied: u64, durable: u64) -> Self {
        Self { applied: AtomicU64::new(applied), durable: AtomicU64::new(durable) }
    }
}

/// The applying thread's belongings.
pub(super) struct Applier {
    pub(super) data_dir: PathBuf,
    pub(super) catalogue: Catalogue,
    pub(super) pending: Arc<Pending>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) marks: Arc<Marks>,
    pub(super) leases: Arc<Leases>,
    pub(super) later: Later,
    pub(super) letterbox: Letterbox,
    pub(super) wake: Wake,
}

impl Applier {
    /// Runs until it is stopped, or cannot go on: then `Err`, and the node must stop.
    pub(super) fn run(mut self, tasks: &Receiver<Task>) -> Result<(), ClusterError> {
        let mut synced = Instant::now();
        loop {
            let task = match tasks.recv_timeout(SYNC_EVERY) {
                Ok(task) => Some(task),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match task {
                Some(Task::Apply(batch)) => self.apply(&batch)?,
                Some(Task::Install(snapshot, done)) => {
                    let installed = self.install(*snapshot);
                    let failed = installed.is_err();
                    // Whoever asked has stopped if it does not listen.
                    let _ = done.send(installed);
                    if failed {
                        tracing::warn!("a snapshot could not be installed");
                    }
                }
                Some(Task::Mark) => {
                    // Raft asks again.
                    let _ = self.letterbox.put(drive::Input::SnapshotMade(self.catalogue.mark()));
                }
                Some(Task::Freeze(done)) => {
                    let _ = done.send(self.sync().and_then(|()| self.catalogue.snapshot()));
                }
                Some(Task::Stop) => break,
                None => {}
            }
            let due =
                synced.elapsed() >= SYNC_EVERY || self.catalogue.unsynced_bytes() >= SYNC_BYTES;
            if due {
                synced = Instant::now();
                self.sync()?;
            }
        }
        self.sync()
    }

    fn sync(&self) -> Result<(), ClusterError> {
        if self.catalogue.durable() == self.catalogue.applied().index {
            return Ok(());
        }
        let durable = self.catalogue.sync()?;
        self.marks.durable.store(durable, Ordering::Release);
        self.wake.wake();
        Ok(())
    }

    /// Applies a batch. What it takes away is out of everybody's sight before anybody hears of it; it is written behind, when
    /// nobody waits for it any more.
    fn apply(&mut self, batch: &[Committed]) -> Result<(), ClusterError> {
        let members: Vec<_> = batch.iter().map(encode_members).collect();
        let inputs: Vec<_> = batch
            .iter()
            .zip(&members)
            .map(|(committed, members)| input(committed, members))
            .collect();
        let (applied, went_on) = self.catalogue.apply(&inputs);
        // Whoever purged waits for word of it, whether there was anything or not.
        let let_go = applied.iter().any(|applied| {
            !applied.forget.is_empty()
                || matches!(applied.outcome, Outcome::Purged(_) | Outcome::Removed(_))
        });
        self.advanced(let_go);
        let mut forget = Vec::new();
        for Applied { index, request, outcome, events, forget: objects, .. } in applied {
            for event in &events {
                if matches!(event, Event::Joined(_) | Event::Changed(_) | Event::Left(_)) {
                    self.members_changed();
                }
                self.observer.event(index, event);
            }
            forget.extend(objects);
            if let Some(request) = request {
                self.pending.settle(request, index, outcome);
            }
        }
        if !forget.is_empty() {
            self.observer.forget(forget);
        }
        // After those who wait for an answer: Raft's thread only keeps account of it.
        self.wake.wake();
        went_on?;
        self.catalogue.write(WRITE_ROWS)
    }

    fn install(&mut self, snapshot: Verified) -> Result<(), ClusterError> {
        installing::begin(&self.data_dir, snapshot.manifest().mark.index)?;
        let Installed { mark, forget } = self.catalogue.install(snapshot)?;
        self.marks.durable.store(mark.index, Ordering::Release);
        self.advanced(true);
        self.members_changed();
        self.observer.skipped();
        self.wake.wake();
        if !forget.is_empty() {
            self.observer.forget(forget);
        }
        Ok(())
    }

    fn advanced(&self, let_go: bool) {
        let index = self.catalogue.applied().index;
        self.leases.applied(index, let_go);
        self.marks.applied.store(index, Ordering::Release);
    }

    fn members_changed(&self) {
        if let Some(shared) = self.later.upgrade() {
            shared.network.set_members(&member_addresses(&shared.catalogue));
            shared.mesh.members(&shared.catalogue);
            shared.repair.news();
        }
    }
}

fn input<'a>(committed: &'a Committed, members: &'a [u8]) -> Input<'a> {
    match committed {
        Committed::Command { index, term, data } => {
            let what = if data.is_empty() { What::Empty } else { What::Command(data) };
            Input { index: *index, term: *term, what }
        }
        Committed::Members { index, term, .. } => {
            Input { index: *index, term: *term, what: What::Conf(members) }
        }
    }
}

fn encode_members(committed: &Committed) -> Vec<u8> {
    match committed {
        Committed::Members { conf_state, .. } => {
            // All members keep the same bytes.
            let mut sorted = conf_state.clone();
            sorted.voters.sort_unstable();
            sorted.voters_outgoing.sort_unstable();
            sorted.learners.sort_unstable();
            sorted.learners_next.sort_unstable();
            straightway_wire::raft::encode_conf_state(&sorted).to_vec()
        }
        Committed::Command { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
