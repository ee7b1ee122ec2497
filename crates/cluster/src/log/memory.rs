//! A log that only pretends to have a disk: for simulations, which crash it where they like.
use raft::prelude::{Entry, HardState};

use super::shape::Shape;
use super::{Batch, LogMark, LogStats, LogStore, Recovered, Synced};
use crate::error::ClusterError;

/// A batch that was written, and not flushed.
#[derive(Debug, Clone)]
struct Staged {
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    snapshot: Option<LogMark>,
}

impl Staged {
    fn batch(&self) -> Batch<'_> {
        let Self { entries, hard_state, snapshot } = self;
        Batch { entries, hard_state: hard_state.as_ref(), snapshot: snapshot.as_ref() }
    }
}

/// A log in memory that knows what of it would survive.
///
/// A batch that was written and not flushed survives a crash wholly or not at all, as with [`super::SegmentLog`], and only if
/// those before it do.
#[derive(Debug, Default)]
pub struct MemoryLog {
    synced: Recovered,
    staged: Vec<Staged>,
    shape: Shape,
    failing: bool,
    stats: LogStats,
}

impl MemoryLog {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens what a crash left.
    pub fn reopen(image: Recovered) -> (Self, Recovered) {
        let recovered = image.clone();
        let mut shape = Shape::default();
        if let Some(mark) = &image.snapshot {
            shape.set_mark(mark, true);
        }
        for entry in &image.entries {
            shape.push(entry.term);
        }
        (Self { synced: image, shape, ..Self::default() }, recovered)
    }

    /// Writes without flushing.
    pub fn write(&mut self, batch: Batch<'_>) -> Result<(), ClusterError> {
        self.usable()?;
        self.shape.check(&batch)?;
        if !batch.is_empty() {
            self.shape.accept(&batch);
            self.stats.batches += 1;
            self.stats.writes += 1;
            self.stats.entries += batch.entries.len() as u64;
            self.staged.push(Staged {
                entries: batch.entries.to_vec(),
                hard_state: batch.hard_state.cloned(),
                snapshot: batch.snapshot.cloned(),
            });
        }
        Ok(())
    }

    /// Flushes what was written.
    pub fn sync(&mut self) -> Result<Synced, ClusterError> {
        self.usable()?;
        if self.failing {
            self.stats.poisoned = true;
            return self.usable().map(|()| Synced::through(0));
        }
        self.stats.syncs += u64::from(!self.staged.is_empty());
        for staged in self.staged.drain(..) {
            self.synced.apply(&staged.batch());
        }
        Ok(Synced::through(self.shape.last()))
    }

    /// The next flush fails, and everything after it.
    pub fn fail_sync(&mut self) {
        self.failing = true;
    }

    /// Batches that were written and not flushed.
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// What surely survives.
    pub fn synced(&self) -> &Recovered {
        &self.synced
    }

    /// The machine stops: what was flushed is left, and the first `keep` of the batches that were not.
    pub fn crash(self, keep: usize) -> Recovered {
        let mut image = self.synced;
        for staged in self.staged.iter().take(keep) {
            image.apply(&staged.batch());
        }
        image
    }

    fn usable(&self) -> Result<(), ClusterError> {
        if self.stats.poisoned {
            return Err(ClusterError::Poisoned {
                first: "a flush failed, as it was told to".to_owned(),
            });
        }
        Ok(())
    }
}

impl LogStore for MemoryLog {
    fn append(&mut self, batch: Batch<'_>) -> Result<Synced, ClusterError> {
        self.write(batch)?;
        self.sync()
    }

    fn compact(&mut self, mark: &LogMark) -> Result<(), ClusterError> {
        if self.shape.mark.as_ref().is_none_or(|last| mark.index > last.index) {
            if self.shape.is_replaced_by(mark) {
                let reason = format!("entry {} of term {} is not in it", mark.index, mark.term);
                return Err(ClusterError::Invalid { what: "a mark to cut the log at", reason });
            }
            let _synced = self.append(Batch { snapshot: Some(mark), ..Batch::default() })?;
        }
        Ok(())
    }

    fn stats(&self) -> LogStats {
        self.stats
    }
}
