//! Where Raft's thread is, for everybody else to see.
use parking_lot::Mutex;
use raft::prelude::ConfState;
use tokio::sync::watch;

use crate::core::Leadership;
use crate::ids::RaftId;
use crate::log::LogStats;

/// Where Raft's thread is.
#[derive(Debug)]
pub(super) struct Progress {
    leadership: watch::Sender<Leadership>,
    detail: Mutex<Detail>,
    log: Mutex<LogStats>,
}

/// What changes all the time.
#[derive(Debug, Clone, Default)]
pub(super) struct Detail {
    pub(super) commit_index: u64,
    /// The first entry that the log has.
    pub(super) log_first: u64,
    /// Members' logs, as the leader knows them: number, last index that agrees, heard lately.
    pub(super) members: Vec<(RaftId, u64, bool)>,
    /// The present configuration.
    pub(super) conf_state: ConfState,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            leadership: watch::Sender::new(Leadership::default()),
            detail: Mutex::default(),
            log: Mutex::default(),
        }
    }

    pub(super) fn set_leadership(&self, leadership: Leadership) {
        self.leadership.send_replace(leadership);
    }

    pub(super) fn set_detail(&self, detail: Detail) {
        *self.detail.lock() = detail;
    }

    pub(super) fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub(super) fn detail(&self) -> Detail {
        self.detail.lock().clone()
    }

    pub(super) fn set_log(&self, log: LogStats) {
        *self.log.lock() = log;
    }

    pub(super) fn log(&self) -> LogStats {
        *self.log.lock()
    }
}
