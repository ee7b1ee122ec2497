//! Snapshots on their way: raft only hears of them when they are whole.
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::Sender;
use raft::prelude::Message;

use super::apply::Task;
use super::drive::Input;
use super::start::Later;
use super::{Shared, rpc};
use crate::catalogue::{Catalogue, SnapshotWriter, Verified};
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::store::{BoxFuture, StoreError};
use crate::transfer::{ChunkSource, SnapshotMark, SnapshotStore};

/// Gives peers what the state machine holds, frozen at the moment when they ask.
pub(super) struct Frozen {
    pub(super) tasks: Sender<Task>,
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frozen")
    }
}

impl SnapshotStore for Frozen {
    fn open(
        &self,
        index: u64,
    ) -> BoxFuture<'_, Result<Option<(SnapshotMark, Box<dyn ChunkSource>)>, StoreError>> {
        let tasks = self.tasks.clone();
        Box::pin(async move {
            let writer = tokio::task::spawn_blocking(move || freeze(&tasks))
                .await
                .map_err(|error| failed("freezing the catalogue", error))?
                .map_err(|error| failed("freezing the catalogue", error))?;
            let mark = writer.mark();
            if mark.index < index {
                // It was promised when this much was applied; a node that was started anew may be behind.
                return Ok(None);
            }
            let mark = SnapshotMark { index: mark.index, term: mark.term, len: None };
            Ok(Some((mark, Box::new(Chunks(Some(writer))) as Box<dyn ChunkSource>)))
        })
    }
}

fn failed(
    what: &'static str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Failed { what, source: error.into() }
}

fn freeze(tasks: &Sender<Task>) -> Result<SnapshotWriter, ClusterError> {
    let stopped = || ClusterError::Stopped { reason: "is being stopped".to_owned() };
    let (done, frozen) = crossbeam_channel::bounded(1);
    tasks.send(Task::Freeze(done)).map_err(|_| stopped())?;
    frozen.recv().map_err(|_| stopped())?
}

/// Reads a frozen catalogue on threads that may block.
struct Chunks(Option<SnapshotWriter>);

impl ChunkSource for Chunks {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            let Some(mut writer) = self.0.take() else { return Ok(None) };
            let read = tokio::task::spawn_blocking(move || {
                let chunk = writer.next_chunk();
                (writer, chunk)
            });
            let (writer, chunk) =
                read.await.map_err(|error| failed("reading a snapshot", error))?;
            let chunk = chunk.map_err(|error| failed("reading a snapshot", error))?;
            if chunk.is_some() {
                self.0 = Some(writer);
            }
            Ok(chunk)
        })
    }
}

/// Fetches the snapshot that `message` announces, and hands both to Raft's thread.
pub(super) async fn fetch(later: Later, message: Message) {
    let Some(shared) = later.upgrade() else { return };
    let (peer, index) = (message.from, message.get_snapshot().get_metadata().index);
    // On a task of its own: whatever becomes of it, Raft's thread hears that it is over, and may begin another.
    let pulling = tokio::spawn(pull(shared.clone(), peer, index)).await;
    let fetched = pulling.unwrap_or_else(|error| {
        Err(ClusterError::Catalogue { act: "received", reason: error.to_string() })
    });
    let verified = match fetched {
        Ok(verified) => Some(verified),
        Err(error) => {
            tracing::warn!(%error, peer, index, "a snapshot could not be fetched; the leader offers it again");
            let patience = std::time::Duration::from_secs(1);
            let _ = shared.call(peer, rpc::SNAPSHOT_FAILED, Bytes::new(), patience).await;
            None
        }
    };
    // The only one under way: there is always room sooner or later.
    let mut input = Input::Snapshot(Box::new((message, verified)));
    while let Err(back) = shared.letterbox.offer(input) {
        let Some(back) = back else { return };
        input = back;
        tokio::time::sleep(super::drive::TICK).await;
    }
}

async fn pull(shared: Arc<Shared>, peer: RaftId, index: u64) -> Result<Verified, ClusterError> {
    let mut pull = shared.transfers.pull_snapshot(peer, index).await?;
    let catalogue: Catalogue = shared.catalogue.clone();
    let (sender, chunks) = crossbeam_channel::bounded::<Bytes>(16);
    let writing = tokio::task::spawn_blocking(move || {
        let mut reader = catalogue.receive()?;
        for chunk in chunks {
            reader.write(&chunk)?;
        }
        reader.finish()
    });
    while let Some(chunk) = pull.next_chunk().await? {
        let sender = sender.clone();
        // The writer may be waiting for the disk.
        let sent = tokio::task::spawn_blocking(move || sender.send(chunk)).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    drop(sender);
    writing
        .await
        .map_err(|error| ClusterError::Catalogue { act: "received", reason: error.to_string() })?
}
