//! A snapshot is installed in two places, one after the other: the catalogue, then the log. A note on the disk says that this
//! is under way, so that a start after a crash in between can tell it from a log that has lost its end.
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use crate::error::ClusterError;
use crate::log::{Batch, LogMark, LogStore, Recovered};

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
/// a snapshot: the log takes its mark, as it would have then, unless it has it or the very entry.
pub(super) fn finish(
    data_dir: &Path,
    applied: &LogMark,
    log: &mut dyn LogStore,
    recovered: &mut Recovered,
) -> Result<(), ClusterError> {
    let base = recovered.snapshot.as_ref().map_or(0, |mark| mark.index);
    let index = applied.index;
    // An entry there may be of a leader that was overruled.
    let lacks = index >= base && recovered.term(index) != Some(applied.term);
    if lacks && noted(data_dir) == Some(index) {
        tracing::info!(index, "a crash cut the installation of a snapshot short; it is finished");
        let _synced = log.append(Batch { snapshot: Some(applied), ..Batch::default() })?;
        recovered.entries.clear();
        recovered.snapshot = Some(applied.clone());
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
    use raft::prelude::{ConfState, Entry};

    use super::*;
    use crate::log::{MemoryLog, RaftStorage};

    fn mark(index: u64, term: u64, voters: &[u64]) -> LogMark {
        let conf_state = ConfState { voters: voters.to_vec(), ..ConfState::default() };
        LogMark { index, term, conf_state }
    }

    /// A log of entries 2 to `last`, all of term 1.
    fn log_to(last: u64) -> (MemoryLog, Recovered) {
        let entry = |index| Entry { index, term: 1, ..Entry::default() };
        MemoryLog::reopen(Recovered {
            snapshot: Some(mark(1, 1, &[1])),
            entries: (2..=last).map(entry).collect(),
            ..Recovered::default()
        })
    }

    #[test]
    fn a_crash_between_catalogue_and_log_is_mended_at_the_start() {
        // The log ends before the snapshot, at it, or behind it with what an overruled leader wrote.
        for last in [3, 40, 45] {
            let place = tempfile::tempdir().unwrap();
            let applied = mark(40, 5, &[1, 2, 3]);
            begin(place.path(), 40).unwrap();
            let (mut log, mut recovered) = log_to(last);
            finish(place.path(), &applied, &mut log, &mut recovered).unwrap();
            let storage = RaftStorage::recover(recovered, Some(applied.clone())).unwrap();
            let ends = (storage.first(), storage.last(), storage.entry_term(40));
            assert_eq!(ends, (41, 40, Some(5)), "{last}");
            assert_eq!(log.synced().snapshot, Some(applied));
            assert_eq!(log.synced().entries, []);
            assert_eq!(noted(place.path()), None, "and that is over");
        }
    }

    #[test]
    fn a_log_that_has_the_entry_keeps_what_follows_it() {
        let place = tempfile::tempdir().unwrap();
        begin(place.path(), 40).unwrap();
        let (mut log, mut recovered) = log_to(45);
        finish(place.path(), &mark(40, 1, &[1]), &mut log, &mut recovered).unwrap();
        assert_eq!((recovered.entries.len(), log.synced().entries.len()), (44, 44));
    }

    #[test]
    fn a_log_that_has_lost_its_end_is_still_told() {
        // The note is of another snapshot, which was older than what has been applied since.
        for (last, reason) in [(3, "it ends with entry 3"), (40, "its entry 40 is of term 1")] {
            let place = tempfile::tempdir().unwrap();
            begin(place.path(), 30).unwrap();
            let (mut log, mut recovered) = log_to(last);
            let applied = mark(40, 5, &[1]);
            finish(place.path(), &applied, &mut log, &mut recovered).unwrap();
            let error = RaftStorage::recover(recovered, Some(applied)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
