//! How a change gets into the log, whoever leads, and exactly once.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::drive::Input;
use super::pending::Settled;
use super::{Shared, rpc};
use crate::catalogue::{Command, Op, Outcome, RequestId};
use crate::core::NotProposed;
use crate::error::ClusterError;
use crate::ids::RaftId;

/// How long a change may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// A change of which nothing is heard is proposed again: the state machine knows it by its number.
const AGAIN: Duration = Duration::from_millis(500);
/// How long to wait for a leader to be known before looking again.
const PAUSE: Duration = Duration::from_millis(25);

impl Shared {
    /// Gets `op` into the log and waits until it is applied here.
    ///
    /// Cancel-safe in this sense: a change whose future is dropped may or may not happen, at most once.
    pub(super) async fn change(&self, op: Op) -> Result<Settled, ClusterError> {
        let (request, settled) = self.pending.begin()?;
        let _forget = GiveUp { shared: self, request };
        let command = encode(&Command { request, op })?;
        let mut settled = settled;
        let deadline = Instant::now() + DEADLINE;
        let mut leaders = self.progress.watch();
        let mut sent = false;
        while Instant::now() < deadline {
            self.going()?;
            let leader = leaders.borrow_and_update().leader;
            match self.propose_to(leader, command.clone()).await {
                Ok(()) => sent = true,
                Err(ClusterError::Stopped { reason }) => {
                    return Err(ClusterError::Stopped { reason });
                }
                Err(error) => {
                    tracing::debug!(%error, leader, "a change was not taken; it is proposed again");
                    // Another leader, or the same one after a while.
                    let _ = timeout(PAUSE, leaders.changed()).await;
                    if let Ok(settled) = settled.try_recv() {
                        return Ok(settled);
                    }
                    continue;
                }
            }
            let again = (Instant::now() + AGAIN).min(deadline);
            tokio::select! {
                result = &mut settled => return result.map_err(|_| self.stopped()),
                _ = leaders.changed() => {}
                () = tokio::time::sleep_until(again) => {}
            }
        }
        if sent {
            Err(ClusterError::Timeout { what: "a change", waited: DEADLINE })
        } else {
            Err(ClusterError::NoQuorum { waited: DEADLINE })
        }
    }

    async fn propose_to(&self, leader: RaftId, command: Bytes) -> Result<(), ClusterError> {
        if leader == 0 {
            return Err(ClusterError::NoQuorum { waited: Duration::ZERO });
        }
        if leader == self.id {
            return self.ask_driver(|answer| Input::Propose(command, answer)).await;
        }
        self.call(leader, rpc::PROPOSE, command, AGAIN).await.map(drop)
    }

    /// Asks Raft's thread of this node.
    pub(super) async fn ask_driver<T>(
        &self,
        input: impl FnOnce(super::drive::Answer<T>) -> Input,
    ) -> Result<T, ClusterError> {
        let (answer, answered) = oneshot::channel();
        self.letterbox.put(input(answer))?;
        match answered.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(NotProposed::NotLeader(leader))) => {
                Err(ClusterError::Refused { reason: format!("{} leads", Leader(leader)) })
            }
            Ok(Err(NotProposed::Busy)) => Err(ClusterError::Busy { what: "the leader's log" }),
            Err(_) => Err(self.stopped()),
        }
    }

    /// The index that a linearizable read waits for, from whoever leads; then waits until it is applied here.
    pub(super) async fn barrier(&self, patience: Duration) -> Result<u64, ClusterError> {
        let deadline = Instant::now() + patience;
        loop {
            self.going()?;
            let leader = self.progress.leadership().leader;
            let asked = async {
                if leader == self.id {
                    self.ask_driver(Input::Read).await
                } else if leader == 0 {
                    Err(ClusterError::NoQuorum { waited: Duration::ZERO })
                } else {
                    let answer = self.call(leader, rpc::READ, Bytes::new(), patience).await?;
                    rpc::decode_index(&answer)
                }
            };
            match timeout_at(deadline, asked).await {
                Ok(Ok(index)) => {
                    self.applied(index, deadline).await?;
                    return Ok(index);
                }
                Ok(Err(ClusterError::Stopped { reason })) => {
                    return Err(ClusterError::Stopped { reason });
                }
                Ok(Err(_)) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
                _ => return Err(ClusterError::NoQuorum { waited: patience }),
            }
        }
    }

    /// Waits until the state machine of this node has everything through `index`.
    async fn applied(&self, index: u64, deadline: Instant) -> Result<(), ClusterError> {
        let mut applied = self.catalogue.applied_watch();
        let mut failed = self.failed.subscribe();
        let begun = Instant::now();
        let waited = tokio::select! {
            waited = timeout_at(deadline, applied.wait_for(|now| *now >= index)) => waited,
            // Let go at once: `stopped` looks at it again.
            () = async { drop(failed.wait_for(Option::is_some).await) } => return Err(self.stopped()),
        };
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self.stopped()),
            Err(_) => Err(ClusterError::NoQuorum { waited: begun.elapsed() }),
        }
    }

    /// Waits until no member can serve what the command at `index` took away.
    pub(super) async fn released(&self, index: u64) -> Result<(), ClusterError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.going()?;
            let leader = self.progress.leadership().leader;
            let asked = async {
                if leader == self.id {
                    self.ask_driver(|answer| Input::Release(index, answer)).await
                } else if leader == 0 {
                    Err(ClusterError::NoQuorum { waited: Duration::ZERO })
                } else {
                    self.released_by(leader, index).await
                }
            };
            match timeout_at(deadline, asked).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(ClusterError::Stopped { reason })) => {
                    return Err(ClusterError::Stopped { reason });
                }
                Ok(Err(_)) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
                _ => return Err(ClusterError::Timeout { what: "a purge", waited: DEADLINE }),
            }
        }
    }
}

/// Those who wait for another member to say that nobody serves what was taken away.
#[derive(Debug, Default)]
pub(super) struct Releases {
    /// The highest index that is waited for.
    wanted: AtomicU64,
    /// Whoever asks: one at a time, for all that wait. It holds up to which index the leader has said so.
    asking: Mutex<u64>,
}

impl Shared {
    /// Asks the leader, for all that wait here: what is let go at an index is let go below it. One call each would leave
    /// the leader no room to answer anything else that this node asks.
    async fn released_by(&self, leader: RaftId, index: u64) -> Result<(), ClusterError> {
        self.releases.wanted.fetch_max(index, Ordering::Relaxed);
        let mut released = self.releases.asking.lock().await;
        if *released < index {
            let through = self.releases.wanted.load(Ordering::Relaxed);
            self.call(leader, rpc::RELEASE, rpc::encode_index(through), DEADLINE).await?;
            *released = through;
        }
        Ok(())
    }
}

/// What is too long or too much is the caller's mistake.
pub(super) fn encode(command: &Command) -> Result<Bytes, ClusterError> {
    command.encode().map_err(|error| ClusterError::Config { what: error.to_string() })
}

/// What a refused change tells its caller.
pub(super) fn refused(outcome: &Outcome) -> ClusterError {
    let reason = match outcome {
        Outcome::Refused(refusal) => refusal.to_string(),
        other => format!("an outcome that does not belong to the command ({other:?})"),
    };
    ClusterError::Refused { reason }
}

struct Leader(RaftId);

impl std::fmt::Display for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("nobody that is known"),
            id => write!(f, "member {id}"),
        }
    }
}

/// Forgets a command that is not waited for any more.
struct GiveUp<'a> {
    shared: &'a Shared,
    request: RequestId,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.shared.pending.give_up(self.request);
    }
}
