//! Bytes that another member has: brought here once, however many ask, and served while they arrive.
//!
//! What is brought here goes as fast as the two stores can. A reader that does not keep up is let go, and goes on from this
//! node's store when all is there: it holds up neither the transfer nor whoever waits for its turn. What is only passed through
//! to a client has turns of its own, and is given up while that client takes nothing.
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::{Cluster, Shared};
use crate::catalogue::Entry;
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};
use crate::net::TransferSort;
use crate::store::{ObjectInfo, ObjectSink, StoreError};

/// Chunks between the network and whoever reads them: 64 KiB each.
const CHUNKS: usize = 16;
/// Objects fetched at a time.
const MAX_FETCHES: usize = 256;
/// Readers at a time whose bytes only pass through.
const MAX_PASSING: usize = 256;
/// A reader that takes nothing for so long is let go. It may come again.
const STALLED: Duration = Duration::from_secs(5);

/// An object on its way here.
#[derive(Debug)]
pub enum Fetched {
    /// It is arriving.
    Arriving(Arriving),
    /// Somebody else had asked for it, and it is stored here now.
    Here,
}

/// Bytes that are arriving, in order.
#[derive(Debug)]
pub struct Arriving {
    chunks: mpsc::Receiver<Result<Bytes, ClusterError>>,
    /// `None`: they only pass through.
    ended: Option<watch::Receiver<Option<Ended>>>,
}

impl Arriving {
    /// The next bytes, or why there are none. `None`: no more come this way. Before all have come, that says that the reader was
    /// too slow, or that there is no room for them here: see [`Arriving::stored`].
    pub async fn next(&mut self) -> Option<Result<Bytes, ClusterError>> {
        self.chunks.recv().await
    }

    /// As [`Arriving::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClusterError>>> {
        self.chunks.poll_recv(cx)
    }

    /// Waits until all is stored here, or is not going to be: then [`Cluster::fetch_range`] has the rest.
    pub async fn stored(&mut self) -> bool {
        match &mut self.ended {
            Some(ended) => Ended::of(ended).await == Ended::Stored,
            None => false,
        }
    }
}

/// How a fetch has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The object is here.
    Stored,
    /// There is no room for it here.
    NoRoom,
    /// It could not be had.
    Failed,
}

impl Ended {
    async fn of(watch: &mut watch::Receiver<Option<Self>>) -> Self {
        let ended = watch.wait_for(Option::is_some).await.ok().and_then(|ended| *ended);
        ended.unwrap_or(Self::Failed)
    }
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Fetches {
    here: Mutex<HashMap<ObjectId, watch::Receiver<Option<Ended>>>>,
    passing: Arc<Semaphore>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { here: Mutex::default(), passing: Arc::new(Semaphore::new(MAX_PASSING)) }
    }
}

impl Cluster {
    /// Brings an object here from the nearest member that has it. It is stored here whether or not its bytes are read.
    pub async fn fetch(&self, entry: &Arc<Entry>) -> Result<Fetched, ClusterError> {
        match self.0.begin_fetch(entry)? {
            Begun::Mine(arriving) => Ok(Fetched::Arriving(arriving)),
            Begun::Others(mut ended) => match Ended::of(&mut ended).await {
                Ended::Stored => Ok(Fetched::Here),
                Ended::NoRoom => self.fetch_range(entry, 0..entry.len).map(Fetched::Arriving),
                Ended::Failed => Err(ClusterError::Refused {
                    reason: format!(
                        "the bytes of {:?} could not be had from any member",
                        entry.key
                    ),
                }),
            },
        }
    }

    /// Fetches a part of an object for a client. It is not stored here.
    pub fn fetch_range(
        &self,
        entry: &Arc<Entry>,
        range: Range<u64>,
    ) -> Result<Arriving, ClusterError> {
        let turn = self.0.fetches.passing.clone().try_acquire_owned();
        let turn = turn.map_err(|_| ClusterError::Busy { what: "the queue of readers" })?;
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let passage = Passage { shared: self.0.clone(), entry: entry.clone(), range, sender };
        self.0.runtime.spawn(passage.run(turn));
        Ok(Arriving { chunks, ended: None })
    }
}

enum Begun {
    Mine(Arriving),
    Others(watch::Receiver<Option<Ended>>),
}

impl Shared {
    /// Begins to bring an object here, unless that is under way.
    fn begin_fetch(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<Begun, ClusterError> {
        let (ended, watch) = watch::channel(None);
        {
            let mut under_way = self.fetches.here.lock();
            if let Some(watch) = under_way.get(&entry.object) {
                return Ok(Begun::Others(watch.clone()));
            }
            if under_way.len() >= MAX_FETCHES {
                return Err(ClusterError::Busy { what: "the queue of objects being fetched" });
            }
            under_way.insert(entry.object, watch.clone());
        }
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let under_way =
            UnderWay { shared: self.clone(), entry: entry.clone(), ended, how: Ended::Failed };
        self.runtime.spawn(Fetch { under_way, reader: Some(sender) }.run());
        Ok(Begun::Mine(Arriving { chunks, ended: Some(watch) }))
    }

    /// Brings an object here that nobody reads; answers when it is here, or is not going to be.
    pub(super) async fn fetch_unread(self: &Arc<Self>, entry: &Arc<Entry>) -> bool {
        match self.begin_fetch(entry) {
            Ok(Begun::Mine(mut arriving)) => arriving.stored().await,
            Ok(Begun::Others(mut ended)) => Ended::of(&mut ended).await == Ended::Stored,
            Err(_) => false,
        }
    }
}

/// A fetch in the list of those under way. However it ends, it leaves the list, and those who wait for it hear of it.
struct UnderWay {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    ended: watch::Sender<Option<Ended>>,
    how: Ended,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.fetches.here.lock().remove(&self.entry.object);
        self.ended.send_replace(Some(self.how));
    }
}

