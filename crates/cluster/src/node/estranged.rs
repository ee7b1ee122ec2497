//! Members that do not know this node. Where most do not and go on so, it was removed while it could not hear of it.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Shared;
use crate::ids::RaftId;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Looks in a row at which most were strangers: a member that has been started a moment ago may not have read yet who has
/// joined.
const PATIENCE: u32 = 5;

/// The members that refused this node as a stranger, and were not heard from since.
#[derive(Debug, Default)]
pub(super) struct Estranged {
    any: AtomicBool,
    members: Mutex<BTreeSet<RaftId>>,
}

impl Estranged {
    /// Whether it is the first one.
    fn refused(&self, by: RaftId) -> bool {
        self.members.lock().insert(by);
        !self.any.swap(true, Ordering::Relaxed)
    }

    /// Whoever sends messages of Raft takes this node for a member.
    pub(super) fn heard(&self, from: RaftId) {
        if self.any.load(Ordering::Relaxed) {
            let mut members = self.members.lock();
            members.remove(&from);
            self.any.store(!members.is_empty(), Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// A member does not know this node.
    pub(super) fn estranged(self: &Arc<Self>, by: RaftId) {
        if self.estranged.refused(by) {
            tokio::spawn(judge(Arc::downgrade(self)));
        }
    }

    /// Those to whom this node is a stranger, if they are the majority of the other voters.
    fn strangers(&self) -> Option<Vec<RaftId>> {
        let voters = self.progress.detail().conf_state.voters;
        let refused = self.estranged.members.lock();
        let others = voters.iter().filter(|id| **id != self.id);
        let by: Vec<_> = others.clone().copied().filter(|id| refused.contains(id)).collect();
        (by.len() > others.count() / 2).then_some(by)
    }
}

/// Looks until somebody knows this node again, or it is clear that most do not. A refusal is told once, and may be told
/// before this node knows who votes.
async fn judge(shared: Weak<Shared>) {
    let mut looks = 0;
    while looks < PATIENCE {
        tokio::time::sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else { return };
        if !shared.estranged.any.load(Ordering::Relaxed) {
            return;
        }
        looks = if shared.strangers().is_some() { looks + 1 } else { 0 };
    }
    let Some(shared) = shared.upgrade() else { return };
    let by = shared.strangers().unwrap_or_default();
    shared.fail(format!(
        "has been removed from the cluster, or so say members {by:?}; empty its data folder and let it join again"
    ));
}
