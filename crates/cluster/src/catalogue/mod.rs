//! Which object is under which key, who holds it, and who is a member: what the log is about.
//!
//! A command in the log is a [`Command`], read in place. The state machine is in memory, where all reads are answered;
//! redb keeps the same rows on the disk, written behind: the log has what a crash takes. Reads never wait for the disk.
//!
//! *Knows:* commands, rows, one file. *Does not know:* Raft, sockets, clocks; where an object's bytes are.
mod archive;
mod changes;
pub mod command;
mod disk;
mod entry;
mod index;
pub mod limits;
mod members;
mod op;
mod outcome;
mod read;
mod receive;
mod requests;
mod rows;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use redb::Durability;
use tokio::sync::watch;

pub use disk::FILE;
pub use entry::Entry;
pub use members::{Member, Ticket};
pub use op::{
    ArchivedCommand, ArchivedOp, Command, Condition, Expire, Forget, Holders, Join, MemberChanged,
    Op, Purge, Put, Remove, RequestId, Role, Scope, TicketIssued,
};
pub use outcome::{Applied, Event, Outcome, Refusal};
pub use receive::{SnapshotReader, Verified};
pub use snapshot::{CHUNK, CatalogueMark, Manifest, SnapshotWriter};
pub use state::Mark;

use self::changes::{Changes, Effects};
use self::command::Unreadable;
use self::disk::{Disk, Place};
use self::index::Index;
use self::receive::Slot;
use self::state::{Meta, State};
use crate::error::ClusterError;
use crate::ids::{ClusterId, NodeKey, ObjectId, RaftId, StorageId};

/// What one entry of the log asks of the catalogue.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// Nothing: a new leader's empty entry.
    Empty,
    /// To do what a command says.
    Command(&'a [u8]),
    /// To keep the Raft configuration that the entry led to, encoded. The state is equal on all nodes only if this is: put
    /// its members in order before encoding it.
    Conf(&'a [u8]),
}

/// One committed entry of the log.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What is to be done.
    pub what: What<'a>,
}

/// What a new cluster begins with.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its first Raft configuration, encoded.
    pub conf_state: Bytes,
    /// The first member's key.
    pub key: NodeKey,
    /// Its log.
    pub storage: StorageId,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Where its mesh listens.
    pub mesh: Vec<String>,
    /// Where it serves.
    pub http: String,
}

/// What installing a snapshot did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// What the snapshot is of.
    pub mark: CatalogueMark,
    /// Objects that were known here and are not any more.
    pub forget: Vec<ObjectId>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    /// Whoever changes the state holds this first; whoever reads it never does.
    disk: Mutex<Disk>,
    place: Place,
    applied: watch::Sender<u64>,
    durable: AtomicU64,
    unsynced: AtomicU64,
    receiving: AtomicBool,
}

/// The catalogue. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Catalogue {
    shared: Arc<Shared>,
}

impl Catalogue {
    /// Opens the catalogue in a folder; an empty one, if there is none.
    ///
    /// # Errors
    /// [`ClusterError::Corrupt`], if it is damaged or of another version; [`ClusterError::Locked`], if another process
    /// has it; [`ClusterError::File`] and [`ClusterError::Catalogue`].
    pub fn open(folder: &Path) -> Result<Self, ClusterError> {
        Self::open_in(Place::Folder(PathBuf::from(folder)))
    }

    /// An empty catalogue that nothing remains of.
    ///
    /// # Errors
    /// [`ClusterError::Catalogue`].
    pub fn volatile() -> Result<Self, ClusterError> {
        Self::open_in(Place::Memory)
    }

