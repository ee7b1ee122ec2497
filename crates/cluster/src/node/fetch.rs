//! Bytes that another member has: brought here once, however many ask, and served while they arrive.
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{Cluster, Shared};
use crate::catalogue::Entry;
use crate::error::ClusterError;
use crate::ids::ObjectId;
use crate::store::{ObjectInfo, ObjectSink, StoreError};

/// Chunks between the network and whoever reads them: 64 KiB each.
const CHUNKS: usize = 16;
/// Objects fetched at a time.
const MAX_FETCHES: usize = 256;

/// An object on its way here.
#[derive(Debug)]
pub enum Fetched {
    /// It is arriving: its bytes from the first on, in order. The last message is the end (`None`) or an error. It is
    /// stored here whether or not they are read.
    Arriving(mpsc::Receiver<Result<Bytes, ClusterError>>),
    /// Somebody else had asked for it, and it is stored here now.
    Here,
}

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Fetches(Mutex<HashMap<ObjectId, watch::Receiver<Option<bool>>>>);

impl Cluster {
    /// Brings an object here from the nearest member that has it.
    pub async fn fetch(&self, entry: &Arc<Entry>) -> Result<Fetched, ClusterError> {
        let under_way = {
            let mut fetches = self.0.fetches.0.lock();
            match fetches.get(&entry.object) {
                Some(watch) => Ok(watch.clone()),
                None if fetches.len() >= MAX_FETCHES => {
                    return Err(ClusterError::Busy { what: "the queue of objects being fetched" });
                }
                None => {
                    let (done, watch) = watch::channel(None);
                    fetches.insert(entry.object, watch);
                    Err(done)
                }
            }
        };
        match under_way {
            Ok(mut watch) => match watch.wait_for(Option::is_some).await.map(|done| *done) {
                Ok(Some(true)) => Ok(Fetched::Here),
                _ => Err(ClusterError::Refused {
                    reason: format!(
                        "the bytes of {:?} could not be had from any member",
                        entry.key
                    ),
                }),
            },
            Err(done) => {
                let (chunks, arriving) = mpsc::channel(CHUNKS);
                let fetch =
                    Fetch { shared: self.0.clone(), entry: entry.clone(), chunks: Some(chunks) };
                tokio::spawn(fetch.run(done));
                Ok(Fetched::Arriving(arriving))
            }
        }
    }
}

struct Fetch {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    chunks: Option<mpsc::Sender<Result<Bytes, ClusterError>>>,
}

impl Fetch {
    async fn run(mut self, done: watch::Sender<Option<bool>>) {
        let result = self.bring().await;
        let stored = result.is_ok();
        if stored {
            self.shared.holdings.gained(self.shared.id, self.entry.object);
            // Removed while it was on its way.
            self.shared.forget_unless_known(vec![self.entry.object]).await;
        }
        self.shared.fetches.0.lock().remove(&self.entry.object);
        done.send_replace(Some(stored));
        if let (Err(error), Some(chunks)) = (result, self.chunks.take()) {
            tracing::debug!(key = %self.entry.key, %error, "an object could not be fetched");
            let _ = chunks.send(Err(error)).await;
        }
    }

    async fn bring(&mut self) -> Result<(), ClusterError> {
        let info = info(&self.entry);
        // Without room here the bytes still pass through to whoever asked.
        let mut sink = self.shared.store.create(self.entry.object, &info).await.ok();
        let mut offset = 0;
        let mut failure = ClusterError::Refused { reason: "no member holds the bytes".to_owned() };
        for peer in self.shared.holders(&self.entry) {
            match self.bring_from(peer, &mut offset, &mut sink).await {
                Ok(()) => {
                    let Some(sink) = sink else {
                        return Err(StoreError::Full { len: Some(self.entry.len) }.into());
                    };
                    sink.finish(Some(self.entry.digest)).await?;
                    return Ok(());
                }
                // The next one goes on where this one stopped.
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn bring_from(
        &mut self,
        peer: u64,
        offset: &mut u64,
        sink: &mut Option<Box<dyn ObjectSink>>,
    ) -> Result<(), ClusterError> {
        let mut pull = self.shared.transfers.pull(peer, self.entry.object, *offset).await?;
        while let Some(chunk) = pull.next_chunk().await? {
            *offset += chunk.len() as u64;
            if let Some(open) = sink
                && open.write(chunk.clone()).await.is_err()
            {
                *sink = None;
            }
            if let Some(chunks) = &self.chunks
                && chunks.send(Ok(chunk)).await.is_err()
            {
                // Whoever asked has gone; the object is still worth having.
                self.chunks = None;
            }
        }
        if *offset == self.entry.len {
            return Ok(());
        }
        let reason = format!("it sent {offset} of {} bytes", self.entry.len);
        Err(ClusterError::Unreachable { peer, reason })
    }
}

fn info(entry: &Entry) -> ObjectInfo {
    ObjectInfo {
        key: entry.key.to_string(),
        len: Some(entry.len),
        digest: Some(entry.digest),
        content_type: entry.content_type.to_string(),
        content_encoding: entry.content_encoding.to_string(),
        tags: entry.tags.iter().map(ToString::to_string).collect(),
        expires_ms: entry.expires_ms,
        last_modified_ms: entry.last_modified_ms,
    }
}
