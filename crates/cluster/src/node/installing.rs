//! A snapshot is installed in two places, one after the other: the catalogue, then the log. A note on the disk says that this
//! is under way, so that a start after a crash in between can tell it from a log that has lost its end.
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use raft::prelude::ConfState;

use crate::catalogue::Mark;
use crate::error::ClusterError;
use crate::log::{Batch, LogStore, Recovered, SnapshotMark};

const NOTE: &str = "installing";

/// The catalogue is about to be replaced by a snapshot that ends at `index`. Durable.
pub(super) fn begin(data_dir: &Path, index: u64) -> Result<(), ClusterError> {
    let path = data_dir.join(NOTE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(index.to_string().as_bytes())?;
        file.sync_all()?;
        File::open(data_dir)?.sync_all()
    });
    written.map_err(|error| ClusterError::file("write", path)(error))
}

/// At the start: what a crash cut short is finished. The catalogue has everything through `applied`, durably, and that came as
/// a snapshot: the log takes its mark, as it would have then.
pub(super) fn finish(
    data_dir: &Path,
    applied: Mark,
    conf_state: &ConfState,
    log: &mut dyn LogStore,
    recovered: &mut Recovered,
) -> Result<(), ClusterError> {
    let base = recovered.snapshot.as_ref().map_or(0, |mark| mark.index);
    let last = recovered.entries.last().map_or(base, |entry| entry.index);
    if applied.index > last && noted(data_dir) == Some(applied.index) {
        let Mark { index, term } = applied;
        tracing::info!(index, "a crash cut the installation of a snapshot short; it is finished");
        let mark = SnapshotMark { index, term, conf_state: conf_state.clone() };
        let _synced = log.append(Batch { snapshot: Some(&mark), ..Batch::default() })?;
        recovered.entries.clear();
        recovered.snapshot = Some(mark);
    }
    let path = data_dir.join(NOTE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(ClusterError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn noted(data_dir: &Path) -> Option<u64> {
    fs::read_to_string(data_dir.join(NOTE)).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use raft::prelude::Entry;

    use super::*;
    use crate::log::{LogImage, MemoryLog, RaftStorage};

    fn conf(voters: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), ..ConfState::default() }
    }

    /// A log that ends with entry 3, of which the catalogue has nothing any more: it has a snapshot through 40.
    fn cut_short() -> (MemoryLog, Recovered) {
        let mark = SnapshotMark { index: 1, term: 1, conf_state: conf(&[1]) };
        let entry = |index| Entry { index, term: 1, ..Entry::default() };
        MemoryLog::reopen(LogImage {
            snapshot: Some(mark),
            entries: vec![entry(2), entry(3)],
            ..LogImage::default()
        })
    }

    #[test]
    fn a_crash_between_catalogue_and_log_is_mended_at_the_start() {
        let place = tempfile::tempdir().unwrap();
        let applied = Mark { index: 40, term: 5 };
        begin(place.path(), 40).unwrap();
        let (mut log, mut recovered) = cut_short();
        finish(place.path(), applied, &conf(&[1, 2, 3]), &mut log, &mut recovered).unwrap();
        let storage = RaftStorage::recover(recovered, 40, Some(conf(&[1, 2, 3]))).unwrap();
        assert_eq!((storage.first(), storage.last(), storage.entry_term(40)), (41, 40, Some(5)));
        let mark = log.synced().snapshot.clone().unwrap();
        assert_eq!((mark.index, mark.term, log.synced().entries.len()), (40, 5, 0));
        assert_eq!(noted(place.path()), None, "and that is over");
    }

    #[test]
    fn a_log_that_has_lost_its_end_is_still_told() {
        let place = tempfile::tempdir().unwrap();
        // Of another snapshot, which was older than what has been applied since.
        begin(place.path(), 30).unwrap();
        let (mut log, mut recovered) = cut_short();
        let applied = Mark { index: 40, term: 5 };
        finish(place.path(), applied, &conf(&[1]), &mut log, &mut recovered).unwrap();
        assert!(RaftStorage::recover(recovered, 40, None).is_err());
    }
}