struct Fetch {
    under_way: UnderWay,
    /// `None`: it was too slow, or has gone. The object is still worth having.
    reader: Option<mpsc::Sender<Result<Bytes, ClusterError>>>,
}

impl Fetch {
    async fn run(mut self) {
        let brought = self.bring().await;
        let UnderWay { shared, entry, how, .. } = &mut self.under_way;
        match brought {
            Ok(()) => {
                *how = Ended::Stored;
                shared.holdings.gained(shared.id, entry.object);
                // Removed while it was on its way.
                shared.forget_unless_known(vec![entry.object]).await;
            }
            Err(NotBrought::NoRoom) => *how = Ended::NoRoom,
            Err(NotBrought::Failed(error)) => {
                tracing::debug!(key = %entry.key, %error, "an object could not be fetched");
                // A reader that is behind tries for itself.
                if let Some(reader) = &self.reader {
                    let _ = reader.try_send(Err(error));
                }
            }
        }
    }

    async fn bring(&mut self) -> Result<(), NotBrought> {
        let UnderWay { shared, entry, .. } = &self.under_way;
        let (shared, entry) = (shared.clone(), entry.clone());
        let sink = shared.store.create(entry.object, &ObjectInfo::from(&*entry)).await;
        let mut sink = sink.map_err(no_room)?;
        let mut offset = 0;
        let mut failure = nobody();
        for peer in shared.holders(&entry) {
            match self.bring_from(peer, &mut offset, &mut sink).await {
                Ok(()) => {
                    let kept = sink.finish(Some(entry.digest)).await;
                    return kept.map(drop).map_err(no_room);
                }
                // The next one goes on where this one stopped.
                Err(NotBrought::Failed(error)) => failure = error,
                Err(no_room) => return Err(no_room),
            }
        }
        Err(NotBrought::Failed(failure))
    }

    async fn bring_from(
        &mut self,
        peer: RaftId,
        offset: &mut u64,
        sink: &mut Box<dyn ObjectSink>,
    ) -> Result<(), NotBrought> {
        let UnderWay { shared, entry, .. } = &self.under_way;
        let (object, from) = (entry.object, (*offset, None));
        let mut pull = shared.transfers.pull(peer, object, from, TransferSort::Store).await?;
        while let Some(chunk) = pull.next_chunk().await? {
            *offset += chunk.len() as u64;
            sink.write(chunk.clone()).await.map_err(no_room)?;
            if let Some(reader) = &self.reader
                && reader.try_send(Ok(chunk)).is_err()
            {
                self.reader = None;
            }
        }
        Ok(all_came(peer, *offset, entry.len)?)
    }
}

/// Why an object is not here.
enum NotBrought {
    /// This node's store did not take it.
    NoRoom,
    Failed(ClusterError),
}

impl From<ClusterError> for NotBrought {
    fn from(error: ClusterError) -> Self {
        Self::Failed(error)
    }
}

fn no_room(error: StoreError) -> NotBrought {
    match error {
        StoreError::Digest => NotBrought::Failed(error.into()),
        error => {
            tracing::debug!(%error, "a fetched object is not stored here");
            NotBrought::NoRoom
        }
    }
}

/// Bytes that go through this node to a client.
struct Passage {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    range: Range<u64>,
    sender: mpsc::Sender<Result<Bytes, ClusterError>>,
}

impl Passage {
    async fn run(mut self, _turn: OwnedSemaphorePermit) {
        let mut failure = nobody();
        for peer in self.shared.holders(&self.entry) {
            match self.pass_from(peer).await {
                Ok(()) => return,
                Err(error) => failure = error,
            }
        }
        let _ = timeout(STALLED, self.sender.send(Err(failure))).await;
    }

    /// Passes on what is left of the range, as long as the client takes it.
    async fn pass_from(&mut self, peer: RaftId) -> Result<(), ClusterError> {
        let rest = (self.range.start, Some(self.range.end - self.range.start));
        let pulled = self.shared.transfers.pull(peer, self.entry.object, rest, TransferSort::Read);
        let mut pull = pulled.await?;
        while let Some(chunk) = pull.next_chunk().await? {
            self.range.start += chunk.len() as u64;
            if !matches!(timeout(STALLED, self.sender.send(Ok(chunk))).await, Ok(Ok(()))) {
                return Ok(());
            }
        }
        all_came(peer, self.range.start, self.range.end)
    }
}

fn nobody() -> ClusterError {
    ClusterError::Refused { reason: "no member holds the bytes".to_owned() }
}

fn all_came(peer: RaftId, found: u64, len: u64) -> Result<(), ClusterError> {
    if found == len {
        return Ok(());
    }
    let reason = format!("it sent {found} of {len} bytes");
    Err(ClusterError::Unreachable { peer, reason })
}
