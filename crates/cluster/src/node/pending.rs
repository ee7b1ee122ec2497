//! Commands that this node has proposed and not yet seen applied.
//!
//! The proposer hears of the outcome from its own state machine, not from the leader: what it answers its client is what it
//! would serve, and it does not matter which leader got the command into the log.
use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::catalogue::{Outcome, RequestId, limits};
use crate::error::ClusterError;
use crate::ids::RaftId;

/// From the oldest command under way to the newest: below what the state machine remembers of a node.
const MAX_SPAN: u64 = 1024;
const _: () = assert!(MAX_SPAN <= limits::IN_FLIGHT);

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Its place in the log.
    pub(crate) index: u64,
    /// What it did.
    pub(crate) outcome: Outcome,
}

/// Commands under way, by serial.
#[derive(Debug)]
pub(crate) struct Pending {
    node: RaftId,
    boot: u64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    by_serial: BTreeMap<u64, oneshot::Sender<Settled>>,
}

impl Pending {
    pub(crate) fn new(node: RaftId, boot: u64) -> Self {
        Self { node, boot, waiting: Mutex::default() }
    }

    /// A number for a new command, and where its outcome will arrive. [`Pending::give_up`] ends the wait.
    pub(crate) fn begin(&self) -> Result<(RequestId, oneshot::Receiver<Settled>), ClusterError> {
        let mut waiting = self.waiting.lock();
        let serial = waiting.last + 1;
        let oldest = waiting.by_serial.keys().next().copied().unwrap_or(serial);
        if serial - oldest >= MAX_SPAN {
            return Err(ClusterError::Busy { what: "the queue of changes" });
        }
        waiting.last = serial;
        let (sender, receiver) = oneshot::channel();
        waiting.by_serial.insert(serial, sender);
        Ok((RequestId { node: self.node, boot: self.boot, serial }, receiver))
    }

    pub(crate) fn give_up(&self, request: RequestId) {
        self.waiting.lock().by_serial.remove(&request.serial);
    }

    /// A command has been applied here; most are other nodes'.
    pub(crate) fn settle(&self, request: RequestId, index: u64, outcome: Outcome) {
        if request.node != self.node || request.boot != self.boot {
            return;
        }
        if let Some(sender) = self.waiting.lock().by_serial.remove(&request.serial) {
            // Whoever waited may have given up.
            let _ = sender.send(Settled { index, outcome });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_commands_settle_and_their_number_is_bounded() {
        let pending = Pending::new(3, 7);
        let (first, mut waiting) = pending.begin().unwrap();
        pending.settle(RequestId { node: 4, ..first }, 5, Outcome::Done);
        pending.settle(RequestId { boot: 6, ..first }, 5, Outcome::Done);
        assert!(waiting.try_recv().is_err());
        pending.settle(first, 9, Outcome::Removed(true));
        assert_eq!(waiting.try_recv().unwrap().index, 9);
        let many: Vec<_> = (0..MAX_SPAN).map(|_| pending.begin().unwrap()).collect();
        assert!(matches!(pending.begin(), Err(ClusterError::Busy { .. })));
        pending.give_up(many[0].0);
        assert!(pending.begin().is_ok());
    }
}