    fn open_in(place: Place) -> Result<Self, ClusterError> {
        let (disk, state) = Disk::open(place.clone())?;
        let index = state.meta.applied.index;
        let shared = Shared {
            state: RwLock::new(state),
            disk: Mutex::new(disk),
            place,
            applied: watch::Sender::new(index),
            durable: AtomicU64::new(index),
            unsynced: AtomicU64::new(0),
            receiving: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Begins a cluster: its first member is number 1, and the entry at index 1 of term 1 counts as applied. Durable.
    ///
    /// # Errors
    /// [`ClusterError::Config`], if there is a cluster already; [`ClusterError::Invalid`], if a text is too long.
    pub fn bootstrap(&self, first: &Bootstrap) -> Result<RaftId, ClusterError> {
        let mut disk = self.shared.disk.lock();
        let before = self.shared.state.read().meta.clone();
        if before != Meta::default() {
            return Err(ClusterError::Config {
                what: format!(
                    "{} belongs to a cluster already; start without --cluster, or take an empty data folder",
                    self.shared.place.path().display()
                ),
            });
        }
        let (state, changes) = State::first(first)?;
        disk.write(&state.meta, state.counts(), &changes, Durability::Immediate)?;
        let index = state.meta.applied.index;
        *self.shared.state.write() = state;
        self.shared.durable.store(index, Ordering::Release);
        self.shared.applied.send_replace(index);
        Ok(1)
    }

    /// Applies committed entries in the order of the log, in memory: for everybody to read, and not on the disk before
    /// [`Self::write`]. Each command gives an [`Applied`]; entries that were applied before give nothing, nor do the others. What
    /// was applied before an error is there, and to be told.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`], if an entry is missing, or of a release that this build does not know, and
    /// [`ClusterError::Catalogue`]. The node must stop: what comes later cannot be applied either.
    pub fn apply(&self, batch: &[Input<'_>]) -> (Vec<Applied>, Result<(), ClusterError>) {
        let mut disk = self.shared.disk.lock();
        let mut applied = Vec::with_capacity(batch.len());
        let mut stopped = disk.healthy();
        let mut bytes = 0;
        for input in batch {
            if stopped.is_err() {
                break;
            }
            match self.step(input, disk.pending()) {
                Ok(done) => applied.extend(done),
                Err(error) => stopped = Err(error),
            }
            if let What::Command(command) = input.what {
                bytes += command.len() as u64;
            }
        }
        self.shared.unsynced.fetch_add(bytes, Ordering::Relaxed);
        let index = self.shared.state.read().meta.applied.index;
        self.shared.applied.send_replace(index);
        (applied, stopped)
    }

    /// Writes what has been applied and not yet written, in one transaction, if it is at least so many rows. Not durable before
    /// [`Self::sync`].
    ///
    /// Blocks on the disk, as [`Self::sync`] does: not for a thread of the runtime.
    ///
    /// # Errors
    /// [`ClusterError::Catalogue`]. The node must stop.
    pub fn write(&self, rows: usize) -> Result<(), ClusterError> {
        let mut disk = self.shared.disk.lock();
        if disk.pending().rows() < rows {
            return Ok(());
        }
        self.write_by(&mut disk, Durability::None).map(drop)
    }

    fn write_by(&self, disk: &mut Disk, durability: Durability) -> Result<u64, ClusterError> {
        let (meta, counts) = {
            let state = self.shared.state.read();
            (state.meta.clone(), state.counts())
        };
        let changes = std::mem::take(disk.pending());
        disk.write(&meta, counts, &changes, durability)?;
        Ok(meta.applied.index)
    }

    /// Applies one entry to what is in memory. Others may read in the middle of what touches many entries, and find some of
    /// them changed and some not; what has been applied is said when all of them are.
    fn step(
        &self,
        input: &Input<'_>,
        changes: &mut Changes,
    ) -> Result<Option<Applied>, ClusterError> {
        let Input { index, term, what } = *input;
        let mut state = self.shared.state.write();
        let before = state.meta.applied.index;
        if index <= before {
            return Ok(None);
        }
        if index != before + 1 {
            return Err(ClusterError::Invalid {
                what: "a committed entry",
                reason: format!("its index is {index}, the last one applied is {before}"),
            });
        }
        let done = match what {
            What::Empty => None,
            What::Conf(conf_state) => {
                state.set_conf_state(conf_state)?;
                None
            }
            What::Command(bytes) => {
                let mut effects = Effects::new(changes);
                let (request, duplicate, outcome) = match Command::open(bytes) {
                    Ok(command) => {
                        let executed = state.execute(index, command, &mut effects);
                        while effects.rest.is_some() {
                            RwLockWriteGuard::bump(&mut state);
                            state.go_on(&mut effects);
                        }
                        let outcome = state.settle(&executed, &mut effects);
                        (Some(executed.request), executed.duplicate, outcome)
                    }
                    Err(Unreadable::Malformed(_)) => {
                        (None, false, Outcome::Refused(Refusal::Malformed))
                    }
                    Err(foreign) => return Err(foreign.into()),
                };
                let Effects { events, forget, retired, .. } = effects;
                let done = Applied { index, request, duplicate, outcome, events, forget };
                Some((done, retired))
            }
        };
        state.meta.applied = Mark { index, term };
        drop(state);
        // Nobody waits while what a purge of everything left is walked over and freed.
        Ok(done.map(|(mut done, retired)| {
            done.forget.extend(retired.iter().flat_map(Index::values).map(|entry| entry.object));
            done
        }))
    }

    /// Makes all that has been applied durable; answers up to which index. The log may be cut behind it.
    ///
    /// # Errors
    /// [`ClusterError::Catalogue`]. The node must stop.
    pub fn sync(&self) -> Result<u64, ClusterError> {
        let mut disk = self.shared.disk.lock();
        let index = self.write_by(&mut disk, Durability::Immediate)?;
        self.shared.unsynced.store(0, Ordering::Relaxed);
        self.shared.durable.store(index, Ordering::Release);
        Ok(index)
    }

    /// Up to which index the state survives a crash.
    pub fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Bytes of commands that were applied since.
    pub fn unsynced_bytes(&self) -> u64 {
        self.shared.unsynced.load(Ordering::Relaxed)
    }

    /// What a snapshot of what has been applied would be of.
    pub fn mark(&self) -> CatalogueMark {
        snapshot::mark_of(self.shared.state.read().meta.clone())
    }

    /// A snapshot of what has been applied.
    ///
    /// # Errors
    /// [`ClusterError::Catalogue`].
    pub fn snapshot(&self) -> Result<SnapshotWriter, ClusterError> {
        let mut disk = self.shared.disk.lock();
        self.write_by(&mut disk, Durability::None)?;
        SnapshotWriter::new(disk.database())
    }

    /// Begins to receive a snapshot.
    ///
    /// # Errors
    /// [`ClusterError::Busy`], if one is being received; [`ClusterError::File`] and [`ClusterError::Catalogue`].
    pub fn receive(&self) -> Result<SnapshotReader, ClusterError> {
        if self.shared.receiving.swap(true, Ordering::AcqRel) {
            return Err(ClusterError::Busy { what: "the place for a snapshot that is received" });
        }
        SnapshotReader::new(Slot(Arc::clone(&self.shared)))
    }

    /// Puts a snapshot in the place of the state. A crash leaves the one or the other.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`], if it is of another cluster, or older than what has been applied;
    /// [`ClusterError::Corrupt`], if it cannot be read; [`ClusterError::File`]: then the node must stop.
    pub fn install(&self, snapshot: Verified) -> Result<Installed, ClusterError> {
        let mark = snapshot.manifest().mark.clone();
        let Verified { cluster, db, slot, .. } = snapshot;
        let refused = |reason: String| Err(ClusterError::Invalid { what: "a snapshot", reason });
        let mut disk = self.shared.disk.lock();
        let before = self.shared.state.read().meta.clone();
        if before.cluster.is_some() && before.cluster != cluster {
            return refused("it is of another cluster".into());
        }
        if mark.index <= before.applied.index {
            return refused(format!(
                "it is of index {}, but {} has been applied here",
                mark.index, before.applied.index
            ));
        }
        let Some(state) = disk::load(&db, disk.place())? else {
            return refused("it is empty".into());
        };
        // Whether the folder remembers which file it is now is not known after a failure: the node must start again.
        disk.place().replace().inspect_err(|error| disk.fail(error))?;
        disk.swap(db);
        let forget = {
            let old = self.shared.state.read();
            let gone = |id: &ObjectId| state.index.by_object(*id).is_none();
            old.index.values().map(|entry| entry.object).filter(gone).collect()
        };
        let old = std::mem::replace(&mut *self.shared.state.write(), state);
        self.shared.unsynced.store(0, Ordering::Relaxed);
        self.shared.durable.store(mark.index, Ordering::Release);
        self.shared.applied.send_replace(mark.index);
        drop(disk);
        drop(slot);
        drop(old);
        Ok(Installed { mark, forget })
    }
}
