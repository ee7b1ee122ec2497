//! The member's side of serve leases: it asks all the time, and reports at once what it has let go.
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::drive::Input;
use super::{Shared, rpc};
use crate::error::ClusterError;
use crate::lease::{ASK_EVERY, Ask, Grant, LENGTH, LeaseHolder, boot_clock};

/// An answer that takes longer than this is worth too little. The next ask does not wait for it: members may be far apart.
const PATIENCE: Duration = LENGTH.saturating_sub(ASK_EVERY);
/// Asks under way at the most.
const ASKS: usize = 3;

/// What the applying thread and the asking task share.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) holder: Mutex<LeaseHolder>,
    let_go: Notify,
}

impl Leases {
    pub(super) fn new(boot: u64) -> Self {
        Self { holder: Mutex::new(LeaseHolder::new(boot)), let_go: Notify::new() }
    }

    /// The state machine has everything through `index`, for everybody who serves to see.
    pub(super) fn applied(&self, index: u64, let_go: bool) {
        self.holder.lock().applied(index);
        if let_go {
            // The leader waits for this before it acknowledges.
            self.let_go.notify_one();
        }
    }
}

/// Asks until the node stops.
pub(super) async fn ask(shared: Weak<Shared>) {
    let mut turns = interval(ASK_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(mut leaders) = shared.upgrade().map(|shared| shared.progress.watch()) else { return };
    let mut asks = JoinSet::new();
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            // Another one is to be asked, and at once.
            changed = leaders.changed() => match changed {
                Ok(()) => asks.abort_all(),
                Err(_) => return,
            },
        }
        while let Some(asked) = asks.try_join_next() {
            if let Ok(Err(error)) = asked {
                tracing::debug!(%error, "no serve lease");
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        let leader = leaders.borrow_and_update().leader;
        if leader != 0 && asks.len() < ASKS {
            asks.spawn(async move { once(&shared, leader).await });
        }
    }
}

async fn once(shared: &Arc<Shared>, leader: u64) -> Result<(), ClusterError> {
    let ask = shared.leases.holder.lock().ask(boot_clock());
    let asked = async {
        if leader == shared.id {
            shared.ask_driver(|answer| Input::Ask(leader, ask, answer)).await
        } else {
            let answer = shared.call(leader, rpc::LEASE, encode(&ask), PATIENCE).await?;
            Grant::decode(&answer)
        }
    };
    let grant = tokio::time::timeout(PATIENCE, asked)
        .await
        .map_err(|_| ClusterError::Timeout { what: "a serve lease", waited: PATIENCE })??;
    shared.leases.holder.lock().granted(&grant, boot_clock());
    Ok(())
}

fn encode(ask: &Ask) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&ask.encode())
}

/// Reports what has been let go, until the node stops.
pub(super) async fn report(shared: Weak<Shared>) {
    let Some(leases) = shared.upgrade().map(|shared| shared.leases.clone()) else { return };
    loop {
        leases.let_go.notified().await;
        let Some(shared) = shared.upgrade() else { return };
        let leader = shared.progress.leadership().leader;
        let applied = shared.catalogue.applied().index;
        if leader != 0 && leader != shared.id {
            // Without an answer the next ask reports the same.
            let _ = shared.call(leader, rpc::APPLIED, rpc::encode_index(applied), PATIENCE).await;
        }
    }
}
