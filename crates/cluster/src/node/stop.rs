//! How a member's threads begin, fail and end.
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::apply::Task;
use super::disk::{Job, Jobs};
use super::drive::Input;
use super::start::Later;
use super::{Shared, members};
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::net::CloseCode;

const STOP_PAUSE: Duration = Duration::from_millis(10);
/// How long a stopping leader tries to hand over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// The threads of a member, and how to end them.
pub(super) struct Threads {
    pub(super) tasks: Sender<Task>,
    pub(super) jobs: Jobs,
    pub(super) handles: Vec<JoinHandle<()>>,
}

/// Starts a thread of a member. When it cannot go on, the member cannot.
pub(super) fn thread(
    name: &str,
    later: Later,
    run: impl FnOnce() -> Result<(), ClusterError> + Send + 'static,
) -> Result<JoinHandle<()>, ClusterError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // A bug must not leave a member that neither works nor ends; nothing that it owned is used again.
            let ended = std::panic::catch_unwind(AssertUnwindSafe(run));
            let reason = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => full(&error),
                Err(_) => "met a bug of its own, which it printed; report it, and start it again"
                    .to_owned(),
            };
            if let Some(shared) = later.upgrade() {
                shared.fail(reason);
            }
        })
        .map_err(|error| ClusterError::Config {
            what: format!("the system refused a thread: {error}"),
        })
}

/// An error with its causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Shared {
    /// A peer does not talk to this node.
    pub(super) fn refused_by(self: &Arc<Self>, peer: RaftId, code: CloseCode, reason: &str) {
        tracing::warn!(peer, ?code, reason, "a member refuses this node");
        match code {
            // One member's word is not enough: it may have restarted a moment ago, or lie.
            CloseCode::Removed | CloseCode::NotAMember => self.estranged(peer),
            _ => {}
        }
    }

    pub(super) async fn stop(self: &Arc<Self>) {
        let Some(threads) = self.threads.lock().take() else { return };
        self.hand_over().await;
        self.leases.holder.lock().revoke();
        self.mesh.stop();
        drop(self.beacons.lock().take());
        // The driver first: it feeds the others.
        while matches!(self.letterbox.put(Input::Stop), Err(ClusterError::Busy { .. })) {
            tokio::time::sleep(STOP_PAUSE).await;
        }
        let Threads { tasks, jobs, handles } = threads;
        let ended = tokio::task::spawn_blocking(move || {
            let mut handles = handles.into_iter();
            let mut join = || handles.next().map(JoinHandle::join);
            join();
            let _ = jobs.give(Job::Stop);
            join();
            let _ = tasks.send(Task::Stop);
            join();
        });
        let _ = ended.await;
        self.end("was stopped".to_owned());
        self.network.close().await;
    }

    /// A leader that stops lets another one lead first: the others need not wait for an election.
    async fn hand_over(&self) {
        if self.progress.leadership().leader != self.id || self.failed.borrow().is_some() {
            return;
        }
        let voters = self.progress.detail().conf_state.voters;
        let others = voters.into_iter().filter(|id| *id != self.id);
        if let Some(heir) = self.healthiest(others) {
            let change = members::Change::Transfer(heir);
            let _ = self.change_members(change, HAND_OVER).await;
        }
    }
}
